"""A client of constant rate: `python -m bench.pace PORT RATE SECONDS [PATH]`. Prints one JSON line.

Requests are due at fixed instants, whatever became of those before. A latency is counted from when its request was due,
not from when a connection was free to send it, so that a stall is felt by every request that it held up (no coordinated
omission).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque

import uvloop

from bench.wire import Messages, raise_descriptor_limit

CONNECTIONS = 64
TICK = 0.0005
PATIENCE = 20.0
"""Seconds after the last request was due in which its answer must have come."""


class Paced(Messages):
    """One connection; takes what is due next when it is free."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self._due = 0.0

    def take(self, due: float) -> None:
        self._due = due
        self.transport.write(self.run.request)

    def on_head(self, head: bytes, length: int) -> None:  # noqa: ARG002  # the interface's
        self.run.wrong += not head.startswith(b"HTTP/1.1 200")

    def on_end(self) -> None:
        self.run.answered(self, time.perf_counter() - self._due)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  # the interface's
        self.run.lost += not self.run.over.is_set()


class Run:
    """What is due, who is free, and how long each one took."""

    def __init__(self, rate: float, seconds: float, path: str) -> None:
        self.request = f"GET {path} HTTP/1.1\r\nHost: origin.test\r\nUser-Agent: bench\r\n\r\n".encode()
        self.rate = rate
        self.count = int(rate * seconds)
        self.latencies: list[tuple[float, float]] = []
        """(seconds into the run at which it was due, seconds that it took)."""
        self.waiting: deque[float] = deque()
        self.free: list[Paced] = []
        self.wrong = 0
        self.lost = 0
        self.over = asyncio.Event()
        self.began = 0.0

    def answered(self, client: Paced, seconds: float) -> None:
        self.latencies.append((client._due - self.began, seconds))
        if self.waiting:
            client.take(self.waiting.popleft())
        else:
            self.free.append(client)
        if len(self.latencies) == self.count:
            self.over.set()

    async def send_all(self) -> None:
        self.began = time.perf_counter()
        sent = 0
        while sent < self.count:
            now = time.perf_counter()
            while sent < self.count and (due := self.began + sent / self.rate) <= now:
                sent += 1
                if self.free:
                    self.free.pop().take(due)
                else:
                    self.waiting.append(due)
            await asyncio.sleep(TICK)
        async with asyncio.timeout(PATIENCE):
            await self.over.wait()


async def measure(port: int, rate: float, seconds: float, path: str) -> dict[str, object]:
    raise_descriptor_limit()
    run = Run(rate, seconds, path)
    loop = asyncio.get_running_loop()
    made = await asyncio.gather(*(loop.create_connection(lambda: Paced(run), "127.0.0.1", port) for _ in range(CONNECTIONS)))
    run.free = [client for _, client in made]
    await run.send_all()
    for _, client in made:
        client.transport.abort()
    took = sorted(seconds for _, seconds in run.latencies)
    ranks = {f"p{rank:g}_ms": 1000 * took[min(int(len(took) * rank / 100), len(took) - 1)] for rank in (50, 99, 99.9, 100)}
    worst = [0.0] * (int(seconds * 10) + 1)
    for due, one in run.latencies:
        worst[min(int(due * 10), len(worst) - 1)] = max(worst[min(int(due * 10), len(worst) - 1)], 1000 * one)
    return {"requests": len(took), "wrong": run.wrong, "failed": run.lost, **ranks, "worst_ms_by_tenth": worst}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), (*sys.argv[4:], "/bytes/1024")[0]))))
