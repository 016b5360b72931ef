"""The reflector against a scripted API, in virtual time: every way in which lists and watches end, over hours."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest
from reflector_kit import (
    BROKEN,
    DOWN,
    FIRST,
    FORBIDDEN,
    FOREVER,
    GONE,
    HOUR,
    NOT_NOW,
    ORDERS,
    QUIET,
    TOO_LARGE,
    TRUNCATED,
    ScriptedApi,
    Watch,
    bookmark,
    config_map,
    event,
    following,
    listed,
    throttled,
)
from support.virtual_time import run_in_virtual_time

from sidecar.kube.api import ApiError, KubeError, Unreachable
from sidecar.kube.objects import ENDPOINT_SLICES, ObjectList, Selection, WatchEvent

# What there is


def test_the_first_list_may_come_from_the_cache_and_the_watch_begins_where_it_ends_without_delay() -> None:
    async def scenario() -> None:
        api = ScriptedApi([FIRST], [QUIET])
        async with following(api) as (_, heard):
            await asyncio.sleep(1)
        assert [(request.verb, request.version) for request in api.asked] == [("list", "0"), ("watch", "5")]
        assert api.asked[1].at - api.asked[0].at < 0.01
        assert heard.states == [{"orders": "v5"}]

    run_in_virtual_time(scenario())


def test_each_change_is_told_with_all_objects_as_they_are_then() -> None:
    async def scenario() -> None:
        told = [
            event("MODIFIED", 6),
            event("ADDED", 7, name="other"),
            event("DELETED", 8),
            event("ADDED", 9),
        ]
        async with following(ScriptedApi([FIRST], [[*told, FOREVER]])) as (_, heard):
            await asyncio.sleep(1)
        assert heard.states == [
            {"orders": "v5"},
            {"orders": "v6"},
            {"orders": "v6", "other": "v7"},
            {"other": "v7"},
            {"other": "v7", "orders": "v9"},
        ]

    run_in_virtual_time(scenario())


def test_what_the_sink_was_given_is_its_own() -> None:
    async def scenario() -> None:
        async with following(ScriptedApi([FIRST], [[1.0, event("DELETED", 6), FOREVER]])) as (_, heard):
            given = []
            heard.changed = given.append  # type: ignore[method-assign,assignment]
            await asyncio.sleep(2)
        assert [sorted(objects) for objects in given] == [["orders"], []]

    run_in_virtual_time(scenario())


def test_an_object_that_is_not_there_is_an_empty_answer_and_no_outage() -> None:
    async def scenario() -> None:
        async with following(ScriptedApi([listed(5)], [[10.0, event("ADDED", 6), FOREVER]])) as (reflector, heard):
            await asyncio.sleep(1)
            assert heard.states == [{}]
            assert reflector.status.connected
            await asyncio.sleep(20)
        assert heard.kinds == ["changed", "changed"]

    run_in_virtual_time(scenario())


def test_bookmarks_and_unknown_events_move_the_version_and_tell_nothing() -> None:
    async def scenario() -> None:
        unknown = WatchEvent("RENAMED", config_map(8))
        api = ScriptedApi([FIRST], [[bookmark(7), 10.0], [unknown, 10.0], QUIET])
        async with following(api) as (_, heard):
            await asyncio.sleep(40)
        assert [request.version for request in api.of("watch")] == ["5", "7", "8"]
        assert heard.kinds == ["changed"]

    run_in_virtual_time(scenario())


def test_the_deletion_of_what_was_not_there_tells_nothing() -> None:
    async def scenario() -> None:
        async with following(ScriptedApi([FIRST], [[event("DELETED", 6, name="other"), FOREVER]])) as (_, heard):
            await asyncio.sleep(1)
        assert heard.states == [{"orders": "v5"}]

    run_in_virtual_time(scenario())


# Watches that end


def test_a_watch_that_ends_as_agreed_is_continued_at_once_without_a_list_and_without_a_word() -> None:
    async def scenario() -> None:
        api = ScriptedApi([FIRST], [[400.0]], honest=True)
        async with following(api) as (reflector, heard):
            await asyncio.sleep(2 * HOUR)
            assert reflector.status.connected
        assert len(api.of("list")) == 1
        assert heard.kinds == ["changed"]
        watches = api.of("watch")
        assert all(300 <= request.seconds <= 600 for request in watches)
        assert len({request.seconds for request in watches}) > len(watches) / 2
        assert reflector.status.restarts.keys() == {"ended"}
        gaps = [after.at - before.at - min(400.0, before.seconds) for before, after in itertools.pairwise(watches)]
        assert all(0 <= gap < 0.6 for gap in gaps)
        assert len({round(gap, 2) for gap in gaps}) > 3

    run_in_virtual_time(scenario())


def test_a_quiet_watch_with_bookmarks_lives_as_long_as_was_asked_for() -> None:
    async def scenario() -> None:
        api = ScriptedApi([FIRST], [QUIET], honest=True)
        async with following(api) as (reflector, heard):
            await asyncio.sleep(24 * HOUR)
        assert reflector.status.restarts.keys() == {"ended"}
        assert len(api.asked) < 24 * HOUR / 300 + 2
        assert heard.kinds == ["changed"]

    run_in_virtual_time(scenario())


def test_silence_without_bookmarks_makes_the_watch_anew_every_150_seconds_and_is_no_outage() -> None:
    async def scenario() -> None:
        api = ScriptedApi([FIRST], [QUIET])
        async with following(api) as (reflector, heard):
            await asyncio.sleep(24 * HOUR)
            assert reflector.status.connected
        assert heard.kinds == ["changed"]
        assert reflector.status.restarts.keys() == {"silent"}
        assert len(api.of("list")) == 1
        assert 24 * HOUR / 151 - 2 < len(api.of("watch")) < 24 * HOUR / 150 + 2
        assert api.most_open == 1

    run_in_virtual_time(scenario())


def test_a_half_open_connection_costs_150_seconds_and_then_the_change_is_there() -> None:
    async def scenario() -> None:
        api = ScriptedApi([FIRST], [[60.0, bookmark(6), FOREVER], [event("MODIFIED", 7), FOREVER]])
        async with following(api) as (_, heard):
            await heard.until("changed", {"orders": "v7"}, seconds=60 + 150 + 1)
        assert api.of("watch")[1].version == "6"

    run_in_virtual_time(scenario())


@pytest.mark.parametrize("error", [Unreachable("connection reset"), NOT_NOW, throttled(None)], ids=str)
def test_a_watch_that_breaks_after_having_been_well_is_continued_from_where_it_was_without_a_word(error: KubeError) -> None:
    async def scenario() -> None:
        api = ScriptedApi([FIRST], [[event("MODIFIED", 6), 60.0, error], QUIET])
        async with following(api) as (_, heard):
            await asyncio.sleep(62)
        assert [(request.verb, request.version) for request in api.asked] == [("list", "0"), ("watch", "5"), ("watch", "6")]
        assert "lost" not in heard.kinds

    run_in_virtual_time(scenario())


@pytest.mark.parametrize("error", [GONE, TOO_LARGE, BROKEN, TRUNCATED, ApiError("invalid", status=400)], ids=str)
@pytest.mark.parametrize("when", ["refused", "in the stream at once", "in the stream, later"])
def test_when_the_version_is_in_doubt_the_newest_list_comes_first_at_once_and_without_a_word(error: KubeError, when: str) -> None:
    first: Watch = {"refused": error, "in the stream at once": [error], "in the stream, later": [60.0, error]}[when]

    async def scenario() -> None:
        api = ScriptedApi([FIRST, listed(9, config_map(9))], [first, QUIET])
        async with following(api) as (_, heard):
            await heard.until("changed", {"orders": "v9"}, seconds=61)
            await asyncio.sleep(2)
        asked = [(request.verb, request.version) for request in api.asked]
        assert asked == [("list", "0"), ("watch", "5"), ("list", ""), ("watch", "9")]
        assert "lost" not in heard.kinds

    run_in_virtual_time(scenario())


def test_no_list_asks_for_the_past_once_something_has_been_read() -> None:
    async def scenario() -> None:
        api = ScriptedApi([FIRST, DOWN, NOT_NOW, listed(9)], [[GONE], [GONE], QUIET])
        async with following(api):
            await asyncio.sleep(60)
        assert [request.version for request in api.of("list")] == ["0", "", "", "", ""]

    run_in_virtual_time(scenario())


def test_a_list_whose_version_is_refused_is_asked_for_the_newest() -> None:
    async def scenario() -> None:
        api = ScriptedApi([TOO_LARGE, FIRST], [QUIET])
        async with following(api):
            await asyncio.sleep(10)
        assert [request.version for request in api.of("list")] == ["0", ""]

    run_in_virtual_time(scenario())


def test_a_list_that_cannot_be_reached_may_come_from_the_cache_the_next_time() -> None:
    async def scenario() -> None:
        api = ScriptedApi([DOWN, throttled(1), FIRST], [QUIET])
        async with following(api):
            await asyncio.sleep(10)
        assert [request.version for request in api.of("list")] == ["0", "0", "0"]

    run_in_virtual_time(scenario())


@pytest.mark.parametrize(
    "broken",
    [
        ObjectList("", [config_map(5)]),
        ObjectList("5", [{"data": {}}]),
        ObjectList("5", [{"metadata": {"name": 7}}]),
        ObjectList("5", [{"metadata": "orders"}]),
    ],
    ids=str,
)
def test_a_list_of_another_shape_is_a_bad_answer_that_changes_nothing(broken: ObjectList) -> None:
    async def scenario() -> None:
        api = ScriptedApi([broken, FIRST], [QUIET])
        async with following(api) as (reflector, heard):
            await asyncio.sleep(10)
        assert heard.kinds == ["lost", "changed"]
        assert reflector.status.requests["list", "bad_answer"] == 1

    run_in_virtual_time(scenario())


@pytest.mark.parametrize("shape", [{}, {"metadata": None}, {"metadata": {"resourceVersion": "6"}}, {"metadata": {"name": "x"}}], ids=str)
def test_an_event_of_another_shape_is_a_bad_answer_and_is_listed_anew(shape: dict[str, object]) -> None:
    async def scenario() -> None:
        api = ScriptedApi([FIRST, listed(9, config_map(9))], [[WatchEvent("MODIFIED", shape)], QUIET])
        async with following(api) as (_, heard):
            await asyncio.sleep(10)
        assert heard.states == [{"orders": "v5"}, {"orders": "v9"}]
        assert api.of("list")[1].version == ""

    run_in_virtual_time(scenario())


# Outages


def test_the_first_failure_at_the_start_is_told_at_once_and_only_once() -> None:
    async def scenario() -> None:
        api = ScriptedApi([DOWN], [QUIET])
        async with following(api) as (reflector, heard):
            await asyncio.sleep(0.01)
            assert heard.messages == ["configmaps shop/orders cannot be read: connection refused"]
            assert not reflector.status.connected
            await asyncio.sleep(5 * HOUR)
            assert heard.kinds == ["lost"]
            api.lists = [FIRST]
            await heard.until("changed", seconds=30)
            await asyncio.sleep(10)
        assert heard.kinds == ["lost", "changed"]
        assert reflector.status.requests["list", "ok"] == 1

    run_in_virtual_time(scenario())


def test_an_outage_that_has_another_reason_meanwhile_is_told_again() -> None:
    async def scenario() -> None:
        api = ScriptedApi([FIRST], [DOWN, DOWN, DOWN, FORBIDDEN, FORBIDDEN, DOWN, QUIET])
        async with following(api) as (reflector, heard):
            await heard.until("regained", seconds=90)
            assert reflector.status.problem == ""
        assert heard.kinds == ["changed", "lost", "lost", "lost", "regained"]
        assert ["forbidden" in message for message in heard.messages] == [False, True, False]

    run_in_virtual_time(scenario())


def test_an_outage_is_told_at_its_second_failure_and_its_end_when_a_watch_stays_open() -> None:
    async def scenario() -> None:
        api = ScriptedApi([FIRST], [[60.0, DOWN], DOWN, DOWN, DOWN, QUIET])
        async with following(api) as (reflector, heard):
            await heard.until("lost", seconds=65)
            assert reflector.status.problem == "configmaps shop/orders cannot be read: connection refused"
            await heard.until("regained", seconds=20)
            assert reflector.status.problem == ""
            await asyncio.sleep(HOUR)
        assert heard.kinds == ["changed", "lost", "regained"]
        assert {request.version for request in api.of("watch")} == {"5"}

    run_in_virtual_time(scenario())


def test_one_refusal_between_two_good_watches_is_no_outage() -> None:
    async def scenario() -> None:
        async with following(ScriptedApi([FIRST], [[60.0, DOWN], throttled(1), QUIET])) as (_, heard):
            await asyncio.sleep(HOUR)
        assert heard.kinds == ["changed"]

    run_in_virtual_time(scenario())


def test_a_change_after_an_outage_ends_it() -> None:
    async def scenario() -> None:
        async with following(ScriptedApi([FIRST], [DOWN, DOWN, [event("MODIFIED", 6), FOREVER]])) as (_, heard):
            await asyncio.sleep(10)
        assert heard.kinds == ["changed", "lost", "regained", "changed"]

    run_in_virtual_time(scenario())


def test_watches_that_are_cut_at_once_are_an_outage_that_is_told_once() -> None:
    async def scenario() -> None:
        api = ScriptedApi([FIRST], [[0.5]])
        async with following(api) as (reflector, heard):
            await asyncio.sleep(HOUR)
            assert heard.kinds == ["changed", "lost"]
            assert "ends each watch at once" in heard.messages[0]
            assert reflector.status.requests.keys() == {("list", "ok"), ("watch", "short")}
            api.watches = [QUIET]
            await heard.until("regained", seconds=32)

    run_in_virtual_time(scenario())


def test_a_second_outage_is_told_again() -> None:
    async def scenario() -> None:
        async with following(ScriptedApi([FIRST], [[60.0], DOWN, DOWN, [60.0], DOWN, DOWN, QUIET])) as (_, heard):
            await asyncio.sleep(HOUR)
        assert heard.kinds == ["changed", "lost", "regained", "lost", "regained"]

    run_in_virtual_time(scenario())


def test_a_missing_right_is_named_with_the_rule_that_gives_it() -> None:
    async def scenario(selection: Selection) -> str:
        async with following(ScriptedApi([FORBIDDEN], [QUIET]), selection) as (_, heard):
            await asyncio.sleep(HOUR)
        assert heard.kinds == ["lost"]
        return heard.messages[0]

    said = run_in_virtual_time(scenario(ORDERS))
    assert said.startswith('configmaps shop/orders cannot be read: configmaps "orders" is forbidden; the Role needs the rule ')
    assert said.endswith('{apiGroups: [""], resources: [configmaps], resourceNames: [orders], verbs: [list, watch]} in namespace shop')
    said = run_in_virtual_time(scenario(Selection(ENDPOINT_SLICES, "shop", labels="kubernetes.io/service-name=orders")))
    assert said.endswith("{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]} in namespace shop")


def test_the_right_to_list_without_the_right_to_watch_is_told_once() -> None:
    async def scenario() -> None:
        api = ScriptedApi([FIRST], [FORBIDDEN])
        async with following(api) as (_, heard):
            await asyncio.sleep(5 * HOUR)
            assert heard.kinds == ["changed", "lost"]
            api.watches = [QUIET]
            await heard.until("regained", seconds=62)
        assert len(api.of("list")) == 1

    run_in_virtual_time(scenario())


def test_watches_that_cannot_be_kept_are_replaced_by_lists_and_that_is_no_outage() -> None:
    async def scenario() -> None:
        api = ScriptedApi([FIRST], [[TRUNCATED]])
        async with following(api) as (_, heard):
            await asyncio.sleep(HOUR)
            assert set(heard.kinds) == {"changed"}
            api.lists = [listed(9, config_map(9))]
            await heard.until("changed", {"orders": "v9"}, seconds=31)

    run_in_virtual_time(scenario())


@pytest.mark.expects_traceback("cannot follow configmaps shop/orders")
def test_a_bug_of_the_sink_is_logged_and_does_not_end_the_watch_for_ever() -> None:
    async def scenario() -> None:
        api = ScriptedApi([FIRST, FIRST, listed(9, config_map(9))], [[60.0, event("MODIFIED", 6), FOREVER], QUIET])
        async with following(api) as (reflector, heard):
            understood = heard.changed

            def fail_once(_: object) -> None:
                heard.changed = understood  # type: ignore[method-assign]
                raise ZeroDivisionError

            heard.changed = fail_once  # type: ignore[method-assign]
            await heard.until("changed", {"orders": "v5"}, seconds=2)
            heard.changed = fail_once  # type: ignore[method-assign]
            await heard.until("changed", {"orders": "v9"}, seconds=65)
            assert reflector.status.requests == {("list", "bug"): 1, ("list", "ok"): 2, ("watch", "bug"): 1}
            await asyncio.sleep(10)
            assert reflector.status.connected

    run_in_virtual_time(scenario())


# Its end


@pytest.mark.parametrize("after", [0.0, 0.0005, 0.5, 1.5])
@pytest.mark.parametrize("watches", [[QUIET], [DOWN], [GONE], [[0.1]]], ids=str)
def test_cancelling_it_at_any_time_closes_the_watch(watches: Sequence[Watch], after: float) -> None:
    async def scenario() -> None:
        api = ScriptedApi([FIRST], watches)
        async with following(api) as (reflector, _):
            await asyncio.sleep(after)
        assert api.open == 0
        assert not reflector.status.connected

    run_in_virtual_time(scenario())
