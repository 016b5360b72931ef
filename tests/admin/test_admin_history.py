"""The last minutes of traffic: what the page's numbers and plots are made of."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from math import isnan
from typing import Any

import pytest
import uvloop
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.admin import history
from sidecar.admin.history import EVERYTHING, IDLE_SECONDS, MAX_LINES, POINTS, STEP_SECONDS, History, quantile
from sidecar.admin.plots import Curve, plot
from sidecar.observe.traffic import TrafficCount

BOUNDS = (0.1, 1.0)


class Counters:
    """Counters that a test moves on, with a clock of its own."""

    def __init__(self) -> None:
        self.now = 100.0
        self.series: dict[tuple[str, str, str], list[int]] = {}
        self.bounds: tuple[float, ...] = BOUNDS
        self.history = History(self._read, clock=lambda: self.now)

    def _read(self) -> Any:
        for key, (requests, errors, fast, slow) in list(self.series.items()):
            yield TrafficCount(key, requests, errors, self.bounds, (fast, slow, requests - fast - slow))

    def add(self, route: str, requests: int, errors: int = 0, *, upstream: str = "app", slow: int = 0) -> None:
        counts = self.series.setdefault(("inbound", route, upstream), [0, 0, 0, 0])
        for index, more in enumerate((requests, errors, requests - slow, slow)):
            counts[index] += more

    async def step(self, seconds: float = STEP_SECONDS) -> None:
        self.now += seconds
        await self.history.measure()


def run(use: Coroutine[Any, Any, None]) -> None:
    uvloop.run(use)


def test_before_there_are_two_looks_the_figures_are_averages_since_the_start() -> None:
    async def use() -> None:
        counters = Counters()
        counters.add("r", 60, 6)
        await counters.history.measure()
        figures = counters.history.figures(("route", "r"), lifetime=30.0)
        assert (figures.rate, figures.errors, figures.requests) == (2.0, 0.2, 60)
        assert (counters.history.steps, counters.history.plot(("route", "r"))) == (0, None)

    run(use())


def test_figures_are_of_the_last_ten_seconds_by_route_by_upstream_and_of_everything() -> None:
    async def use() -> None:
        counters = Counters()
        counters.add("old", 1_000_000)
        await counters.step()
        for _ in range(20):
            counters.add("a", 10, 1)
            counters.add("b", 30, upstream="other", slow=30)
            await counters.step()
        look = counters.history.figures
        assert look(("route", "a"), 1.0)[:2] == (5.0, 0.5)
        assert look(("upstream", "other"), 1.0)[:2] == (15.0, 0.0)
        assert look(EVERYTHING, 1.0)[:2] == (20.0, 0.5)
        assert look(("route", "old"), 1.0)[:2] == (0.0, 0.0)
        assert look(("route", "old"), 1.0).requests == 1_000_000
        assert look(("route", "a"), 1.0).p50 == pytest.approx(0.05)
        assert look(("route", "b"), 1.0).p95 == pytest.approx(0.1 + 0.9 * 0.95)
        assert isnan(look(("route", "old"), 1.0).p50)

    run(use())


def test_rates_are_per_second_of_the_time_that_really_went_by() -> None:
    async def use() -> None:
        counters = Counters()
        counters.add("a", 0)
        await counters.step()
        counters.add("a", 100)
        await counters.step(10.0)
        plotted = counters.history.plot(("route", "a"))
        assert plotted is not None
        assert list(plotted.rate) == [10.0]

    run(use())


def test_a_plot_is_the_last_five_minutes_and_moves() -> None:
    async def use() -> None:
        counters = Counters()
        await counters.step()
        for number in range(POINTS + 7):
            counters.add("a", number, number // 2)
            await counters.step()
        plotted = counters.history.plot(("route", "a"))
        assert plotted is not None
        assert list(plotted.rate) == [number / STEP_SECONDS for number in range(7, POINTS + 7)]
        assert plotted.errors[-1] == (POINTS + 6) // 2 / STEP_SECONDS
        assert not isnan(plotted.p95[-1])

    run(use())


def test_a_route_that_comes_later_counts_over_the_same_seconds_as_the_others() -> None:
    async def use() -> None:
        counters = Counters()
        for _ in range(10):
            await counters.step()
        counters.add("new", 20)
        await counters.step()
        assert counters.history.figures(("route", "new"), 1.0).rate == 2.0

    run(use())


def test_counters_that_begin_anew_count_from_zero() -> None:
    async def use() -> None:
        counters = Counters()
        counters.add("a", 500)
        await counters.step()
        counters.series.clear()
        counters.add("a", 4)
        await counters.step()
        plotted = counters.history.plot(("route", "a"))
        assert plotted is not None
        assert list(plotted.rate) == [2.0]

    run(use())


def test_other_buckets_begin_a_new_history() -> None:
    async def use() -> None:
        counters = Counters()
        counters.add("a", 5)
        await counters.step()
        counters.add("a", 5)
        await counters.step()
        counters.bounds = (0.5, 1.0)
        await counters.step()
        assert counters.history.steps == 0
        assert counters.history.figures(("route", "a"), 1.0).requests == 10
        counters.add("a", 6)
        await counters.step()
        assert counters.history.figures(("route", "a"), 1.0).rate == 3.0

    run(use())


def test_what_is_gone_from_the_counters_and_quiet_is_forgotten() -> None:
    async def use() -> None:
        counters = Counters()
        await counters.step()
        counters.add("gone", 5)
        counters.add("stays", 5, upstream="stays")
        await counters.step()
        del counters.series["inbound", "gone", "app"]
        for _ in range(2 * POINTS):
            await counters.step()
        assert counters.history.busiest("route") == ["stays"]
        assert counters.history.busiest("upstream") == ["stays"]

    run(use())


def test_the_busiest_are_those_of_the_last_minutes() -> None:
    async def use() -> None:
        counters = Counters()
        counters.add("once", 1_000_000)
        await counters.step()
        counters.add("now", 5)
        counters.add("busy", 50)
        await counters.step()
        assert counters.history.busiest("route") == ["busy", "now", "once"]

    run(use())


def test_memory_is_bounded_however_many_series_there_are() -> None:
    async def use() -> None:
        counters = Counters()
        await counters.step()
        for number in range(MAX_LINES + 500):
            counters.add(f"r{number}", 1, upstream=f"u{number}")
        await counters.step()
        lines = counters.history._lines
        assert len(lines) == MAX_LINES
        line = next(iter(lines.values()))
        size = sum(sys.getsizeof(getattr(line, name)) for name in line.__slots__)
        assert size < 4096
        assert counters.history.figures(EVERYTHING, 1.0).requests == MAX_LINES + 500

    run(use())


def test_it_measures_while_somebody_looks_and_forgets_when_nobody_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "STEP_SECONDS", 0.0)

    async def use() -> None:
        counters = Counters()
        measured = counters.history
        await measured.look()
        task = measured._task
        assert task is not None
        while measured.steps == 0:
            await asyncio.sleep(0)
        counters.now += IDLE_SECONDS - 1
        await measured.look()
        assert measured._task is task
        counters.now += IDLE_SECONDS + 1
        await task
        assert measured.steps == 0
        await measured.look()
        assert measured._task is not task
        await measured.aclose()

    run(use())


def test_who_looks_while_the_first_reading_is_cancelled_is_not_left_waiting() -> None:
    async def use() -> None:
        counters = Counters()
        for number in range(1000):
            counters.add(f"r{number}", 1)
        looks = [asyncio.create_task(counters.history.look()) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await counters.history.aclose()
        await asyncio.wait_for(asyncio.gather(*looks), 5)

    run(use())


@given(st.lists(st.integers(0, 1000), min_size=3, max_size=3).filter(any), st.floats(0.01, 1.0))
@example([449, 0, 898], 1 / 3)
def test_a_quantile_lies_in_the_bucket_that_holds_its_rank(counts: list[int], share: float) -> None:
    value = quantile(share, BOUNDS, counts)
    rank = share * sum(counts)
    edges = [0.0, *BOUNDS, BOUNDS[-1]]
    bucket = next(number for number in range(3) if sum(counts[: number + 1]) >= rank)
    assert edges[bucket] <= value <= edges[bucket + 1]


def test_a_quantile_of_nothing_is_unknown() -> None:
    assert isnan(quantile(0.5, BOUNDS, []))
    assert isnan(quantile(0.5, BOUNDS, [0, 0, 0]))


def test_a_plot_ends_at_the_right_edge_and_breaks_where_nothing_was_measured() -> None:
    nan = float("nan")
    drawn = plot([Curve("a", [1.0, nan, 2.0, 4.0])], points=10, steps=10, width=90, height=12)
    assert drawn.count("M") == 2
    assert 'd="M60 8.5L60.1 8.5"' in drawn
    assert drawn.endswith('d="M80 6L90 1"/></svg>')


def test_a_plot_of_many_values_is_reduced_to_as_many_as_there_is_room_for() -> None:
    drawn = plot([Curve("a", [1.0] * 150)], points=30, steps=150, width=120, height=20)
    assert drawn.count("L") == 29
    assert drawn.count("<path") == 1
