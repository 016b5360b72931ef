"""What tracing does while a request is under way: whose trace it is, whether it is sampled, what the upstream is told.

No span is made here: an exchange and its attempts hold all that spans need, and `pipeline.py` makes them in its thread.
"""

from __future__ import annotations

import re
from random import getrandbits
from typing import Final

from sidecar.model.exchange import Attempt
from sidecar.model.head import RequestHead
from sidecar.observe.tracing.propagation import Formats
from sidecar.protocol.trace_context import RANDOM, SAMPLED, SpanParent

_LOW_BITS: Final = 16
"""The ratio samplers look at the last 16 digits of a trace id, as those of the SDK do."""
_ALL: Final = 1 << 64


class Sampling:
    """Decides once per exchange. `ratio` of the traces, by their ids, so that everybody with this ratio keeps the same."""

    __slots__ = ("_bound", "parent_based")

    def __init__(self, ratio: float, *, parent_based: bool) -> None:
        self._bound = round(ratio * _ALL)
        self.parent_based = parent_based
        """A caller's decision holds."""

    def samples(self, trace: bytes) -> bool:
        """Whether the trace with this id (hex) is recorded here, when no caller has decided."""
        return self._bound == _ALL or int(trace[_LOW_BITS:], 16) < self._bound


class ExchangeTrace:
    """The trace of one exchange (implements Trace)."""

    __slots__ = ("_formats", "_trace", "flags", "link", "parent", "sampled", "server_span", "target")

    def __init__(
        self, formats: Formats, trace: bytes, flags: int, parent: SpanParent | None, link: SpanParent | None, *, sampled: bool
    ) -> None:
        self._formats = formats
        self._trace = trace
        self.sampled = sampled
        self.flags = flags
        self.parent = parent
        self.link = link
        """The trace of a caller that is not believed."""
        self.server_span = getrandbits(64) or 1
        self.target = b""
        """The request-target as it left us, filters applied."""

    @property
    def trace_id(self) -> str:
        """See Trace."""
        return self._trace.decode()

    @property
    def span_id(self) -> str:
        """See Trace."""
        return f"{self.server_span:016x}"

    @property
    def state(self) -> bytes:
        """`tracestate` of the parent, which is ours too; b"" when there is none."""
        return b"" if self.parent is None else self.parent.state

    def outgoing(self, attempt: Attempt, target: bytes) -> list[tuple[bytes, bytes]]:
        """See Trace: the span of `attempt` is the upstream's parent."""
        attempt.span_id = span = getrandbits(64) or 1
        self.target = target
        formats = self._formats
        if not formats.w3c:
            return formats.inject(self._trace, span, sampled=self.sampled)
        lines = [(b"traceparent", b"00-%b-%016x-%02x" % (self._trace, span, self.flags))]
        if self.parent is not None and self.parent.state:
            lines.append((b"tracestate", self.parent.state))
        if formats.others:
            lines += formats.inject(self._trace, span, sampled=self.sampled)
        return lines


class ExchangeTracer:
    """Makes the trace of each exchange (implements Tracer)."""

    __slots__ = ("_excluded", "_formats", "_sampling")

    def __init__(self, formats: Formats, sampling: Sampling, excluded: re.Pattern[bytes] | None = None) -> None:
        self._formats = formats
        self._sampling = sampling
        self._excluded = excluded

    def fields(self, *, believed: bool) -> frozenset[bytes]:
        """See Tracer."""
        return self._formats.fields if believed else self._formats.fields | self._formats.baggage

    def excludes(self, head: RequestHead) -> bool:
        """See Tracer: one of OTEL_PYTHON_EXCLUDED_URLS is found in the URL."""
        if self._excluded is None:
            return False
        return self._excluded.search(b"http://%b%b" % (head.host, head.path)) is not None

    def begin(self, known: dict[bytes, bytes], *, believed: bool) -> ExchangeTrace:
        """See Tracer."""
        formats = self._formats
        parent: SpanParent | None = formats.extract(known) if known else None
        link: SpanParent | None = None
        if not believed:
            link = parent
            parent = None
        if parent is None:
            trace, flags = b"%032x" % (getrandbits(128) or 1), RANDOM
            sampled = self._sampling.samples(trace)
        else:
            trace, flags = parent.trace, parent.flags & RANDOM
            sampled = bool(parent.flags & SAMPLED) if self._sampling.parent_based else self._sampling.samples(trace)
        return ExchangeTrace(formats, trace, flags | SAMPLED if sampled else flags, parent, link, sampled=sampled)
