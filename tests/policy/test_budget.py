"""The retry budget (product.md 3.3 and 3.9) on a virtual clock."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.model.snapshot import RetryBudget
from sidecar.policy.budget import RetryBudgetMeter


def spend_all(meter, now):
    granted = 0
    while meter.try_spend(now):
        granted += 1
    return granted


def test_without_requests_the_minimum_rate_is_granted():
    meter = RetryBudgetMeter(RetryBudget())
    assert meter.available(100.0) == 10
    assert spend_all(meter, 100.0) == 10
    assert meter.available(100.0) == 0


def test_the_minimum_rate_comes_back_after_its_own_interval():
    meter = RetryBudgetMeter(RetryBudget(min_retries=3, min_interval=2.0))
    assert spend_all(meter, 50.0) == 3
    assert spend_all(meter, 51.9) == 0
    assert spend_all(meter, 52.2) == 3


def test_a_share_of_the_requests_of_the_interval_is_granted_on_top():
    meter = RetryBudgetMeter(RetryBudget(percent=20, min_retries=0))
    for _ in range(100):
        meter.request(10.0)
    assert meter.available(10.0) == 20
    assert spend_all(meter, 10.0) == 20


def test_requests_older_than_the_interval_give_nothing():
    meter = RetryBudgetMeter(RetryBudget(percent=50, interval=10.0, min_retries=0))
    for _ in range(10):
        meter.request(0.0)
    assert meter.available(9.0) == 5
    assert meter.available(10.1) == 0


def test_fractions_add_up():
    meter = RetryBudgetMeter(RetryBudget(percent=20, min_retries=0))
    outcome = []
    for _ in range(10):
        meter.request(1.0)
        outcome.append(meter.try_spend(1.0))
    assert outcome == [False, False, False, False, True] * 2


@pytest.mark.parametrize(
    "policy", [RetryBudget(percent=0, min_retries=0), RetryBudget(percent=0, min_retries=0, interval=0.001, min_interval=3600.0)]
)
def test_a_budget_of_nothing_grants_nothing(policy):
    meter = RetryBudgetMeter(policy)
    meter.request(1.0)
    assert not meter.try_spend(1.0)


def test_a_long_silence_is_forgotten_at_once():
    meter = RetryBudgetMeter(RetryBudget(percent=100, min_retries=0))
    for step in range(1000):
        meter.request(step * 0.01)
    assert meter.available(1e9) == 0


EVENTS = st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=150)


@settings(max_examples=150, deadline=None)
@given(EVENTS, st.sampled_from([0.0, 10.0, 20.0, 100.0]), st.integers(0, 3))
def test_no_window_ever_holds_more_retries_than_the_policy_says(events, percent, min_retries):
    policy = RetryBudget(percent=percent, interval=10.0, min_retries=min_retries, min_interval=1.0)
    meter = RetryBudgetMeter(policy)
    now, requests, spent = 1000.0, [], []
    for step, is_request in events:
        now += step
        if is_request:
            meter.request(now)
            requests.append(now)
            continue
        left = meter.available(now)
        granted = meter.try_spend(now)
        assert granted == (left >= 1 - 1e-6)
        if granted:
            spent.append(now)
            in_window = sum(at > now - policy.interval for at in spent)
            earned = percent / 100 * sum(at > now - policy.interval for at in requests)
            assert in_window <= earned + min_retries * (policy.interval / policy.min_interval + 1) + 1e-6
