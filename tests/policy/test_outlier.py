"""Outlier detection on a virtual clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.model.endpoint import Endpoint
from sidecar.model.health import OutlierDetection, SuccessRate
from sidecar.policy.outlier import CONSECUTIVE, SUCCESS_RATE, OutlierDetector


def never() -> float:
    return 0.0


def endpoint() -> Endpoint:
    return Endpoint("10.0.0.1", 80)


def fail(detector: OutlierDetector, at: Endpoint, times: int, now: float = 1.0) -> list[str]:
    return [detector.learn(at, now, failed=True) for _ in range(times)]


def test_so_many_failures_in_a_row_are_a_reason_and_fewer_are_not() -> None:
    detector = OutlierDetector(OutlierDetection(consecutive_failures=3))
    assert fail(detector, endpoint(), 3) == ["", "", CONSECUTIVE]


def test_a_success_between_them_begins_the_count_anew() -> None:
    detector, one = OutlierDetector(OutlierDetection(consecutive_failures=3)), endpoint()
    fail(detector, one, 2)
    assert detector.learn(one, 1.0, failed=False) == ""
    assert fail(detector, one, 3) == ["", "", CONSECUTIVE]


def test_endpoints_are_judged_each_by_itself() -> None:
    detector, one, two = OutlierDetector(OutlierDetection(consecutive_failures=2)), endpoint(), endpoint()
    assert fail(detector, one, 1) == fail(detector, two, 1) == [""]
    assert fail(detector, two, 1) == [CONSECUTIVE]


def test_a_share_of_successes_below_the_threshold_is_a_reason_once_there_are_requests_enough() -> None:
    policy = OutlierDetection(consecutive_failures=100, success_rate=SuccessRate(threshold=0.8, window=10.0, min_requests=10))
    detector, one = OutlierDetector(policy), endpoint()
    verdicts = [detector.learn(one, 5.0 + number * 0.01, failed=number % 2 == 1) for number in range(10)]
    assert verdicts == [""] * 9 + [SUCCESS_RATE]


def test_a_success_is_never_what_ejects() -> None:
    policy = OutlierDetection(consecutive_failures=100, success_rate=SuccessRate(threshold=1.0, window=10.0, min_requests=2))
    detector, one = OutlierDetector(policy), endpoint()
    fail(detector, one, 1)
    assert detector.learn(one, 1.0, failed=False) == ""


def test_failures_that_are_older_than_the_window_are_forgotten() -> None:
    policy = OutlierDetection(consecutive_failures=100, success_rate=SuccessRate(threshold=0.8, window=10.0, min_requests=4))
    detector, one = OutlierDetector(policy), endpoint()
    fail(detector, one, 3, now=1.0)
    for number in range(20):
        assert detector.learn(one, 12.0 + number * 0.01, failed=False) == ""
    assert detector.learn(one, 12.5, failed=True) == ""


def test_the_penalty_doubles_with_each_ejection_up_to_its_maximum() -> None:
    detector, one = OutlierDetector(OutlierDetection(consecutive_failures=1, min_penalty=1.0, max_penalty=5.0)), endpoint()
    now, penalties = 100.0, []
    for _ in range(4):
        fail(detector, one, 1, now)
        penalties.append(detector.eject(one, now, never))
        now += penalties[-1]
        detector.restore(one, now)
    assert penalties == [1.0, 2.0, 4.0, 5.0]


def test_an_endpoint_that_was_well_for_longer_than_the_longest_penalty_begins_anew() -> None:
    detector, one = OutlierDetector(OutlierDetection(consecutive_failures=1, min_penalty=1.0, max_penalty=5.0)), endpoint()
    for now in (100.0, 102.0):
        fail(detector, one, 1, now)
        detector.eject(one, now, never)
        detector.restore(one, now + 1)
    fail(detector, one, 1, 200.0)
    assert detector.eject(one, 200.0, never) == 1.0


def test_on_probation_one_failure_is_enough_and_one_success_ends_it() -> None:
    detector, one = OutlierDetector(OutlierDetection(consecutive_failures=3)), endpoint()
    fail(detector, one, 3)
    detector.eject(one, 1.0, never)
    detector.restore(one, 2.0)
    assert fail(detector, one, 1, 2.5) == [CONSECUTIVE]
    detector.restore(one, 4.0)
    detector.learn(one, 4.5, failed=False)
    assert fail(detector, one, 2, 5.0) == ["", ""]


def test_penalties_differ_by_a_tenth_at_most() -> None:
    detector, one = OutlierDetector(OutlierDetection(consecutive_failures=1, min_penalty=10.0)), endpoint()
    fail(detector, one, 1)
    assert detector.eject(one, 1.0, lambda: 0.999) < 11.0


@given(share=st.floats(0, 1), total=st.integers(0, 50), away=st.integers(0, 50))
def test_never_more_than_the_share_and_never_the_last_one(share: float, total: int, away: int) -> None:
    detector = OutlierDetector(OutlierDetection(max_ejection=share))
    if detector.may_eject(away=away, total=total):
        assert away + 1 <= share * total
        assert away + 1 < total


def test_half_of_three_is_one_and_of_two_is_one() -> None:
    detector = OutlierDetector(OutlierDetection(max_ejection=0.5))
    assert [detector.may_eject(away=away, total=total) for away, total in ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (1, 4))] == [
        False,
        True,
        False,
        True,
        False,
        True,
    ]


def test_what_has_left_the_upstream_is_forgotten() -> None:
    detector, one = OutlierDetector(OutlierDetection(consecutive_failures=2)), endpoint()
    fail(detector, one, 1)
    detector.forget(one)
    detector.restore(one, 2.0)
    assert fail(detector, one, 1) == [""]
