"""The formats in which a trace travels, in the order in which a configuration names them. The parsers are in `protocol/`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, Protocol

from sidecar.model.telemetry import Propagator
from sidecar.protocol.hop_by_hop import underscored
from sidecar.protocol.trace_context import SpanParent, parse_traceparent

_W3C_FIELDS: Final = frozenset((b"traceparent", b"tracestate"))


class _Write(Protocol):
    def __call__(self, trace: bytes, span: int, *, sampled: bool) -> list[tuple[bytes, bytes]]: ...


class _Format(NamedTuple):
    fields: frozenset[bytes]
    read: Callable[[Mapping[bytes, bytes]], SpanParent | None]
    write: _Write


class Formats:
    """The propagators of a configuration, in their order."""

    __slots__ = ("_readers", "_taken", "_writers", "baggage", "fields", "names", "others", "w3c")

    def __init__(self, names: Iterable[Propagator]) -> None:
        self.names = tuple(names)
        self.w3c = Propagator.TRACE_CONTEXT in self.names
        others = {name: _other(name) for name in self.names if name not in (Propagator.TRACE_CONTEXT, Propagator.BAGGAGE)}
        w3c = _W3C_FIELDS if self.w3c else frozenset[bytes]()
        self._taken = w3c.union(*(one.fields for one in others.values()))
        self.fields = self._taken | underscored(self._taken)
        """Lower-case names of the fields that are taken out of every request."""
        self.baggage = frozenset((b"baggage",)) if Propagator.BAGGAGE in self.names else frozenset[bytes]()
        """What is taken out besides when the caller is not believed; `baggage` of others is an ordinary field."""
        self._readers = tuple(others[name].read if name in others else None for name in self.names if name is not Propagator.BAGGAGE)
        """None: W3C's, which is read first."""
        self._writers = tuple(one.write for one in others.values())
        self.others = bool(others)
        """Whether there are formats besides W3C's."""

    def extract(self, known: dict[bytes, bytes]) -> SpanParent | None:
        """The caller's span; of several formats the last one named that has one (OpenTelemetry's composite propagator)."""
        # Without a valid traceparent tracestate means nothing either (section 3.3 of the recommendation).
        given, state = known.pop(b"traceparent", None), known.pop(b"tracestate", None)
        parent = None if given is None else parse_traceparent(given, state)
        if not self.others:
            return parent
        w3c = parent
        parent = None
        for read in self._readers:
            parent = (w3c if read is None else read(known)) or parent
        for field in tuple(known):  # most often there are fewer than there might be
            if field in self._taken:
                del known[field]
        return parent

    def inject(self, trace: bytes, span: int, *, sampled: bool) -> list[tuple[bytes, bytes]]:
        """The lines of the formats that are not W3C."""
        if len(self._writers) == 1:
            return self._writers[0](trace, span, sampled=sampled)
        return [line for write in self._writers for line in write(trace, span, sampled=sampled)]


def _other(name: Propagator) -> _Format:
    """One that is not W3C's. Imported when it is named, which is seldom: their expressions are 1.5 ms of every start otherwise."""
    if name is Propagator.JAEGER:
        from sidecar.protocol import jaeger_context  # noqa: PLC0415 - see above

        return _Format(jaeger_context.JAEGER_FIELDS, jaeger_context.parse_jaeger, jaeger_context.jaeger)
    from sidecar.protocol import b3_context  # noqa: PLC0415 - see above

    # Whoever speaks one form of B3 understands both: none of the caller's may stay behind.
    return _Format(b3_context.B3_FIELDS, b3_context.parse_b3, b3_context.b3_single if name is Propagator.B3 else b3_context.b3_multi)
