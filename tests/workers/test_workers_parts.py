"""The rules by which several processes become one: parts of a limit, seats, back-off, and views put together."""

from __future__ import annotations

import os

import pytest

from sidecar.model.status import EndpointStatus, HealthStatus, UpstreamStatus
from sidecar.workers import views
from sidecar.workers.crew import FIRST_DELAY, LONGEST_DELAY, delay
from sidecar.workers.seats import COLUMNS, Seats
from sidecar.workers.worker import part_of


@pytest.mark.parametrize("of", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("limit", [1, 2, 3, 64, 65, 1000])
def test_the_parts_of_a_limit_are_the_limit_and_differ_by_one_at_most(limit: int, of: int) -> None:
    parts = [part_of(limit, number, of) for number in range(of)]
    allowed = [max(part, 0) for part in parts]  # below zero: none
    assert 0 not in parts
    assert sum(allowed) == limit
    assert max(allowed) - min(allowed) <= 1


def test_no_limit_is_no_limit_for_anybody() -> None:
    assert [part_of(0, number, 3) for number in range(3)] == [0, 0, 0]


def test_who_has_the_fewest_connections_takes_the_next_ones_until_all_have_as_many() -> None:
    ours = Seats(3)
    theirs = Seats(3, os.dup(ours.descriptor))
    column = ours.new_column()
    one, two, three = (theirs.seat(column, number) for number in range(3))
    one.report(0)
    assert one.room() >= 32  # nobody else is there
    two.report(0)
    assert (one.room(), two.room()) == (1, 1)
    one.report(5)
    assert (one.room(), two.room()) == (-4, 6)
    three.report(2)
    assert (one.room(), two.room(), three.room()) == (-4, 3, -1)
    two.leave()
    assert (one.room(), three.room()) == (-2, 4)
    ours.absent(2)
    assert one.room() >= 32
    ours.close()
    theirs.close()


def test_columns_are_apart_and_a_new_one_is_empty() -> None:
    seats = Seats(2)
    first, second = seats.new_column(), seats.new_column()
    seats.seat(first, 0).report(9)
    seats.seat(second, 0).report(0)
    seats.seat(second, 1).report(0)
    assert seats.seat(second, 1).room() == 1
    for _ in range(COLUMNS - 2):
        seats.new_column()
    assert seats.new_column() == first
    seats.seat(first, 1).report(0)
    assert seats.seat(first, 1).room() >= 32
    seats.close()


def test_the_back_off_begins_small_doubles_and_is_bounded() -> None:
    assert [delay(number) for number in range(4)] == [0.0, FIRST_DELAY, FIRST_DELAY * 2, FIRST_DELAY * 4]
    assert delay(1_000_000) == LONGEST_DELAY


# -- views


def upstream(name: str = "app", **more: object) -> UpstreamStatus:
    values: dict[str, object] = {
        "name": name,
        "source": "static",
        "endpoints": (),
        "connections_active": 1,
        "connections_idle": 2,
        "connections_connecting": 3,
        "pending": 4,
        "learned_idle_timeout": None,
        "budget_available": 10.0,
    }
    return UpstreamStatus(**{**values, **more})  # type: ignore[arg-type]


def endpoint(address: str, *, state: str = "healthy", active: int = 1) -> EndpointStatus:
    return EndpointStatus(address=address, state=state, weight=1, active=active, requests=10, failures=2)


def test_of_an_upstream_what_is_counted_adds_up() -> None:
    one = upstream(endpoints=(endpoint("a:1"), endpoint("b:1")), learned_idle_timeout=5.0)
    two = upstream(endpoints=(endpoint("b:1", state="draining"), endpoint("c:1")), learned_idle_timeout=3.0, problem="dns")
    (both,) = views.upstreams([[one], [two]])
    assert (both.connections_active, both.connections_idle, both.connections_connecting, both.pending) == (2, 4, 6, 8)
    assert (both.learned_idle_timeout, both.budget_available, both.problem) == (3.0, 20.0, "dns")
    assert [(one.address, one.state, one.active, one.requests, one.failures) for one in both.endpoints] == [
        ("a:1", "healthy", 1, 10, 2),
        ("b:1", "healthy", 2, 20, 4),
        ("c:1", "healthy", 1, 10, 2),
    ]


def test_health_is_shown_as_it_is_where_it_is_worst() -> None:
    one = upstream(copies={"sent": 1}, health=HealthStatus(circuit="closed", ejections={"errors": 1}, checks={"success": 3}))
    two = upstream(copies={"sent": 2}, health=HealthStatus(circuit="half-open", circuit_opened=1, checks={"success": 1, "failure": 1}))
    (both,) = views.upstreams([[one], [two]])
    assert both.copies == {"sent": 3}
    assert both.health == HealthStatus(circuit="half-open", circuit_opened=1, ejections={"errors": 1}, checks={"success": 4, "failure": 1})
    assert views.upstreams([[upstream()]])[0].health is None


def test_an_endpoint_that_is_there_twice_stays_two() -> None:
    twice = upstream(endpoints=(endpoint("a:1"), endpoint("a:1", active=5)))
    (both,) = views.upstreams([[twice], [twice]])
    assert [one.active for one in both.endpoints] == [2, 10]


def test_upstreams_keep_the_order_of_the_document_and_one_that_a_worker_does_not_have_yet_is_there() -> None:
    found = views.upstreams([[upstream("a")], [upstream("a"), upstream("b")]])
    assert [one.name for one in found] == ["a", "b"]
    assert views.upstreams([]) == []


def test_a_listener_listens_while_it_does_anywhere() -> None:
    def listener(state: str) -> dict[str, object]:
        return {"name": "in", "address": "0.0.0.0", "port": 1, "state": state, "problem": ""}

    assert views.listeners([[listener("closed")], [listener("draining")]]) == [listener("draining")]
    assert views.listeners([[listener("draining")], [listener("listening")], [listener("closed")]]) == [listener("listening")]


def test_connections_add_up_and_the_list_has_an_end() -> None:
    one = {"in": {"open": 150, "limit": 0, "idle": 150, "connections": [{"n": number} for number in range(150)]}}
    two = {"in": {"open": 151, "limit": 0, "idle": 150, "active": 1, "connections": [{"n": number} for number in range(151)]}}
    total = views.connections([one, two], {"in": 500})["in"]
    assert (total["open"], total["limit"], total["idle"], total["active"], len(total["connections"])) == (301, 500, 300, 1, 200)
    assert one["in"]["open"] == 150


def record(name: str, second: int, milliseconds: float) -> dict[str, object]:
    return {"requestId": name, "time": f"2026-01-01T00:00:{second:02d}.000Z", "durationMs": milliseconds}


def test_failures_are_told_by_their_end_and_slow_ones_by_how_long_they_took() -> None:
    early, late, long = record("early", 1, 5.0), record("late", 2, 5.0), record("long", 0, 9000.0)
    assert [one["requestId"] for one in views.failures([[late], [long, early]])] == ["long", "late", "early"]
    both = views.recent([{"failures": [late] * 200, "slowest": [early] * 40}, {"failures": [early] * 200, "slowest": [long] * 40}])
    assert (len(both["failures"]), len(both["slowest"])) == (256, 64)
    assert [one["requestId"] for one in both["slowest"][38:42]] == ["long", "long", "early", "early"]
    assert len(views.why([[late], [early]], "")) == 1
    assert len(views.why([[late], [early]], "id")) == 2


def process(pid: int, *, files: int, share: float) -> dict[str, object]:
    return {
        "pid": pid,
        "uptimeSeconds": 1.0,
        "tasks": 3,
        "fileDescriptors": {"open": files, "limit": 100},
        "memory": {"rssBytes": 10, "limitBytes": 1000, "workingSetBytes": 50},
        "cpu": {"seconds": 1.5, "throttledSeconds": 0.5, "limitCores": 2.0},
        "loopLag": {"p50": 0.1 * pid, "p99": 0.2, "max": 0.3},
        "loopBlocked": {"count": {"code": pid}, "last": [{"time": f"2026-01-01T00:00:0{pid}Z"}]},
        "network": {},
        "limits": [{"resource": "file_descriptors", "share": share}],
        "overload": {"level": "shed" if pid == 2 else "none", "resource": None, "mostRequests": 10, "actions": {"idle_closed": pid}},
    }


def test_of_the_runtime_some_adds_up_and_some_is_of_whoever_has_the_most() -> None:
    shown = views.runtime(process(1, files=5, share=0.05), {0: process(2, files=90, share=0.9), 1: process(3, files=7, share=0.07)})
    assert (shown["pid"], shown["tasks"], shown["memory"]["rssBytes"], shown["cpu"]["seconds"]) == (1, 9, 30, 4.5)
    assert shown["fileDescriptors"] == {"open": 90, "limit": 100}
    assert (shown["loopLag"]["p50"], shown["loopBlocked"]["count"]) == (pytest.approx(0.3), {"code": 6})
    assert [block["time"][-2] for block in shown["loopBlocked"]["last"]] == ["3", "2", "1"]
    assert shown["limits"] == [{"resource": "file_descriptors", "share": 0.9}]
    assert shown["overload"] == {"level": "shed", "resource": None, "mostRequests": 20, "actions": {"idle_closed": 6}}
    assert [(one["worker"], one["pid"]) for one in shown["workers"]] == [(0, 2), (1, 3)]
