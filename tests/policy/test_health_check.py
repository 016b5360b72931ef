"""What the answers to health checks mean."""

from __future__ import annotations

import pytest

from sidecar.model.health import HealthCheck
from sidecar.policy.health_check import CheckRecord, passes


def test_an_endpoint_is_healthy_until_so_many_checks_in_a_row_have_failed() -> None:
    record = CheckRecord(HealthCheck(unhealthy_threshold=3))
    answers = [False, False, True, False, False, False, False]
    assert [record.learn(passed=passed) for passed in answers] == [False, False, False, False, False, True, False]
    assert not record.healthy


def test_it_comes_back_after_so_many_that_have_passed() -> None:
    record = CheckRecord(HealthCheck(unhealthy_threshold=1, healthy_threshold=2))
    record.learn(passed=False)
    assert [record.learn(passed=passed) for passed in (True, False, True, True)] == [False, False, False, True]
    assert record.healthy


@pytest.mark.parametrize(("status", "well"), [(200, True), (204, True), (302, True), (399, True), (400, False), (404, False), (503, False)])
def test_any_2xx_or_3xx_passes(status: int, *, well: bool) -> None:
    assert passes(status) is well
