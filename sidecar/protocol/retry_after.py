"""Retry-After (RFC 9110 section 10.2.3)."""

from __future__ import annotations

from datetime import UTC


def retry_after(value: bytes, now_wall: float) -> float | None:
    """Seconds that `value` asks for: a number of seconds or a date; None when neither.

    `now_wall` is seconds since the epoch. A date that has passed is 0.0.
    """
    if value.isdigit():
        return float(value)
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - 0.4 MB for something rare

    try:
        when = parsedate_to_datetime(value.decode("ascii"))
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)  # asctime has no zone; every HTTP-date is UTC
    return max(0.0, when.timestamp() - now_wall)
