"""`python -m bench.telemetry`: what watching a request costs, on and off in the same run, and what a scrape of 1,000 routes does.

Microseconds of one exchange with one attempt on the event loop; the least of many short rounds, because a busy machine
can only make them longer. What it costs a whole process, with its export thread: `python -m bench.dead_collector`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import uvloop

from bench.tracing import exchange, least, tracer
from sidecar.model.exchange import Exchange
from sidecar.model.snapshot import Route, Snapshot
from sidecar.model.telemetry import AccessLog as LogSettings
from sidecar.model.telemetry import LogFormat, Propagator, Telemetry
from sidecar.observe.access_log import AccessLog
from sidecar.observe.exposition import Exposition
from sidecar.observe.fanout import Fanout
from sidecar.observe.metrics import Metrics
from sidecar.observe.observer import Observer
from sidecar.observe.output import Output
from sidecar.observe.recorder import Recorder
from sidecar.observe.tracing.context import ExchangeTracer
from sidecar.observe.tracing.record import record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "observe"))

from observe_samples import families

ROUTES = 1000
SCRAPES = 30


def row(name: str, microseconds: float) -> None:
    print(f"{name:52} {microseconds:8.2f} us")


def life(observer: Fanout, made: Exchange) -> None:
    observer.exchange_started(made)
    observer.attempt_finished(made, made.attempts[0])
    observer.exchange_finished(made)


def cost(observers: Sequence[Observer], made: Exchange) -> float:
    return least(partial(life, Fanout(observers), made))


async def requests() -> None:
    """The life of one exchange with each observer alone; the first row is in those of metrics, log and recorder."""
    made = exchange()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    output = Output(nowhere)
    silent, speaking = AccessLog(output), AccessLog(output)
    no_log = Telemetry(access_log=LogSettings(format=LogFormat.NONE))
    silent.config_applied(Snapshot(revision="", hash="", listeners=(), upstreams={}, routes=(), telemetry=no_log))
    row("nobody watches", cost((), made))
    row("metrics", cost([Metrics()], made))
    row("access log, JSON", cost([speaking], made))
    row("access log, format None", cost([silent], made))
    row("recent failures and slowest requests", cost([Recorder(active=lambda: None)], made))
    for name, ratio in (("tracing, not sampled", 0.0), ("tracing, sampled: the loop's part", 1.0)):
        row(name, least(partial(traced, tracer(ratio, Propagator.TRACE_CONTEXT), made)))
    speaking.close()
    output.close()
    os.close(nowhere)


def traced(by: ExchangeTracer, made: Exchange) -> None:
    trace = by.begin({}, believed=True)
    trace.outgoing(made.attempts[0], made.head.path)
    if trace.sampled:
        record(made, trace)


async def scrapes() -> None:
    """One page with every histogram of 1,000 routes, while the loop looks at its watch."""
    metrics = Metrics()
    for number in range(ROUTES):
        made = exchange()
        made.route = Route(name=f"route-{number}", index=number)
        life(Fanout([metrics]), made)
    page = Exposition(families(metrics).collect)
    for name, encoding in (("plain", b""), ("gzip", b"gzip")):
        took, stalls, size = [], [], 0
        for _ in range(SCRAPES):
            watch = Stopwatch()
            began = time.perf_counter()
            ticking = asyncio.ensure_future(watch.run())
            size = len((await page.render_in_slices(b"", encoding))[2])
            took.append(time.perf_counter() - began)
            ticking.cancel()
            stalls.append(watch.longest)
        print(
            f"scrape of {ROUTES} routes, {name:5} {size / 1024:7.0f} KiB {min(took) * 1000:6.1f} ms (median {sorted(took)[SCRAPES // 2] * 1000:.1f})"
            f"   longest hold of the loop {min(stalls) * 1000:5.2f} ms (median {sorted(stalls)[SCRAPES // 2] * 1000:.2f})"
        )


class Stopwatch:
    """The longest time between two turns of the loop."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            self.longest, last = max(self.longest, now - last), now


async def main() -> None:
    await requests()
    await scrapes()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    uvloop.run(main())
