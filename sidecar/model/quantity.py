"""Durations (GEP-2257) and sizes (Kubernetes quantities) of the document: text to numbers and back."""

from __future__ import annotations

import re
from typing import Final

DURATION: Final = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$(?!\n)"
"""GEP-2257: one to four pairs of at most five digits and a unit; no sign, no fraction, no days."""
SIZE: Final = r"^[0-9]{1,15}(k|M|G|T|Ki|Mi|Gi|Ti)?$(?!\n)"

_MILLISECONDS: Final = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_FACTORS: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_duration = re.compile(DURATION)
_pair = re.compile(r"([0-9]+)(ms|h|m|s)")
_size = re.compile(SIZE)


def parse_duration(text: str) -> float:
    """Seconds of a GEP-2257 duration: `1h30m` is 5400.0. ValueError when `text` is none."""
    if _duration.match(text) is None:
        raise ValueError(f"not a GEP-2257 duration: {text!r}")
    return sum(int(number) * _MILLISECONDS[unit] for number, unit in _pair.findall(text)) / 1000


def format_duration(seconds: float) -> str:
    """The canonical GEP-2257 text of `seconds`, rounded to milliseconds: the largest units first, `0s` for nothing.

    ValueError for what the format cannot say: negative, not finite, or 100,000 hours and more.
    """
    if not 0 <= seconds < 100_000 * 3600:
        raise ValueError(f"no GEP-2257 duration says {seconds!r} seconds")
    rest = round(seconds * 1000)
    parts = []
    for unit, length in _MILLISECONDS.items():
        number, rest = divmod(rest, length)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"


def parse_size(value: int | str) -> int:
    """Bytes of `32Ki`, `1M` or a plain number. ValueError when `value` is none of these."""
    if isinstance(value, int):
        if value < 0:
            raise ValueError(f"a size cannot be negative: {value}")
        return value
    if _size.match(value) is None:
        raise ValueError(f"not a size: {value!r}")
    digits = value.rstrip("kKMGTi")
    return int(digits) * _FACTORS[value[len(digits) :]]
