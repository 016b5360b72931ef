"""Learning how long a server keeps idle connections, with a clock of our own."""

from __future__ import annotations

import pytest

from sidecar.policy.deadline import NEVER
from sidecar.upstream.keepalive import CONFIRMED_FOR, UNCONFIRMED_FOR, KeepAlive, announced_timeout


def test_until_something_is_learned_the_configured_limit_holds() -> None:
    assert KeepAlive(4.0, enabled=True).limit(0.0) == 4.0
    assert KeepAlive(0.0, enabled=True).limit(0.0) == NEVER


@pytest.mark.parametrize(("age", "limit"), [(2.0, 1.6), (1.0, 0.8), (0.6, 0.4), (10.0, 4.0)])
def test_after_a_server_closed_an_idle_connection_others_are_kept_a_fifth_shorter(age: float, limit: float) -> None:
    keep_alive = KeepAlive(4.0, enabled=True)
    keep_alive.closed_by_server(age, 100.0)
    assert keep_alive.limit(100.0) == pytest.approx(limit)
    assert keep_alive.learned(100.0) == age


def test_a_later_shorter_life_lowers_the_limit_and_a_longer_one_does_not_raise_it() -> None:
    keep_alive = KeepAlive(4.0, enabled=True)
    for at, age in ((10.0, 3.0), (20.0, 2.0), (30.0, 3.5)):
        keep_alive.closed_by_server(age, at)
    assert keep_alive.learned(30.0) == 2.0


def test_what_was_seen_once_is_forgotten_sooner_than_what_was_seen_again() -> None:
    once, again = KeepAlive(4.0, enabled=True), KeepAlive(4.0, enabled=True)
    once.closed_by_server(2.0, 0.0)
    again.closed_by_server(2.0, -1.0)
    again.closed_by_server(2.1, 0.0)
    assert (once.learned(UNCONFIRMED_FOR - 1), again.learned(UNCONFIRMED_FOR - 1)) == (2.0, 2.0)
    assert (once.learned(UNCONFIRMED_FOR), again.learned(UNCONFIRMED_FOR)) == (None, 2.0)
    assert again.learned(CONFIRMED_FOR) is None


def test_a_server_that_stops_closes_connections_of_any_age_and_teaches_nothing() -> None:
    keep_alive = KeepAlive(4.0, enabled=True)
    for age in (0.7, 3.9, 3.0, 3.1, 0.01):
        keep_alive.closed_by_server(age, 100.0)
    assert keep_alive.learned(100.0) is None


def test_a_server_that_stops_does_not_make_us_forget_what_was_known() -> None:
    keep_alive = KeepAlive(4.0, enabled=True)
    keep_alive.closed_by_server(3.0, 90.0)
    for age in (0.7, 3.9):
        keep_alive.closed_by_server(age, 100.0)
    assert keep_alive.learned(100.0) == 3.0


def test_a_server_that_looks_once_a_second_closes_connections_of_similar_age_at_one_moment() -> None:
    keep_alive = KeepAlive(4.0, enabled=True)
    for age in (2.9, 2.0, 2.4):
        keep_alive.closed_by_server(age, 100.0)
    assert keep_alive.learned(100.0) == 2.0


def test_connections_that_were_barely_idle_teach_nothing() -> None:
    keep_alive = KeepAlive(4.0, enabled=True)
    keep_alive.closed_by_server(0.1, 100.0)
    assert keep_alive.limit(100.0) == 4.0


def test_what_the_server_announces_counts_until_it_says_otherwise() -> None:
    keep_alive = KeepAlive(60.0, enabled=True)
    keep_alive.announced(5)
    assert keep_alive.limit(0.0) == pytest.approx(4.0)
    keep_alive.announced(20)
    assert keep_alive.limit(1e6) == pytest.approx(16.0)
    keep_alive.announced(0)
    assert keep_alive.limit(1e6) == pytest.approx(16.0)


def test_switched_off_it_learns_nothing() -> None:
    keep_alive = KeepAlive(4.0, enabled=False)
    keep_alive.closed_by_server(1.0, 0.0)
    keep_alive.announced(1)
    assert keep_alive.limit(0.0) == 4.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"timeout=5", 5),
        (b"max=100, Timeout = 15", 15),
        (b'timeout="5"', 5),
        (b"max=100", None),
        (b"timeout=", None),
        (b"timeout=-1", None),
        (b"timeout=" + b"9" * 99, None),
        (b"", None),
    ],
)
def test_the_keep_alive_field_is_read_as_servers_write_it(value: bytes, seconds: int | None) -> None:
    assert announced_timeout(value) == seconds
