"""Crowds of clients that behave badly: `python -m bench.crowds KIND PORT COUNT SECONDS [ADDRESS]`.

Loopback only, bounded in number and time; they come from ADDRESS. When all are there it prints `up` and a JSON object: how many
have connected, how many the proxy has ended, and the statuses that it answered. After SECONDS the object again, in a line of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import sys
from collections import Counter

import uvloop

from bench.wire import raise_descriptor_limit

AT_ONCE = 64
TRICKLE_SECONDS = 0.5
SETTLE_SECONDS = 5.0
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
GET = b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n"
MIB = 1024 * 1024
IP_BIND_ADDRESS_NO_PORT = 24

FIRST_WORDS: dict[str, bytes] = {
    "idle": GET % (b"/bytes/2", b""),
    "slow_heads": b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"y" * 4096,
    "slow_bodies": b"POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 4096,
    "slow_readers": GET % (b"/bytes/%d" % (64 * MIB), b""),
    "huge_heads": GET % (b"/bytes/2", b"".join(b"x-%d: %b\r\n" % (number, b"y" * 250) for number in range(90))),
    "pipelined": GET % (b"/bytes/2000", b"") * 1000,
    "never": GET % (b"/never", b""),
    "early": GET % (b"/early", b""),
    "churn": GET % (b"/bytes/2", b"Connection: close\r\n"),
}
TRICKLES = {"slow_heads": b"y", "slow_bodies": b"x"}
READS_NOTHING = {"slow_readers", "pipelined"}
KINDS = tuple(FIRST_WORDS)


class Crowd:
    """All connections of one kind."""

    def __init__(self, kind: str, port: int, count: int, source: str) -> None:
        self.kind = kind
        self.port = port
        self.source = source
        self.opened = 0
        self.ended = 0
        self.statuses: Counter[str] = Counter()
        self.there = asyncio.Event()
        """Everybody has connected, or has failed to."""
        self.over = False
        self._left = count

    async def one(self, turn: asyncio.Semaphore) -> None:
        """One client, until the proxy ends it or it is cancelled."""
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setblocking(False)
            if self.source:
                sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)  # the port is chosen when the peer is known
                sock.bind((self.source, 0))
            if self.kind in READS_NOTHING:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            try:
                async with turn:
                    await asyncio.wait_for(loop.sock_connect(sock, ("127.0.0.1", self.port)), 20)
                    self.opened += 1
                    self._arrived()
                    if self.kind not in READS_NOTHING:
                        await loop.sock_sendall(sock, FIRST_WORDS[self.kind])
                if self.kind in READS_NOTHING:
                    await loop.sock_sendall(sock, FIRST_WORDS[self.kind])
                    await asyncio.sleep(3600)
                await self._go_on(sock)
            except (OSError, TimeoutError):
                pass
            self.ended += 1
            self._arrived()

    def said(self) -> str:
        """What has become of it so far."""
        return json.dumps({"opened": self.opened, "ended": self.ended, "statuses": dict(self.statuses)})

    def _arrived(self) -> None:
        self._left -= 1
        if self._left <= 0:
            self.there.set()

    async def _go_on(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reading = asyncio.ensure_future(self._read(sock))
        try:
            while not reading.done():
                if self.kind in TRICKLES:
                    await loop.sock_sendall(sock, TRICKLES[self.kind])
                await asyncio.wait([reading], timeout=TRICKLE_SECONDS if self.kind in TRICKLES else None)
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await reading

    async def _read(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(sock, 65536):
            for status in STATUS.findall(data):
                self.statuses[status.decode()] += 1
            if self.kind == "huge_heads":
                await loop.sock_sendall(sock, FIRST_WORDS[self.kind])


async def main(kind: str, port: int, count: int, seconds: float, source: str = "") -> None:
    """Bring the crowd up, hold it, say what became of it."""
    raise_descriptor_limit()
    crowd, turn = Crowd(kind, port, count, source), asyncio.Semaphore(AT_ONCE)

    async def again() -> None:
        while not crowd.over:  # a cancellation that meets the end of a wait_for is lost (Python 3.11)
            await crowd.one(turn)

    tasks = [asyncio.ensure_future(again() if kind == "churn" else crowd.one(turn)) for _ in range(count)]
    async with asyncio.timeout(120):
        await crowd.there.wait()
    if kind == "idle":
        await asyncio.sleep(SETTLE_SECONDS)  # all have their answer, and what the proxy does about too many it has done
    print(f"up {crowd.said()}", flush=True)
    await asyncio.sleep(seconds)
    crowd.over = True
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(crowd.said(), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), *sys.argv[5:]))
