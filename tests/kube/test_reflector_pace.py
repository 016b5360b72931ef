"""How often the reflector asks, in virtual time: back-off, pace, and the requests of every failure over hours."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from itertools import pairwise
from random import Random

import pytest
from reflector_kit import (
    BROKEN,
    DOWN,
    FIRST,
    FORBIDDEN,
    FOREVER,
    GONE,
    HOUR,
    NOT_FOUND,
    NOT_NOW,
    QUIET,
    TOO_LARGE,
    TRUNCATED,
    UNAUTHORIZED,
    ScriptedApi,
    Watch,
    assert_paced,
    bookmark,
    config_map,
    event,
    following,
    listed,
    throttled,
)
from support.virtual_time import run_in_virtual_time

from sidecar.kube.api import KubeError
from sidecar.kube.backoff import Backoff, Pace
from sidecar.kube.objects import ObjectList


def test_a_429_is_obeyed_and_the_version_kept() -> None:
    async def scenario() -> None:
        api = ScriptedApi([FIRST], [throttled(20), throttled(20), QUIET])
        async with following(api):
            await asyncio.sleep(HOUR)
        watches = api.of("watch")
        assert [request.version for request in watches[:3]] == ["5", "5", "5"]
        assert all(20 <= after.at - before.at <= 30.1 for before, after in itertools.pairwise(watches[:3]))
        assert len(api.of("list")) == 1

    run_in_virtual_time(scenario())


def test_a_retry_after_in_an_error_event_is_obeyed() -> None:
    async def scenario() -> None:
        api = ScriptedApi([FIRST], [[10.0, throttled(40)], QUIET])
        async with following(api):
            await asyncio.sleep(100)
        first, second = api.of("watch")
        assert 50 <= second.at - first.at < 75

    run_in_virtual_time(scenario())


def test_a_server_cannot_ask_for_more_than_some_minutes_of_silence() -> None:
    async def scenario() -> None:
        api = ScriptedApi([throttled(1e9), FIRST], [QUIET])
        async with following(api) as (_, heard):
            await heard.until("changed", seconds=450.1)

    run_in_virtual_time(scenario())


def test_the_back_off_doubles_from_0_8_seconds_to_30_and_is_shortened_by_up_to_half() -> None:
    backoff = Backoff(Random(1))
    for most in (0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0):
        assert most / 2 <= backoff.next() <= most
    assert max(Backoff(Random(seed)).next() for seed in range(100)) > 0.75
    for _ in range(8):
        backoff.next(longest=60.0)
    for _ in range(2000):
        assert 30 <= backoff.next(longest=60.0) <= 60
    backoff.reset()
    assert backoff.next() <= 0.8


def test_the_back_off_starts_small_again_after_two_minutes_without_failure_and_not_before() -> None:
    async def scenario(well: float) -> float:
        api = ScriptedApi([FIRST], [*[DOWN] * 10, [well], DOWN, [FOREVER]])
        async with following(api):
            await asyncio.sleep(HOUR)
        *_, refused, after = api.of("watch")[:13]
        return after.at - refused.at

    assert run_in_virtual_time(scenario(121)) <= 1.0
    assert run_in_virtual_time(scenario(100)) >= 2.5


def test_a_server_that_is_away_is_looked_for_every_five_seconds_however_long_it_takes() -> None:
    async def scenario(seed: int) -> float:
        api = ScriptedApi([FIRST], [DOWN])
        async with following(api, seed=seed):
            await asyncio.sleep(HOUR)
        return max(after.at - before.at for before, after in pairwise(api.of("watch")))

    assert all(4 < run_in_virtual_time(scenario(seed)) <= 5.01 for seed in range(5))


@pytest.mark.parametrize("answer", [FORBIDDEN, NOT_NOW, BROKEN])
def test_the_first_answer_of_a_server_that_comes_up_is_not_taken_for_one_more_of_many_failures(answer: KubeError) -> None:
    async def scenario() -> float:
        api = ScriptedApi([*[DOWN] * 50, answer, FIRST], [QUIET])
        async with following(api):
            await asyncio.sleep(HOUR)
        refused, after = api.of("list")[-2:]
        return after.at - refused.at

    assert run_in_virtual_time(scenario()) <= 1.0


def test_a_list_that_works_does_not_end_the_back_off_of_watches_that_do_not() -> None:
    async def scenario() -> None:
        api = ScriptedApi([FIRST], [GONE])
        async with following(api):
            await asyncio.sleep(HOUR)
        assert len([request for request in api.of("list") if request.at > 1000 + HOUR / 2]) <= HOUR / 2 / 15 + 1

    run_in_virtual_time(scenario())


def test_the_pace_lets_two_through_at_once_and_then_one_each_second() -> None:
    pace = Pace()
    assert [pace.take(100.0) for _ in range(4)] == [0, 0, 1, 2]
    assert pace.take(103.5) == 0
    assert pace.take(103.5) == pytest.approx(0.5)
    assert [pace.take(200.0) for _ in range(3)] == [0, 0, 1]


def test_the_pace_holds_for_any_times_of_asking() -> None:
    rng = Random(7)
    for _ in range(50):
        pace, now, sent = Pace(), 0.0, []
        for _ in range(300):
            now += pace.take(now)
            sent.append(now)
            now += rng.choice([0.0, 0.0, 0.01, 0.3, 1.0, 2.5, 40.0]) * rng.random()
        assert_paced(sent)


def test_a_spread_delays_the_first_request_by_a_random_time() -> None:
    async def scenario(seed: int) -> float:
        api = ScriptedApi([FIRST], [QUIET])
        async with following(api, seed=seed, spread=2.0):
            await asyncio.sleep(3)
        return api.asked[0].at - 1000

    delays = [run_in_virtual_time(scenario(seed)) for seed in range(30)]
    assert all(0 <= delay <= 2 for delay in delays)
    assert max(delays) > 1.5
    assert min(delays) < 0.5


MODES: dict[str, tuple[Sequence[ObjectList | KubeError], Sequence[Watch], float]] = {
    "API server down from the start": ([DOWN], [QUIET], 16.5),
    "API server down after a list": ([FIRST], [DOWN], 16.5),
    "401 for everything": ([UNAUTHORIZED], [UNAUTHORIZED], 4),
    "401 for the watch": ([FIRST], [UNAUTHORIZED], 4),
    "403 for everything": ([FORBIDDEN], [FORBIDDEN], 2),
    "403 for the watch": ([FIRST], [FORBIDDEN], 2),
    "404 for everything": ([NOT_FOUND], [NOT_FOUND], 2),
    "429 without Retry-After": ([throttled(None)], [throttled(None)], 4),
    "429 for the watch, Retry-After 0": ([FIRST], [throttled(0)], 4),
    "429 for the watch, Retry-After 1": ([FIRST], [throttled(1)], 4),
    "429 for the watch, Retry-After 120": ([FIRST], [throttled(120)], 0.6),
    "500 for everything": ([BROKEN], [BROKEN], 4),
    "503 for the watch": ([FIRST], [NOT_NOW], 4),
    "504 too large version for the watch": ([FIRST], [TOO_LARGE], 8),
    "410 for each watch": ([FIRST], [GONE], 8),
    "410 as first event of each watch": ([FIRST], [[GONE]], 8),
    "410 after two seconds of each watch": ([FIRST], [[2.0, GONE]], 24),
    "500 as first event of each watch": ([FIRST], [[BROKEN]], 8),
    "an event that cannot be read": ([FIRST], [[TRUNCATED]], 8),
    "an event, then one that cannot be read": ([FIRST], [[event("MODIFIED", 6), TRUNCATED]], 24),
    "watches that end at once": ([FIRST], [[]], 4),
    "watches that end after 0.9 s": ([FIRST], [[0.9]], 4),
    "watches that end after 1.1 s": ([FIRST], [[1.1]], 12),
    "watches that end after one event": ([FIRST], [[event("MODIFIED", 6)]], 12),
    "watches that are reset after one event": ([FIRST], [[event("MODIFIED", 6), DOWN]], 12),
    "half-open watches": ([FIRST], [QUIET], 0.5),
    "lists of another shape": ([ObjectList("", [])], [QUIET], 4),
}
"""Lists, watches, and the requests per minute that are allowed over hours."""


@pytest.mark.parametrize("mode", MODES)
def test_never_more_than_one_request_per_second_and_far_fewer_over_hours(mode: str) -> None:
    lists, watches, per_minute = MODES[mode]

    async def scenario(seed: int) -> None:
        api = ScriptedApi(lists, watches)
        async with following(api, seed=seed) as (_, heard):
            await asyncio.sleep(3 * HOUR)
            assert_paced([request.at for request in api.asked])
            assert len(api.asked) <= per_minute * 180 + 2
            assert api.most_open <= 1
            assert heard.kinds.count("lost") <= 1
            api.lists, api.watches, api.honest = [listed(9, config_map(9, "mended"))], [[event("MODIFIED", 10, "mended"), FOREVER]], True
            await heard.until("changed", {"orders": "mended"}, seconds=185)
            await asyncio.sleep(HOUR)
            assert_paced([request.at for request in api.asked])
            assert heard.kinds.count("lost") <= 1

    for seed in range(3):
        run_in_virtual_time(scenario(seed))


@pytest.mark.parametrize("seed", range(20))
def test_a_server_that_fails_in_every_way_by_turns_is_asked_at_the_pace_and_followed_when_it_is_mended(seed: int) -> None:
    rng = Random(seed)
    errors: list[KubeError] = [DOWN, GONE, TOO_LARGE, UNAUTHORIZED, FORBIDDEN, BROKEN, NOT_NOW, TRUNCATED, throttled(None), throttled(3)]

    def watch() -> Watch:
        told = [event("MODIFIED", rng.randint(6, 99)), bookmark(rng.randint(6, 99)), rng.random() * 3, rng.choice(errors)]
        return rng.choice(errors) if rng.random() < 0.4 else rng.sample(told, rng.randint(0, 4))

    async def scenario() -> None:
        lists: list[ObjectList | KubeError] = [rng.choice([FIRST, *errors]) for _ in range(2000)]
        api = ScriptedApi(lists, [watch() for _ in range(4000)])
        async with following(api, seed=seed) as (_, heard):
            await asyncio.sleep(2 * HOUR)
            assert_paced([request.at for request in api.asked])
            assert not [what for (_, kind, what), (*_, before) in pairwise(heard.news) if kind == "lost" and what == before]
            api.lists, api.watches, api.honest = [listed(9, config_map(9, "mended"))], [[event("MODIFIED", 10, "mended"), FOREVER]], True
            await heard.until("changed", {"orders": "mended"}, seconds=120)
            await asyncio.sleep(HOUR)
            assert heard.kinds[-1] in {"changed", "regained"}

    run_in_virtual_time(scenario())
