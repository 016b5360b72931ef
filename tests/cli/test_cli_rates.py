"""Rates from two looks at the metrics."""

from __future__ import annotations

from sidecar.cli.rates import Counts, rates, totals


def test_counters_are_summed_by_listener_and_by_upstream() -> None:
    found = totals(
        'outrider_requests_total{listener="in",upstream="a",code="200"} 3\n'
        'outrider_requests_total{listener="in",upstream="b",code="502"} 2\n'
        'outrider_retries_total{route="r",upstream="a",reason="x"} 4\n'
        'outrider_request_bytes_total{listener="in",upstream="a"} 10\n'
        'outrider_requests_total{listener="",upstream="",code="404"} 9\n'
    )
    assert found == {
        ("listener", "in"): Counts(requests=5, errors=2, bytes=10),
        ("upstream", "a"): Counts(requests=3, retries=4, bytes=10),
        ("upstream", "b"): Counts(requests=2, errors=2),
    }


def test_a_rate_is_the_difference_per_second() -> None:
    key = ("listener", "in")
    assert rates({key: Counts(requests=10)}, {key: Counts(requests=30)}, 2.0) == {key: Counts(requests=10.0)}


def test_a_counter_that_went_back_counts_from_zero() -> None:
    key = ("listener", "in")
    assert rates({key: Counts(requests=100)}, {key: Counts(requests=4)}, 2.0) == {key: Counts(requests=2.0)}
