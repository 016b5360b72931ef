"""The load generator: `python -m bench.load PORT SCENARIO_JSON` sends, checks every answer, prints one JSON line.

Closed loop: each connection sends its next request when the answer is complete. It ends after `seconds` or `requests`,
whichever is first. With `hold` it then keeps its idle connections until a line comes on standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass

import uvloop

from bench.wire import Messages, raise_descriptor_limit

KEPT_LATENCIES = 500_000
CONNECT_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Scenario:
    """What one run of the generator does."""

    path: str
    connections: int = 32
    seconds: float = 3.0
    requests: int = 0
    """In all; 0: as many as fit."""
    upload: int = 0
    """Bytes of each request's body."""
    download: int = 2
    """Bytes that each answer must have."""
    each: int = 0
    """Requests of one connection; 0: as many as fit."""
    at_once: int = 0
    """Connections that are busy at a time; 0: all. The next begins when one has done its `each`."""
    slow_reader: bool = False
    hold: bool = False
    fresh: bool = False
    """A new connection for each request."""


class Run:
    """The state that a run's connections share."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        method = "POST" if scenario.upload else "GET"
        length = f"Content-Length: {scenario.upload}\r\n" if scenario.upload else ""
        close = "Connection: close\r\n" if scenario.fresh else ""
        self.head = f"{method} {scenario.path} HTTP/1.1\r\nHost: origin.test\r\nUser-Agent: bench\r\n{length}{close}\r\n".encode()
        self.port = 0
        self.renewing: set[asyncio.Task[None]] = set()
        self.started = 0
        self.done = 0
        self.wrong = 0
        self.failed = 0
        self.latencies: list[float] = []
        self.waiting: list[Client] = []
        self.busy = 0
        self.over = asyncio.Event()
        self.deadline = 0.0

    def may_start(self) -> bool:
        bounded = self.scenario.requests
        return time.perf_counter() < self.deadline and (not bounded or self.started < bounded)

    def idle(self) -> None:
        self.busy -= 1
        if self.waiting and self.may_start():
            self.waiting.pop().begin()
        if not self.busy:
            self.over.set()


class Client(Messages):
    """One connection of the generator."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.slow = run.scenario.slow_reader
        self._sent_at = 0.0
        self._sent = 0
        self._working = False

    def begin(self) -> None:
        self._working = True
        self.run.busy += 1
        self._next()

    def _next(self) -> None:
        run = self.run
        if not run.may_start() or 0 < run.scenario.each <= self._sent:
            self._working = False
            run.idle()
            return
        run.started += 1
        self._sent += 1
        self._sent_at = time.perf_counter()
        if run.scenario.upload <= 65_536:
            self.transport.write(run.head + b"x" * run.scenario.upload)
        else:
            self.transport.write(run.head)
            self.send_body(run.scenario.upload)

    def on_head(self, head: bytes, length: int) -> None:
        if not head.startswith(b"HTTP/1.1 200") or length != self.run.scenario.download:
            self.run.wrong += 1

    def on_end(self) -> None:
        run = self.run
        run.done += 1
        if len(run.latencies) < KEPT_LATENCIES:
            run.latencies.append(time.perf_counter() - self._sent_at)
        if run.scenario.fresh:
            self._working = False
            self.transport.close()
            task = asyncio.get_running_loop().create_task(self._renew())
            run.renewing.add(task)
            task.add_done_callback(run.renewing.discard)
        else:
            self._next()

    async def _renew(self) -> None:
        """Go on with another connection; what it takes to open it counts."""
        run = self.run
        began = time.perf_counter()
        try:
            _, client = await asyncio.get_running_loop().create_connection(lambda: Client(run), "127.0.0.1", run.port)
        except OSError:
            run.failed += 1
            run.idle()
            return
        run.busy -= 1
        client.begin()
        client._sent_at = began

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  # the interface's
        if self._working:
            self._working = False
            self.run.failed += 1
            self.run.idle()


async def connect(port: int, run: Run) -> list[Client]:
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    while len(clients) < run.scenario.connections:
        wanted = min(CONNECT_AT_ONCE, run.scenario.connections - len(clients))
        made = await asyncio.gather(*(loop.create_connection(lambda: Client(run), "127.0.0.1", port) for _ in range(wanted)))
        clients += [client for _, client in made]
    return clients


async def measure(port: int, scenario: Scenario) -> dict[str, float]:
    raise_descriptor_limit()
    run = Run(scenario)
    run.port = port
    clients = await asyncio.wait_for(connect(port, run), 60)
    began = time.perf_counter()
    run.deadline = began + scenario.seconds
    run.waiting = clients[:]
    for _ in range(scenario.at_once or len(clients)):
        run.waiting.pop().begin()
    await asyncio.wait_for(run.over.wait(), scenario.seconds + 120)
    took = time.perf_counter() - began
    run.failed += max(0, scenario.each * len(clients) - run.done)
    if scenario.hold and not run.failed:
        print("holding", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    for client in clients:
        client.transport.abort()
    run.latencies.sort()
    ranks = {f"p{rank}_ms": 1000 * run.latencies[int(len(run.latencies) * rank / 100)] for rank in (50, 99)} if run.latencies else {}
    return {"requests": run.done, "wrong": run.wrong, "failed": run.failed, "seconds": took, **ranks}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(int(sys.argv[1]), Scenario(**json.loads(sys.argv[2]))))))
