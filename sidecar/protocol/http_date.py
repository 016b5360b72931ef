"""`Date` values (RFC 9110 section 5.6.7)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def imf_fixdate(seconds: float) -> bytes:
    """IMF-fixdate of a Unix time in seconds. Ask once per second: the same text serves every message of it."""
    at = datetime.fromtimestamp(int(seconds), UTC)
    # Not strftime: its names of days and months follow the locale.
    return f"{_DAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month - 1]} {at.year:04} {at.hour:02}:{at.minute:02}:{at.second:02} GMT".encode(
        "ascii"
    )
