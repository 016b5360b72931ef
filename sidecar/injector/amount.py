"""Kubernetes' resource quantities as numbers: `1000m` and `1` are the same."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_QUANTITY: Final = re.compile(r"([0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]{1,2})?")
_FACTORS: Final = {
    "": Decimal(1),
    **{unit: Decimal(10) ** (3 * power) for unit, power in zip("numkMGTPE", (-3, -2, -1, 1, 2, 3, 4, 5, 6), strict=True)},
    **{unit + "i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}


def amount(value: object) -> Decimal | None:
    """What a quantity comes to, as text or as the number that YAML made of it; None when it is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if (match := _QUANTITY.fullmatch(str(value))) is None:
        return None
    number, unit = match[1], match[2] or ""
    return Decimal(number) * _FACTORS[unit] if unit in _FACTORS else Decimal(number + unit)
