"""Spans of OpenTelemetry's SDK, and whose they are, to OTLP: those that other libraries make, and ours where a limit touches them."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import SpanKind

from sidecar.observe.tracing.protobuf import (
    ATTRIBUTE_OF_EVENT,
    ATTRIBUTE_OF_LINK,
    ATTRIBUTE_OF_RESOURCE,
    ATTRIBUTE_OF_SCOPE,
    ATTRIBUTE_OF_SPAN,
    attributes,
    field,
    number_field,
    text_field,
    varint,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext

Scope = tuple[bytes, bytes]
"""What stands before its spans, and behind them."""

_KINDS: Final = {SpanKind.INTERNAL: 1, SpanKind.SERVER: 2, SpanKind.CLIENT: 3, SpanKind.PRODUCER: 4, SpanKind.CONSUMER: 5}
_fixed64: Final = struct.Struct("<Q").pack
_fixed32: Final = struct.Struct("<I").pack
_IS_REMOTE_KNOWN: Final = 0x100
_IS_REMOTE: Final = 0x200


def encode_resource(resource: Resource) -> tuple[bytes, bytes]:
    """Of ResourceSpans: what stands before the scopes, and behind them."""
    return field(b"\x0a", attributes(ATTRIBUTE_OF_RESOURCE, resource.attributes)), text_field(b"\x1a", resource.schema_url)


@lru_cache(64)
def encode_scope(scope: InstrumentationScope | None) -> Scope:
    """Of ScopeSpans: what stands before the spans, and behind them."""
    if scope is None:
        return field(b"\x0a", b""), b""
    body = text_field(b"\x0a", scope.name) + text_field(b"\x12", scope.version or "")
    return field(b"\x0a", body + attributes(ATTRIBUTE_OF_SCOPE, scope.attributes or {})), text_field(b"\x1a", scope.schema_url or "")


def encode_span(span: ReadableSpan) -> bytes:
    """As a field of ScopeSpans. Raises ValueError or AttributeError for a span that has no context, or a name that is no text."""
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    status = span.status
    state = ",".join([f"{key}={value}" for key, value in context.trace_state.items()])
    pieces = [
        _ids(context),
        text_field(b"\x1a", state),
        b"" if not parent else field(b"\x22", parent.span_id.to_bytes(8, "big")),
        text_field(b"\x2a", span.name),
        b"\x30" + varint(_KINDS[span.kind]),
        _time(b"\x39", span.start_time),
        _time(b"\x41", span.end_time),
        attributes(ATTRIBUTE_OF_SPAN, span.attributes or {}),
        number_field(b"\x50", span.dropped_attributes),
        *[_event(event) for event in span.events],
        number_field(b"\x60", span.dropped_events),
        *[_link(link) for link in span.links],
        number_field(b"\x70", span.dropped_links),
        field(b"\x7a", text_field(b"\x12", status.description or "") + number_field(b"\x18", status.status_code.value)),
        b"\x85\x01" + _flags(parent),
    ]
    return field(b"\x12", b"".join(pieces))


def _event(event: Any) -> bytes:
    values = attributes(ATTRIBUTE_OF_EVENT, event.attributes or {})
    dropped = number_field(b"\x20", event.dropped_attributes)
    return field(b"\x5a", _time(b"\x09", event.timestamp) + text_field(b"\x12", event.name) + values + dropped)


def _link(link: Any) -> bytes:
    values = attributes(ATTRIBUTE_OF_LINK, link.attributes or {})
    dropped = number_field(b"\x28", link.dropped_attributes)
    return field(b"\x6a", _ids(link.context) + values + dropped + b"\x35" + _flags(link.context))


def _ids(context: SpanContext) -> bytes:
    return b"\x0a\x10" + context.trace_id.to_bytes(16, "big") + b"\x12\x08" + context.span_id.to_bytes(8, "big")


def _time(tag: bytes, nanoseconds: int | None) -> bytes:
    return tag + _fixed64(nanoseconds) if nanoseconds else b""


def _flags(context: SpanContext | None) -> bytes:
    return _fixed32(_IS_REMOTE_KNOWN | _IS_REMOTE if context and context.is_remote else _IS_REMOTE_KNOWN)
