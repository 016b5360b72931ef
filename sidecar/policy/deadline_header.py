"""`x-request-timeout-ms`: milliseconds left of the `request` clock, as the caller sees it (interface.md section 3)."""

from __future__ import annotations

from typing import Final

NAME: Final = b"x-request-timeout-ms"
_MAX_DIGITS: Final = 10


def parse_timeout(value: bytes) -> float | None:
    """Seconds left, or None when `value` says nothing that we take: only digits, at most ten (115 days).

    None for what is not a number, so that a broken caller gets our own clocks instead of an error.
    """
    if not value.isdigit() or len(value) > _MAX_DIGITS:
        return None
    return int(value) / 1000


def render_timeout(seconds: float) -> bytes:
    """What is left, rounded down; never 0, which would say that it is over while we still send the request."""
    return b"%d" % max(1, int(seconds * 1000))
