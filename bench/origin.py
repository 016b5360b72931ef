"""The upstream behind every proxy: `python -m bench.origin PORT`.

`/bytes/N` answers with N bytes, `/sink` swallows a body, `/slow-sink` does so slowly, and answers with 2 bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import uvloop

from bench.wire import Messages, raise_descriptor_limit

SMALL = 65_536


class Origin(Messages):
    """One connection. Answers when the whole request has come."""

    def __init__(self) -> None:
        super().__init__()
        self._path = b""

    def on_head(self, head: bytes, length: int) -> None:
        if b"\r\ntransfer-encoding:" in head.lower():
            raise ValueError("the load generator sends Content-Length: a proxy changed the framing")
        self._path = head.split(b" ", 2)[1]
        self.slow = self._path == b"/slow-sink" and length > 0

    def on_end(self) -> None:
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
