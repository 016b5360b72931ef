"""The clocks of product.md 3.2 on a virtual clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.model.reason import Clock
from sidecar.model.snapshot import Timeouts
from sidecar.policy.deadline import NEVER, Deadlines


def test_no_clock_runs_by_itself():
    clocks = Deadlines(Timeouts())
    assert clocks.next_at() == NEVER
    assert clocks.fired(1e12) is None


@pytest.mark.parametrize("clock", [Clock.QUEUE, Clock.CONNECT, Clock.RESPONSE_HEADER, Clock.UPGRADE_HANDSHAKE])
def test_a_phase_clock_fires_at_its_instant_and_is_named(clock):
    clocks = Deadlines(Timeouts())
    clocks.arm_phase(clock, 100.0, 5.0)
    assert clocks.next_at() == 105.0
    assert (clocks.fired(104.999), clocks.fired(105.0)) == (None, clock)


def test_zero_seconds_mean_off():
    clocks = Deadlines(Timeouts())
    clocks.arm_phase(Clock.QUEUE, 100.0, 5.0)
    clocks.arm_phase(Clock.RESPONSE_HEADER, 101.0, 0.0)
    assert clocks.fired(1e9) is None


def test_the_clock_of_a_phase_takes_the_place_of_the_one_before():
    clocks = Deadlines(Timeouts())
    clocks.arm_phase(Clock.QUEUE, 0.0, 5.0)
    clocks.arm_phase(Clock.CONNECT, 4.0, 5.0)
    assert (clocks.fired(8.9), clocks.fired(9.0)) == (None, Clock.CONNECT)


def test_a_phase_that_is_over_fires_no_more():
    clocks = Deadlines(Timeouts())
    clocks.arm_phase(Clock.CONNECT, 0.0, 5.0)
    clocks.disarm_phase()
    assert clocks.fired(10.0) is None


def test_clocks_are_independent_and_the_first_to_fire_is_named():
    clocks = Deadlines(Timeouts())
    clocks.request_at, clocks.attempt_at = 10.0, 7.0
    clocks.arm_phase(Clock.RESPONSE_HEADER, 0.0, 8.0)
    assert clocks.next_at() == 7.0
    assert clocks.fired(20.0) is Clock.BACKEND_REQUEST
    clocks.attempt_at = NEVER
    assert clocks.fired(20.0) is Clock.RESPONSE_HEADER
    clocks.disarm_phase()
    assert clocks.fired(20.0) is Clock.REQUEST


def test_of_two_that_fire_at_once_the_narrower_is_named():
    clocks = Deadlines(Timeouts())
    clocks.request_at = clocks.attempt_at = 5.0
    clocks.arm_phase(Clock.CONNECT, 0.0, 5.0)
    assert clocks.fired(5.0) is Clock.CONNECT
    clocks.disarm_phase()
    assert clocks.fired(5.0) is Clock.BACKEND_REQUEST


def test_the_idle_clock_counts_from_the_last_byte():
    clocks = Deadlines(Timeouts())
    clocks.idle, clocks.moved_at = 300.0, 1000.0
    assert (clocks.fired(1299.0), clocks.fired(1300.0)) == (None, Clock.STREAM_IDLE)
    clocks.moved_at = 1299.0
    assert clocks.fired(1300.0) is None
    assert clocks.next_at() == 1599.0


def test_a_client_that_is_slow_with_its_body_is_named():
    clocks = Deadlines(Timeouts())
    clocks.body_at = 60.0
    assert clocks.fired(60.0) is Clock.BODY_IDLE


def test_a_callers_deadline_can_only_shorten_the_request_clock():
    clocks = Deadlines(Timeouts())
    clocks.shorten_request(50.0)
    clocks.shorten_request(80.0)
    assert clocks.request_at == 50.0


def test_in_a_tunnel_only_tunnel_idle_applies():
    clocks = Deadlines(Timeouts())
    clocks.request_at = clocks.attempt_at = clocks.body_at = 5.0
    clocks.idle = 1.0
    clocks.arm_phase(Clock.UPGRADE_HANDSHAKE, 0.0, 5.0)
    clocks.become_tunnel(4.0, 3600.0)
    assert (clocks.fired(3603.9), clocks.fired(3604.0)) == (None, Clock.TUNNEL_IDLE)


def test_a_tunnel_without_an_idle_clock_lasts_for_ever():
    clocks = Deadlines(Timeouts())
    clocks.become_tunnel(0.0, 0.0)
    assert clocks.next_at() == NEVER


INSTANTS = st.one_of(st.just(NEVER), st.floats(0, 100))


@given(st.tuples(INSTANTS, INSTANTS, INSTANTS, INSTANTS), st.floats(0, 50), st.floats(0, 50), st.floats(0, 200))
def test_a_clock_has_fired_exactly_when_the_earliest_instant_has_passed(instants, idle, moved_at, now):
    clocks = Deadlines(Timeouts())
    clocks.request_at, clocks.attempt_at, clocks.phase_at, clocks.body_at = instants
    clocks.idle, clocks.moved_at = idle, moved_at
    assert (clocks.fired(now) is not None) == (clocks.next_at() <= now)
