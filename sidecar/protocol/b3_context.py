"""B3 trace contexts, in one field (`b3`) or several (`X-B3-*`): what is valid, and how one is written.

Where the description of B3 leaves something open, OpenTelemetry's Python propagator is followed, to the bit; a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sidecar.protocol.trace_context import SAMPLED, SpanParent

B3_FIELDS: Final = frozenset((b"b3", b"x-b3-traceid", b"x-b3-spanid", b"x-b3-parentspanid", b"x-b3-sampled", b"x-b3-flags"))
"""Lower-case names of all fields of both forms."""

_TRACE: Final = rb"(?!0+(?![0-9a-f]))((?:[0-9a-f]{16}){1,2})"
_SPAN: Final = rb"(?!0{16})([0-9a-f]{16})"
_single: Final = re.compile(_TRACE + rb"-" + _SPAN + rb"(?:-([^-]*)(?:-[^-]*)?)?", re.IGNORECASE | re.DOTALL).fullmatch
_trace: Final = re.compile(_TRACE, re.IGNORECASE).fullmatch
_span: Final = re.compile(_SPAN, re.IGNORECASE).fullmatch
# As nearly everybody writes them: to look for letters of either case takes 1 µs more.
_usual: Final = re.compile(rb"(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([01d])").fullmatch
_usual_trace: Final = re.compile(rb"(?!0{32})[0-9a-f]{32}").fullmatch
_usual_span: Final = re.compile(rb"(?!0{16})[0-9a-f]{16}").fullmatch
_SAYS_SAMPLED: Final = frozenset((b"1", b"d", b"true", b"True"))
"""`d` is debug, which implies sampled; the words are what old senders write."""


def parse_b3(fields: Mapping[bytes, bytes]) -> SpanParent | None:
    """The caller's span, by lower-case names; None when there is none, or it is not valid. `b3` wins over `X-B3-*`.

    A `b3` that leaves the decision open counts as sampled, `X-B3-*` that do so as not sampled. A decision without ids is no context.
    """
    if single := fields.get(b"b3"):
        match = _usual(single)
        if match is not None:
            trace, span, says = match.groups()
            return SpanParent(trace, span, 0 if says == b"0" else SAMPLED)
        match = _single(single)
        if match is None:
            return None
        trace, span, says = match.groups()
        return _parent(trace, span, sampled=says is None or says in _SAYS_SAMPLED)
    trace, span = fields.get(b"x-b3-traceid", b""), fields.get(b"x-b3-spanid", b"")
    sampled = fields.get(b"x-b3-sampled") in _SAYS_SAMPLED or fields.get(b"x-b3-flags") == b"1"
    if _usual_trace(trace) is not None and _usual_span(span) is not None:
        return SpanParent(trace, span, SAMPLED if sampled else 0)
    if _trace(trace) is None or _span(span) is None:
        return None
    return _parent(trace, span, sampled=sampled)


def b3_single(trace: bytes, span: int, *, sampled: bool) -> list[tuple[bytes, bytes]]:
    """The field of a span; `trace` in 32 digits of hex."""
    return [(b"b3", b"%b-%016x-%d" % (trace, span, sampled))]


def b3_multi(trace: bytes, span: int, *, sampled: bool) -> list[tuple[bytes, bytes]]:
    """The fields of a span; `trace` in 32 digits of hex."""
    return [(b"X-B3-TraceId", trace), (b"X-B3-SpanId", b"%016x" % span), (b"X-B3-Sampled", b"1" if sampled else b"0")]


def _parent(trace: bytes, span: bytes, *, sampled: bool) -> SpanParent:
    return SpanParent(trace.lower().rjust(32, b"0"), span.lower(), SAMPLED if sampled else 0)
