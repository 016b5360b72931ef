"""Messages through a tunnel: `python -m bench.websocket PORT CONNECTIONS SECONDS BYTES`. Prints one JSON line.

Each connection upgrades, sends a message of BYTES, and the next one when it has come back.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import cast

import uvloop

ASK = (
    b"GET /ws HTTP/1.1\r\nHost: origin.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Tunnel(asyncio.Protocol):
    """One connection."""

    def __init__(self, message: bytes, deadline: float) -> None:
        self.message = message
        self.deadline = deadline
        self.count = 0
        self.failed = False
        self.over = asyncio.Event()
        self._come = b""
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(ASK)

    def data_received(self, data: bytes) -> None:
        self._come += data
        if not self._open:
            head, end, self._come = self._come.partition(b"\r\n\r\n")
            if not end:
                self._come = head
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.failed = True
                self.over.set()
                return
            self._open = True
            self.transport.write(self.message)
        elif len(self._come) >= len(self.message):
            self.failed = self.failed or self._come != self.message
            self._come = b""
            self.count += 1
            if time.perf_counter() < self.deadline:
                self.transport.write(self.message)
            else:
                self.over.set()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  # the interface's
        self.failed = self.failed or not self.over.is_set()
        self.over.set()


async def measure(port: int, connections: int, seconds: float, size: int) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    message = bytes(range(256)) * (size // 256 + 1)
    made = await asyncio.gather(
        *(loop.create_connection(lambda: Tunnel(message[:size], began + seconds), "127.0.0.1", port) for _ in range(connections))
    )
    tunnels = [tunnel for _, tunnel in made]
    async with asyncio.timeout(seconds + 30):
        await asyncio.gather(*(tunnel.over.wait() for tunnel in tunnels))
    for tunnel in tunnels:
        tunnel.transport.abort()
    took = time.perf_counter() - began
    return {
        "requests": sum(tunnel.count for tunnel in tunnels),
        "wrong": 0,
        "failed": sum(tunnel.failed for tunnel in tunnels),
        "seconds": took,
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))))
