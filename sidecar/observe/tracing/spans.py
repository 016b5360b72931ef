"""Records to spans of OpenTelemetry's SDK (interface.md section 5). Runs in the export thread; imported in a thread.

One SERVER span per exchange, one CLIENT span per attempt beneath it, an event `retry` for each try after the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from sidecar import __version__
from sidecar.model.exchange import Attempt
from sidecar.observe.tracing import attributes
from sidecar.observe.tracing.record import Record
from sidecar.protocol.trace_context import SpanParent

SCHEMA: Final = "https://opentelemetry.io/schemas/1.44.0"
SCOPE: Final = InstrumentationScope("sidecar", __version__, SCHEMA)
_UNSET: Final = Status(StatusCode.UNSET)
_ERROR: Final = Status(StatusCode.ERROR)  # no description: `error.type` says it
_NO_STATE: Final = TraceState()
_NANO: Final = 1_000_000_000


class SpanBuilder:
    """Makes spans of one process: its resource, the limits of OTEL_SPAN_*, the methods that have names."""

    __slots__ = ("_max_attributes", "_max_events", "_max_links", "_max_value", "_methods", "_resource")

    def __init__(self, resource: Resource, methods: frozenset[str], limits: SpanLimits | None = None) -> None:
        self._resource = resource
        self._methods = methods
        limits = SpanLimits() if limits is None else limits
        self._max_attributes = limits.max_span_attributes or 0
        self._max_value = limits.max_span_attribute_length
        self._max_events = limits.max_events or 0
        self._max_links = limits.max_links or 0

    def limits_touch(self, record: Record, attributes: int) -> bool:
        """Whether one of the limits may change spans of `record`, which have no more than so many attributes."""
        return (
            self._max_value is not None
            or self._max_attributes < attributes
            or self._max_links < 1
            or self._max_events < len(record.attempts) - 1
        )

    def spans(self, record: Record) -> list[ReadableSpan]:
        """The spans of one exchange, the SERVER span first."""
        trace = record.trace
        trace_id, flags = int(trace.trace_id, 16), TraceFlags(trace.flags)
        state = _state(trace.state)
        server = SpanContext(trace_id, trace.server_span, is_remote=False, trace_flags=flags, trace_state=state)
        spans = [self._server(record, server)]
        for attempt in record.attempts:
            context = SpanContext(trace_id, attempt.span_id, is_remote=False, trace_flags=flags, trace_state=state)
            spans.append(self._client(record, attempt, context, server))
        return spans

    def _server(self, record: Record, context: SpanContext) -> ReadableSpan:
        link = record.trace.link
        key = attributes.server_key(record, self._methods)
        return self._span(
            name=attributes.server_name(key),
            context=context,
            parent=None if record.trace.parent is None else _remote(record.trace.parent),
            kind=SpanKind.SERVER,
            values=attributes.server(record, self._methods),
            failed=attributes.server_error(key) is not None,
            times=(_unix(record, record.started_at), record.ended_ns),
            events=[Event(attributes.RETRY, dict(values), timestamp=_unix(record, at)) for at, values in attributes.retries(record)],
            links=() if link is None else (Link(_remote(link)),),
        )

    def _client(self, record: Record, attempt: Attempt, context: SpanContext, server: SpanContext) -> ReadableSpan:
        key = attributes.client_key(record, attempt, self._methods)
        return self._span(
            name=attributes.client_name(key),
            context=context,
            parent=server,
            kind=SpanKind.CLIENT,
            values=attributes.client(record, attempt, self._methods),
            failed=attributes.client_error(key) is not None,
            times=(_unix(record, attempt.started_at), _unix(record, attempt.ended_at or record.ended_at)),
        )

    def _span(
        self,
        *,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        values: attributes.Attributes,
        failed: bool,
        times: tuple[int, int],
        events: Sequence[Event] = (),
        links: Sequence[Link] = (),
    ) -> ReadableSpan:
        if len(events) > self._max_events:
            events = BoundedList.from_seq(self._max_events, events)
        if len(links) > self._max_links:
            links = BoundedList.from_seq(self._max_links, links)
        return ReadableSpan(
            name=name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=self._bounded(values),
            events=events,
            links=links,
            kind=kind,
            status=_ERROR if failed else _UNSET,
            start_time=times[0],
            end_time=times[1],
            instrumentation_scope=SCOPE,
        )

    def _bounded(self, values: attributes.Attributes) -> Any:
        """A plain dict where no limit is touched: the SDK's own costs five times as much."""
        if self._max_value is None and len(values) <= self._max_attributes:
            return values
        return BoundedAttributes(self._max_attributes, values, immutable=True, max_value_len=self._max_value)


def _unix(record: Record, at: float) -> int:
    """A moment of the monotonic clock as Unix time, nanoseconds."""
    return record.ended_ns - int((record.ended_at - at) * _NANO)


def _remote(parent: SpanParent) -> SpanContext:
    return SpanContext(
        int(parent.trace, 16), int(parent.span, 16), is_remote=True, trace_flags=TraceFlags(parent.flags), trace_state=_state(parent.state)
    )


def _state(value: bytes) -> TraceState:
    return TraceState.from_header([value.decode("ascii")]) if value else _NO_STATE
