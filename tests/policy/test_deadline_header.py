"""`x-request-timeout-ms` (interface.md section 3)."""

from __future__ import annotations

import pytest

from sidecar.policy.deadline_header import parse_timeout, render_timeout


@pytest.mark.parametrize(("value", "seconds"), [(b"1500", 1.5), (b"0", 0.0), (b"1", 0.001), (b"007", 0.007), (b"9999999999", 9999999.999)])
def test_milliseconds_are_read_as_seconds(value, seconds):
    assert parse_timeout(value) == seconds


@pytest.mark.parametrize(
    "value", [b"", b"-1", b"+1", b"1.5", b"1e3", b"0x10", b"1_0", b" 1", b"1,2", b"12345678901", b"9" * 10_000, "٣".encode(), b"\xb2"]
)
def test_what_is_not_a_bounded_number_says_nothing(value):
    assert parse_timeout(value) is None


@pytest.mark.parametrize(("seconds", "value"), [(1.5, b"1500"), (0.0019, b"1"), (0.0001, b"1"), (-3.0, b"1"), (86400.0, b"86400000")])
def test_what_is_left_is_rounded_down_and_never_zero(seconds, value):
    assert render_timeout(seconds) == value
