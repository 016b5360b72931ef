"""`Max-Forwards` (RFC 9110 section 7.6.2): for OPTIONS and TRACE only, never invented."""

from __future__ import annotations

import re
from typing import Final

from sidecar.model.head import Field

MAX: Final = 1_000_000
"""The most that is sent on."""
_is_number: Final = re.compile(rb"[0-9]{1,18}").fullmatch


def received(method: bytes, fields: list[Field]) -> int | None:
    """How often the request may still be forwarded: 0 means that we answer it; None: it does not say, or not validly."""
    if method not in (b"OPTIONS", b"TRACE"):
        return None
    values = [value for _, lower, value in fields if lower == b"max-forwards"]
    return int(values[0]) if len(values) == 1 and _is_number(values[0]) else None


def decremented(fields: list[Field], left: int) -> list[Field]:
    """The fields with `Max-Forwards` one less than `left`, which `received` gave and is not 0."""
    value = b"%d" % min(left - 1, MAX)
    return [(name, lower, value) if lower == b"max-forwards" else (name, lower, old) for name, lower, old in fields]
