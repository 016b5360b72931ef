"""`python -m bench.dead_collector`: what a collector that never answers costs requests: 1,000 of them a second, for a minute.

Three sidecars serve in turn: without tracing, with a collector that answers, with one that takes connections and says no
word. Every request is sampled. Prints latencies, CPU and memory of each, and what was dropped; in less than three
minutes, and what there is so far when it is interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from bench import peers
from bench.machine import cpu_seconds, rss_bytes
from bench.peers import Peer, Running
from bench.wire import Messages

RATE = 1000
"""Requests per second, whether or not they are answered in time."""
CONNECTIONS = 64
ROUNDS = 4
WARM_UP = 1.0
SECONDS = {"tracing off": 8.0, "collector answers": 15.0, "collector silent": 15.0}
"""Of one round of each."""
LIMIT = 170.0
"""No round begins that would end later."""
REQUEST = b"GET /bytes/1024 HTTP/1.1\r\nHost: origin.test\r\nUser-Agent: bench\r\n\r\n"
MIB = 1024 * 1024


class Client(Messages):
    """One connection; `free` are those that wait for work."""

    def __init__(self, free: list[Client], latencies: list[float]) -> None:
        super().__init__()
        self._free = free
        self._latencies = latencies
        self._sent_at = 0.0
        self.failed = False

    def ask(self) -> None:
        self._sent_at = time.perf_counter()
        self.transport.write(REQUEST)

    def on_head(self, head: bytes, length: int) -> None:  # noqa: ARG002  # the interface's
        self.failed = self.failed or not head.startswith(b"HTTP/1.1 200")

    def on_end(self) -> None:
        self._latencies.append(time.perf_counter() - self._sent_at)
        self._free.append(self)


@dataclass
class Figures:
    """What the rounds of one sidecar gave."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)
    requests: int = 0
    held: int = 0
    """Requests that were sent late, because all connections were busy."""


async def pace(port: int, seconds: float) -> tuple[list[float], int]:
    """Send at RATE; seconds from each request to the end of its answer, and how many were sent late."""
    loop = asyncio.get_running_loop()
    free: list[Client] = []
    latencies: list[float] = []
    pairs = [await loop.create_connection(lambda: Client(free, latencies), "127.0.0.1", port) for _ in range(CONNECTIONS)]
    clients = [client for _, client in pairs]
    free.extend(clients)
    held, began = 0, loop.time()
    for number in range(int(seconds * RATE)):
        if (early := began + number / RATE - loop.time()) > 0:
            await asyncio.sleep(early)
        held += not free
        await until(lambda: bool(free))
        free.pop().ask()
    await until(lambda: len(free) == CONNECTIONS)
    for client in clients:
        client.transport.abort()
    if any(client.failed for client in clients):
        raise RuntimeError("an answer was not 200")
    return latencies, held


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - an event for each request would cost more than it tells
            await asyncio.sleep(0.001)


def one_round(running: Running, seconds: float, figures: Figures) -> None:
    """Measure; the first second does not count."""
    uvloop.run(pace(running.port, WARM_UP))
    before = cpu_seconds(running.pid)
    latencies, held = uvloop.run(pace(running.port, seconds))
    figures.cpu.append((cpu_seconds(running.pid) - before) / len(latencies) * 1e6)
    ranked = sorted(latencies)
    figures.p50.append(ranked[len(ranked) // 2] * 1000)
    figures.p99.append(ranked[int(len(ranked) * 0.99)] * 1000)
    figures.rss.append(rss_bytes(running.pid) / MIB)
    figures.requests += len(latencies) + int(WARM_UP * RATE)
    figures.held += held


def sidecar(status: int, traces: str) -> Peer:
    """Ours, with all of its defaults; `traces` is where spans go, "" for nowhere."""
    variables = [f"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT={traces}", "OTEL_TRACES_SAMPLER=always_on"] if traces else []
    flags = ["--config=@CONFIG@", "--state-dir=off", "--log-format=json", f"--status-address=127.0.0.1:{status}", "--admin-address=off"]
    return Peer("outrider", "", "outrider.yaml", ("env", *variables, sys.executable, "-m", "sidecar", "run", *flags))


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """Connections come about in the kernel; nobody accepts them."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as hole:
        yield f"http://127.0.0.1:{hole.getsockname()[1]}/v1/traces"


def dropped(status: int) -> str:
    """`why=count`, for each reason."""
    with urllib.request.urlopen(f"http://127.0.0.1:{status}/metrics", timeout=10) as page:
        found = re.findall(r'^outrider_spans_dropped_total\{why="(\w+)"\} (\d+)', page.read().decode(), re.MULTILINE)
    return ", ".join(f"{count} {why}" for why, count in found if count != "0") or "none"


def row(name: str, each: list[float], digits: int = 2) -> str:
    return f"  {name:18} {statistics.median(each):8.{digits}f}   each round: " + " ".join(f"{one:.{digits}f}" for one in each)


def show(all_figures: dict[str, Figures], lost: dict[str, str], began: float) -> None:
    """The summary, of the rounds that there have been."""
    print(
        f"\n{RATE} requests per second, every one sampled; {time.monotonic() - began:.0f} s in all; load average {os.getloadavg()[0]:.1f}"
    )
    for name, figures in all_figures.items():
        if not figures.p99:
            continue
        print(f"{name}: {figures.requests} requests, {figures.held} sent late, spans dropped: {lost.get(name, '?')}")
        for what, each in (("p50 ms", figures.p50), ("p99 ms", figures.p99), ("CPU us/request", figures.cpu), ("memory MiB", figures.rss)):
            print(row(what, each))
    answers, silent = (all_figures[name].p99 for name in ("collector answers", "collector silent"))
    if silent:
        print(row("p99, silent : answering", [one / other for one, other in zip(silent, answers, strict=False)]))


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    figures = {name: Figures() for name in SECONDS}
    lost: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outrider-bench-")))
        origin, collector = stack.enter_context(peers.origin()), stack.enter_context(peers.origin())
        traces = ("", f"http://127.0.0.1:{collector}/sink", stack.enter_context(black_hole()))
        status = {name: peers.free_port() for name in SECONDS}
        running = {
            name: stack.enter_context(peers.started(sidecar(status[name], to), origin, folder))
            for name, to in zip(SECONDS, traces, strict=True)
        }
        try:
            for number in range(ROUNDS):
                for name in list(SECONDS)[number % 3 :] + list(SECONDS)[: number % 3]:
                    if time.monotonic() - began + SECONDS[name] + WARM_UP < LIMIT:
                        one_round(running[name], SECONDS[name], figures[name])
                        print(f"round {number + 1}, {name}: p99 {figures[name].p99[-1]:.2f} ms", flush=True)
        except KeyboardInterrupt:
            print("interrupted")
        finally:
            with contextlib.suppress(OSError):
                lost.update({name: dropped(port) for name, port in status.items()})
            show(figures, lost, began)


if __name__ == "__main__":
    main()
