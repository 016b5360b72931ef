"""An upstream that answers before it is asked, once per connection, and then swallows: `python -m bench.early_origin PORT`."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import uvloop

from bench.wire import raise_descriptor_limit

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly"


class Early(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Speak first."""
        transport.write(ANSWER)  # type: ignore[attr-defined]  # uvloop's transports are none by name


async def serve(port: int) -> None:
    """Until cancelled."""
    raise_descriptor_limit()
    server = await asyncio.get_running_loop().create_server(Early, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(int(sys.argv[1])))
