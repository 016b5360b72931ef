"""`uber-trace-id`, the trace context of Jaeger's own clients: what is valid, and how one is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sidecar.protocol.trace_context import SAMPLED, SpanParent

JAEGER_FIELDS: Final = frozenset((b"uber-trace-id",))

_COLON: Final = rb"(?::|%3a)"
_context: Final = re.compile(
    rb"(?!0+(?![0-9a-f]))([0-9a-f]{1,32})"
    + _COLON
    + rb"(?!0+(?![0-9a-f]))([0-9a-f]{1,16})"
    + _COLON
    + rb"[0-9a-f]{0,16}"
    + _COLON
    + rb"([0-9a-f]{1,2})",
    re.IGNORECASE,
).fullmatch

# As nearly everybody writes it: to look for letters of either case takes 1 µs more.
_usual: Final = re.compile(rb"(?!0{32})([0-9a-f]{32}):(?!0{16})([0-9a-f]{16}):[0-9a-f]{1,16}:([01])").fullmatch


def parse_jaeger(fields: Mapping[bytes, bytes]) -> SpanParent | None:
    """The caller's span, by lower-case names; None when there is none, or it is not valid.

    Ids may come without their leading zeros and colons as `%3A`, for some clients encode the value. The parent's id is of no use
    any more. Of the flags only `sampled` (1) counts.
    """
    value = fields.get(b"uber-trace-id")
    if value is None:
        return None
    match = _usual(value)
    if match is not None:
        trace, span, flags = match.groups()
        return SpanParent(trace, span, SAMPLED if flags == b"1" else 0)
    match = _context(value)
    if match is None:
        return None
    trace, span, flags = match.groups()
    return SpanParent(trace.lower().rjust(32, b"0"), span.lower().rjust(16, b"0"), int(flags, 16) & SAMPLED)


def jaeger(trace: bytes, span: int, *, sampled: bool) -> list[tuple[bytes, bytes]]:
    """The field of a span; `trace` in 32 digits of hex. No debug flag: it would tell everybody behind us not to sample."""
    return [(b"uber-trace-id", b"%b:%016x:0:%d" % (trace, span, sampled))]
