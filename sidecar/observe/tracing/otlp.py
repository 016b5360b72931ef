"""OTLP: what is queued becomes bytes at once, a batch of them one request, over HTTP or gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits

from sidecar.observe.tracing.encoder import MAX_ATTRIBUTES, RecordEncoder
from sidecar.observe.tracing.protobuf import field
from sidecar.observe.tracing.readable import Scope, encode_resource, encode_scope, encode_span
from sidecar.observe.tracing.record import Record
from sidecar.observe.tracing.spans import SCOPE, SpanBuilder

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

Encoded = tuple[Scope, bytes]
"""Whose span it is, and the span as a field of ScopeSpans."""

_RESOURCE_SPANS: Final = b"\x0a"
_SCOPE_SPANS: Final = b"\x12"


class BatchSender(Protocol):
    """See sender.py, grpc_sender.py."""

    def send(self, body: bytes) -> str:
        """Why the collector has not taken it; "" when it has."""
        ...

    def close(self) -> None:
        """From any thread: `send` waits no longer."""
        ...

    def end(self) -> None:
        """Nothing follows."""
        ...


class Otlp:
    """Implements Exporter (exporters.py)."""

    def __init__(self, sender: BatchSender, resource: Resource, methods: frozenset[str], limits: SpanLimits | None = None) -> None:
        """`limits`: None: those of OTEL_SPAN_* and OTEL_ATTRIBUTE_*."""
        self._sender = sender
        self._resource = encode_resource(resource)
        self._scope = encode_scope(SCOPE)
        self._records = RecordEncoder(methods)
        self._builder = SpanBuilder(resource, methods, limits)

    def encode(self, item: Record | ReadableSpan) -> Sequence[Encoded]:
        """See Exporter."""
        if not isinstance(item, Record):
            return [(encode_scope(item.instrumentation_scope), encode_span(item))]
        if self._builder.limits_touch(item, MAX_ATTRIBUTES):  # the SDK knows how
            return [(self._scope, encode_span(span)) for span in self._builder.spans(item)]
        return [(self._scope, span) for span in self._records.spans(item)]

    def export(self, spans: Sequence[Encoded]) -> str:
        """See Exporter."""
        return self._sender.send(self.request(spans))

    def request(self, spans: Sequence[Encoded]) -> bytes:
        """The ExportTraceServiceRequest."""
        groups: dict[Scope, list[bytes]] = {}
        for scope, span in spans:
            groups.setdefault(scope, []).append(span)
        head, schema = self._resource
        scoped = [field(_SCOPE_SPANS, b"".join([scope[0], *group, scope[1]])) for scope, group in groups.items()]
        return field(_RESOURCE_SPANS, b"".join([head, *scoped, schema]))

    def abandon(self) -> None:
        """See Exporter."""
        self._sender.close()

    def shutdown(self) -> None:
        """See Exporter."""
        self._sender.end()
