"""What goes past a transport (splice, relay) is for its own peer: a descriptor is not given to another before its connection is told that it is lost."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

import pytest
import uvloop


class Told(asyncio.Protocol):
    """Looks what its descriptor is when it is made and when it is lost."""

    def __init__(self) -> None:
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.descriptor = transport.get_extra_info("socket").fileno()
        self.was = self._is()

    def connection_lost(self, error: Exception | None) -> None:
        self.over.set_result((self._is(), error))

    def _is(self) -> str:
        return os.readlink(f"/proc/self/fd/{self.descriptor}")


@pytest.mark.parametrize("end", ["reset", "closed by its peer", "abort", "close", "broken pipe"])
def test_a_descriptor_is_its_connections_until_that_is_told_that_it_is_lost(end: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[Told] = []
        server = await loop.create_server(lambda: made.append(Told()) or made[-1], "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()[:2]) as peer:
            while not made or not hasattr(made[0], "transport"):
                await asyncio.sleep(0.01)
            told = made[0]
            if end in ("reset", "broken pipe"):
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if end in ("reset", "closed by its peer", "broken pipe"):
                if end == "broken pipe":
                    told.transport.pause_reading()  # type: ignore[attr-defined]  # a TCP transport
                peer.close()
            if end == "abort":
                told.transport.abort()  # type: ignore[attr-defined]  # a TCP transport
            elif end == "close":
                told.transport.close()
            while end == "broken pipe" and not told.over.done():
                told.transport.write(b"x")  # type: ignore[attr-defined]  # a TCP transport
                await asyncio.sleep(0.01)
            async with asyncio.timeout(20):
                found, error = await told.over
            assert found == told.was
            assert (error is not None) == (end in ("reset", "broken pipe"))
        server.close()
        await server.wait_closed()

    uvloop.run(main())
