"""The upstream behind every proxy: `python -m bench.origin PORT`.

`/bytes/N` answers with N bytes, `/sink` swallows a body, `/slow-sink` does so slowly, and answers with 2 bytes;
`/never` does not answer. `/ws` upgrades and sends back what comes: no proxy here looks into the frames, so they are not unmasked.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import uvloop

from bench.wire import Messages, raise_descriptor_limit

SMALL = 65_536
UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"  # of the key that the generator always sends
)


class Origin(Messages):
    """One connection. Answers when the whole request has come."""

    def __init__(self) -> None:
        super().__init__()
        self._path = b""
        self._echoing = False

    def buffer_updated(self, count: int) -> None:
        if self._echoing:
            self.transport.write(bytes(self._view[:count]))
        else:
            super().buffer_updated(count)

    def on_head(self, head: bytes, length: int) -> None:
        if b"\r\ntransfer-encoding:" in head.lower():
            raise ValueError("the load generator sends Content-Length: a proxy changed the framing")
        self._path = head.split(b" ", 2)[1]
        self.slow = self._path == b"/slow-sink" and length > 0

    def on_end(self) -> None:
        if self._path == b"/ws":
            self._echoing = True
            self.transport.write(UPGRADED)
        if self._path in (b"/ws", b"/never"):
            return
        size = int(self._path[7:]) if self._path.startswith(b"/bytes/") else 2
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % size
        self.slow = False
        if size <= SMALL:
            self.transport.write(head + b"x" * size)
            return
        self.transport.write(head)
        self.send_body(size)


async def serve(port: int) -> None:
    raise_descriptor_limit()
    server = await asyncio.get_running_loop().create_server(Origin, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(int(sys.argv[1])))
