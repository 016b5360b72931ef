"""Levels of overload: where they begin and end, and what a request is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ProxyError
from sidecar.observe.pressure import Resource
from sidecar.policy.overload import BANDS, FLOOR, FULL_EXCHANGE, HOLD, RELIEF, SMALL_EXCHANGE, UNLIMITED, Action, Level, Overload, level_of

LEVELS = [(Level.RELIEVE, "relieve"), (Level.SHED, "shed"), (Level.NARROW, "narrow")]
CASES = [(resource, level, getattr(BANDS[resource], name)) for resource in BANDS for level, name in LEVELS]


def at(share: float, resource: str = "memory", now: float = 0.0) -> Overload:
    overload = Overload()
    overload.update({resource: share}, now)
    return overload


@pytest.mark.parametrize(("resource", "level", "share"), CASES)
def test_a_level_begins_at_its_share_and_ends_clearly_below_it(resource: str, level: Level, share: float) -> None:
    assert at(share - 0.001, resource).level == level - 1
    overload = at(share, resource)
    assert (overload.level, overload.resource, overload.levels) == (level, resource, {resource: level})
    assert overload.update({resource: share - RELIEF + 0.001}, 10.0) is False
    assert overload.level is level
    assert overload.update({resource: share - RELIEF}, 20.0) is True
    assert overload.level < level


def test_a_level_lasts_for_a_while_however_fast_the_share_falls() -> None:
    overload = at(0.99, now=100.0)
    overload.update({"memory": 0.1}, 100.0 + HOLD - 0.01)
    assert overload.level is Level.NARROW
    overload.update({"memory": 0.1}, 100.0 + HOLD)
    assert overload.level is Level.NONE


def test_a_level_rises_at_once() -> None:
    overload = at(0.86)
    overload.update({"memory": 0.99}, 0.0)
    assert overload.level is Level.NARROW


def test_the_worst_resource_counts_and_is_named() -> None:
    overload = Overload()
    overload.update({"memory": 0.86, "file_descriptors": 0.96}, 0.0)
    assert (overload.level, overload.resource) == (Level.SHED, "file_descriptors")
    assert overload.levels == {"memory": Level.RELIEVE, "file_descriptors": Level.SHED}


def test_what_has_no_limit_and_what_is_only_slow_gives_nothing_up() -> None:
    overload = Overload()
    overload.update({"cpu": 1.0}, 0.0)
    assert (overload.level, overload.levels, overload.resource) == (Level.NONE, {}, "")
    overload.admit(10_000)


def test_a_limit_that_is_lifted_ends_its_level() -> None:
    overload = at(0.99)
    overload.update({}, 5.0)
    assert (overload.level, overload.shedding, overload.levels) == (Level.NONE, False, {})


def test_a_request_is_refused_only_from_shed_on_and_above_the_floor() -> None:
    for share, refused in ((0.89, False), (0.90, True), (0.99, True)):
        overload = at(share)
        overload.admit(FLOOR)
        if not refused:
            overload.admit(FLOOR + 1)
            continue
        with pytest.raises(ProxyError) as caught:
            overload.admit(FLOOR + 1)
        error = caught.value
        assert (error.status, error.reason.value, error.retry_after, error.reusable) == (503, "overloaded", 1, False)
        assert error.detail == "memory is short"
        assert overload.actions[Action.REQUEST_REFUSED] == 1


def test_one_exchange_more_than_memory_has_room_for_makes_reads_small_and_then_is_refused() -> None:
    overload, limit = Overload(), 256 * 1024 * 1024
    overload.update({"memory": 0.5}, 0.0, limit)
    assert overload.roomy == int(0.2 * limit) // FULL_EXCHANGE
    assert overload.most == overload.roomy + int(0.2 * limit) // SMALL_EXCHANGE
    overload.admit(overload.roomy + 1)
    assert overload.tight
    overload.admit(overload.most)
    with pytest.raises(ProxyError, match="memory is short"):
        overload.admit(overload.most + 1)
    overload.ease(overload.roomy)
    assert overload.tight
    overload.ease(overload.roomy // 2)
    assert not overload.tight
    assert overload.level is Level.NONE


def test_the_room_is_never_less_than_the_floor_and_without_a_limit_there_is_no_end_to_it() -> None:
    overload = Overload()
    overload.update({"memory": 1.2}, 0.0, 1024 * 1024)
    assert (overload.roomy, overload.most) == (FLOOR, FLOOR)
    overload.update({"file_descriptors": 0.5}, 10.0, None)
    assert (overload.roomy, overload.most) == (UNLIMITED, UNLIMITED)


@given(st.floats(0, 1.5), st.integers(1 << 20, 1 << 36))
def test_what_is_admitted_fits_below_the_limit_even_if_every_peer_is_slow(share: float, limit: int) -> None:
    overload = Overload()
    overload.update({"memory": share}, 0.0, limit)
    shed, small = BANDS["memory"].shed, overload.most - overload.roomy
    full = overload.roomy if overload.roomy > FLOOR else 0
    assert overload.roomy >= FLOOR
    assert share > shed or share * limit + full * FULL_EXCHANGE + small * SMALL_EXCHANGE <= shed * limit + 1
    assert share <= shed or overload.most == FLOOR


def test_every_resource_that_can_run_out_is_one_that_is_watched() -> None:
    assert set(BANDS) <= {resource.value for resource in Resource}
    assert all(0 < band.relieve - RELIEF < band.relieve < band.shed < band.narrow < 1 for band in BANDS.values())


@given(st.lists(st.tuples(st.floats(0, 1.5), st.floats(0, 3)), max_size=40), st.sampled_from(sorted(BANDS)))
def test_no_history_makes_the_level_lower_than_the_share_asks_for(steps: list[tuple[float, float]], resource: str) -> None:
    overload, now = Overload(), 0.0
    for share, passed in steps:
        now += passed
        overload.update({resource: share}, now)
        assert overload.level >= level_of(share, BANDS[resource], Level.NONE)
        assert overload.shedding is (overload.level >= Level.SHED)
