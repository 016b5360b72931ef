"""The last minutes of traffic, for the plots of the page: rates, errors and latencies by route and by upstream.

Kept only while somebody looks, and ten minutes longer: a sidecar whose page nobody opens pays nothing for it. Until two
looks at the counters have been taken, the page shows what has been counted since the start of the process.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import accumulate
from math import nan
from typing import Final, NamedTuple

from sidecar.observe.base import TrafficKey
from sidecar.observe.traffic import TrafficCount
from sidecar.tasks import cancel_and_wait, create_task

STEP_SECONDS: Final = 2.0
POINTS: Final = 150
"""Steps that plots look back on: five minutes."""
_FIRST_POINTS: Final = 30
NOW_STEPS: Final = 5
"""Steps that the numbers are about: a shorter time jumps, a longer one lags."""
IDLE_SECONDS: Final = 600.0
"""How long it goes on after the last look."""
MAX_LINES: Final = 4096
"""Routes and upstreams with plots: below 3 KiB each."""
SLICE: Final = 128
"""Series between two chances for other work: below a millisecond."""

LineKey = tuple[str, str]
"""("route" | "upstream", name), or EVERYTHING."""
EVERYTHING: Final = ("", "")


class Figures(NamedTuple):
    """A line now. `rate` and `errors` per second, p50 and p95 in seconds; nan where nothing was measured."""

    rate: float = 0.0
    errors: float = 0.0
    p50: float = nan
    p95: float = nan
    requests: int = 0
    """Since the start of the process, as far as the counters go back."""


class Plot(NamedTuple):
    """A line's past, the oldest point first, as long as it has been measured; units as in `Figures`."""

    rate: Sequence[float]
    errors: Sequence[float]
    p50: Sequence[float]
    p95: Sequence[float]


class _Delta:
    """What happened in one line between two looks."""

    __slots__ = ("counts", "errors", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.counts: list[int] = []

    def add(self, requests: int, errors: int, counts: Sequence[int]) -> None:
        """Add that of one series."""
        self.requests += requests
        self.errors += errors
        self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)] if self.counts else list(counts)


class _Line:
    """A ring of points, and the steps that the numbers are about."""

    __slots__ = ("errors", "lately", "p50", "p95", "quiet", "rate", "recent", "total")

    def __init__(self) -> None:
        self.rate, self.errors = array("f", bytes(4 * POINTS)), array("f", bytes(4 * POINTS))
        self.p50, self.p95 = array("f", [nan]) * POINTS, array("f", [nan]) * POINTS
        self.recent: deque[tuple[float, _Delta | None]] = deque(maxlen=NOW_STEPS)
        self.total = _Delta()
        self.quiet = 0
        """Steps since something happened."""
        self.lately = 0.0
        """The sum of `rate`."""

    def write(self, at: int, seconds: float, delta: _Delta | None, bounds: Sequence[float]) -> None:
        """Note a step of so many seconds at a place of the ring."""
        self.recent.append((seconds, delta))
        self.quiet = 0 if delta else self.quiet + 1
        before = self.rate[at]
        self.rate[at] = delta.requests / seconds if delta else 0.0
        self.lately += self.rate[at] - before
        self.errors[at] = delta.errors / seconds if delta else 0.0
        self.p50[at] = quantile(0.5, bounds, delta.counts) if delta else nan
        self.p95[at] = quantile(0.95, bounds, delta.counts) if delta else nan


class History:
    """`traffic` reads the counters; `clock` is monotonic seconds. `look` starts the measuring, `aclose` ends it."""

    def __init__(
        self,
        traffic: Callable[[], Iterator[TrafficCount]],
        *,
        refresh: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`refresh`: awaited before each reading, where the counters are not all in this process."""
        self._traffic = traffic
        self._refresh = refresh
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._looked_at = clock()
        self._forget()

    async def look(self) -> None:
        """Somebody looks: begin to measure, or go on. The first look waits for the counters to be read once."""
        self._looked_at = self._clock()
        if self._task is None or self._task.done():
            self._forget()
            self._first = asyncio.Event()
            self._task = create_task(self._run(), name="admin page history")
        await self._first.wait()

    async def aclose(self) -> None:
        """Stop."""
        if self._task is not None:
            await cancel_and_wait([self._task])

    async def _run(self) -> None:
        try:
            while True:
                await self.measure()
                self._first.set()
                await asyncio.sleep(STEP_SECONDS)
                if self._clock() - self._looked_at > IDLE_SECONDS:
                    break
        finally:
            self._first.set()
        self._forget()

    def _forget(self) -> None:
        self._first = asyncio.Event()
        self._bounds: tuple[float, ...] = ()
        self._forget_measured()

    def _forget_measured(self) -> None:
        self._lines: dict[LineKey, _Line] = {}
        self._seen: dict[TrafficKey, TrafficCount] = {}
        self._measured_at: float | None = None
        self._steps = 0

    async def measure(self) -> None:
        """Read the counters, and note what happened since they were read before."""
        deltas: dict[LineKey, _Delta] = {}
        seen: dict[TrafficKey, TrafficCount] = {}
        if self._refresh is not None:
            await self._refresh()
        for number, count in enumerate(self._traffic(), 1):
            self._take(count, seen, deltas)
            if number % SLICE == 0:
                await asyncio.sleep(0)
        now = self._clock()
        self._seen = seen
        await self._note(deltas, None if self._measured_at is None else max(now - self._measured_at, 0.001))
        self._measured_at = now

    def _take(self, count: TrafficCount, seen: dict[TrafficKey, TrafficCount], deltas: dict[LineKey, _Delta]) -> None:
        key, requests, errors, bounds, counts = count
        if bounds != self._bounds:
            if self._bounds:  # other buckets: what was measured in the old ones does not compare
                seen.clear()
                deltas.clear()
                self._forget_measured()
            self._bounds = bounds
        before = self._seen.get(key)
        seen[key] = count
        if before is not None and before.requests <= requests and sum(before.counts) <= sum(counts):
            if before.requests == requests:
                return
            requests, errors = requests - before.requests, errors - before.errors
            counts = tuple([now - then for now, then in zip(counts, before.counts, strict=True)])
        elif not requests:
            return
        _, route, upstream = key
        for line in (EVERYTHING, ("route", route), ("upstream", upstream)):
            deltas.setdefault(line, _Delta()).add(requests, errors, counts)

    async def _note(self, deltas: dict[LineKey, _Delta], seconds: float | None) -> None:
        """`seconds` None: the first look, which only sets the totals. What is read meanwhile is the step before."""
        for number, (key, delta) in enumerate(deltas.items(), 1):
            if number % SLICE == 0:
                await asyncio.sleep(0)
            line = self._lines.get(key)
            if line is None:
                if len(self._lines) >= MAX_LINES:
                    continue
                line = self._lines[key] = _Line()
                line.recent.extend([(STEP_SECONDS, None)] * min(self._steps, NOW_STEPS))
            line.total.add(delta.requests, delta.errors, delta.counts)
        if seconds is None:
            return
        at = self._steps % POINTS
        for number, (key, line) in enumerate(self._lines.items(), 1):
            if number % SLICE == 0:
                await asyncio.sleep(0)
            line.write(at, seconds, deltas.get(key), self._bounds)
        self._steps += 1
        if self._steps % POINTS == 0:
            known = {EVERYTHING} | {("route", key[1]) for key in self._seen} | {("upstream", key[2]) for key in self._seen}
            self._lines = {key: line for key, line in self._lines.items() if key in known or line.quiet < POINTS}

    @property
    def steps(self) -> int:
        """How many steps plots show: a minute at least. 0: nothing has been measured, figures are of the whole life of the process."""
        return min(max(self._steps, _FIRST_POINTS), POINTS) if self._steps else 0

    def figures(self, key: LineKey, lifetime: float) -> Figures:
        """The line now; while nothing has been measured, over the `lifetime` of the process in seconds."""
        line = self._lines.get(key)
        if line is None:
            return Figures()
        if self._steps:
            now, seconds = _Delta(), 0.0
            for step, delta in line.recent:
                seconds += step
                if delta is not None:
                    now.add(delta.requests, delta.errors, delta.counts)
        else:
            now, seconds = line.total, max(lifetime, 1.0)
        middle, high = quantile(0.5, self._bounds, now.counts), quantile(0.95, self._bounds, now.counts)
        return Figures(now.requests / seconds, now.errors / seconds, middle, high, line.total.requests)

    def busiest(self, kind: str) -> list[str]:
        """The names of the routes or upstreams that had requests, by those of the last minutes, then by all of them."""
        found = [(line.lately, line.total.requests, name) for (of, name), line in self._lines.items() if of == kind]
        return [name for _, _, name in sorted(found, key=lambda one: (-one[0], -one[1], one[2]))]

    def plot(self, key: LineKey) -> Plot | None:
        """The line's past; None when there is none."""
        line = self._lines.get(key)
        if line is None or not self._steps:
            return None
        end = self._steps % POINTS

        def unrolled(ring: array[float]) -> Sequence[float]:
            return ring[end:] + ring[:end] if self._steps >= POINTS else ring[:end]

        return Plot(unrolled(line.rate), unrolled(line.errors), unrolled(line.p50), unrolled(line.p95))


def quantile(share: float, bounds: Sequence[float], counts: Sequence[int]) -> float:
    """An estimate from buckets, linear inside a bucket, as `histogram_quantile` of Prometheus does it; nan without counts.

    Beyond the last bound it is the last bound: more is not known.
    """
    running = list(accumulate(counts))
    if not running or not running[-1]:
        return nan
    rank = share * running[-1]
    index = next(number for number, total in enumerate(running) if total >= rank)
    if index >= len(bounds):
        return bounds[-1] if bounds else nan
    lower = bounds[index - 1] if index else 0.0
    below = running[index - 1] if index else 0
    value = lower + (bounds[index] - lower) * ((rank - below) / counts[index])
    return min(value, bounds[index])  # which the last digit of a float may be beyond
