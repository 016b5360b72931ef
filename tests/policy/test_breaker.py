"""The circuit breaker on a virtual clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.model.health import CircuitBreaking
from sidecar.policy.breaker import Circuit, CircuitBreaker


def opened(at: float = 100.0, **policy: float) -> CircuitBreaker:
    breaker = CircuitBreaker(CircuitBreaking(**{"consecutive_failures": 2, "open_for": 10.0, **policy}))  # type: ignore[arg-type]  # counts are whole
    breaker.learn(at, failed=True)
    assert breaker.learn(at, failed=True)
    return breaker


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    breaker = CircuitBreaker(CircuitBreaking(consecutive_failures=3))
    outcomes = [True, True, False, True, True, True]
    assert [breaker.learn(1.0, failed=failed) for failed in outcomes] == [False] * 5 + [True]
    assert breaker.state is Circuit.OPEN
    assert breaker.opened == 1


def test_open_it_refuses_and_says_after_how_many_seconds_to_ask_again() -> None:
    breaker = opened()
    assert breaker.admit(100.0) == 10
    assert breaker.admit(109.5) == 1


def test_after_its_time_it_lets_as_many_trials_through_as_it_may_and_no_more() -> None:
    breaker = opened(half_open_requests=2)
    assert [breaker.admit(110.0) for _ in range(4)] == [0, 0, 1, 1]
    assert breaker.state is Circuit.HALF_OPEN


def test_it_closes_when_all_trials_have_succeeded() -> None:
    breaker = opened(half_open_requests=2)
    breaker.admit(110.0)
    breaker.admit(110.0)
    assert not breaker.learn(111.0, failed=False)
    assert breaker.learn(111.0, failed=False)
    assert breaker.state is Circuit.CLOSED
    assert breaker.admit(111.0) == 0


def test_the_first_failed_trial_opens_it_again_for_its_whole_time() -> None:
    breaker = opened()
    assert breaker.admit(110.0) == 0
    assert breaker.learn(115.0, failed=True)
    assert breaker.admit(115.0) == 10
    assert breaker.opened == 2


def test_a_trial_whose_client_left_makes_room_for_another() -> None:
    breaker = opened()
    assert [breaker.admit(110.0), breaker.admit(110.0)] == [0, 1]
    breaker.unlearned()
    assert breaker.admit(110.0) == 0


def test_what_ends_while_it_is_open_changes_nothing() -> None:
    breaker = opened()
    assert not breaker.learn(101.0, failed=False)
    assert not breaker.learn(101.0, failed=True)
    assert breaker.admit(105.0) == 5


def test_after_closing_failures_are_counted_from_nothing() -> None:
    breaker = opened()
    breaker.admit(110.0)
    breaker.learn(110.0, failed=False)
    assert not breaker.learn(111.0, failed=True)


@given(st.lists(st.sampled_from(["admit", "good", "bad", "nothing", "wait"]), max_size=60), st.integers(1, 3))
def test_half_open_never_more_trials_are_out_than_may_be(steps: list[str], most: int) -> None:
    breaker = CircuitBreaker(CircuitBreaking(consecutive_failures=1, open_for=10.0, half_open_requests=most))
    now, out = 0.0, 0
    for step in steps:
        if step == "wait":
            now += 10.0
        elif step == "admit":
            was_closed = breaker.state is Circuit.CLOSED
            if breaker.admit(now) == 0:
                out = 0 if was_closed else out + 1
        elif out or breaker.state is Circuit.CLOSED:
            if step == "nothing":
                breaker.unlearned()
            elif breaker.learn(now, failed=step == "bad"):
                out = 0
                continue
            out = max(out - 1, 0)
        assert breaker.state is not Circuit.HALF_OPEN or out <= most
