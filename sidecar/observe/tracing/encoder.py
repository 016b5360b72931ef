"""Records to OTLP, without a span of the SDK in between: what many exchanges have in common is encoded once and remembered.

`spans.py` says what a span of an exchange is, and makes it for exporters that want objects; here is the same in bytes
(a test compares). Runs in the export thread. Caches are bounded: some 2 MiB when every request is made to miss them.
"""

from __future__ import annotations

import struct
from binascii import unhexlify
from functools import lru_cache
from typing import Final

from sidecar.model.exchange import Attempt
from sidecar.observe.tracing import attributes as of
from sidecar.observe.tracing.protobuf import ATTRIBUTE_OF_EVENT, ATTRIBUTE_OF_SPAN, Text, attributes, field, text_field
from sidecar.observe.tracing.record import Record
from sidecar.protocol.trace_context import SpanParent

MAX_ATTRIBUTES: Final = 32
"""More than a span of ours ever has."""
_CACHED: Final = 512
_NANO: Final = 1_000_000_000

# Fields of Span, Span.Event, Span.Link and Status.
_STATE: Final = b"\x1a"
_NAME: Final = b"\x2a"
_EVENT: Final = b"\x5a"
_EVENT_NAME: Final = b"\x12"
_LINK: Final = b"\x6a"
_SERVER: Final = b"\x30\x02"
_CLIENT: Final = b"\x30\x03"
_UNSET: Final = b"\x7a\x00"
_ERROR: Final = b"\x7a\x02\x18\x02"  # no description: `error.type` says it
_LOCAL_PARENT: Final = b"\x85\x01\x00\x01\x00\x00"
_REMOTE_PARENT: Final = b"\x85\x01\x00\x03\x00\x00"
_LINK_FLAGS: Final = b"\x35\x00\x03\x00\x00"
_SPAN: Final = b"\x12"
"""Of ScopeSpans."""
_ids: Final = struct.Struct(">2s16s2sQ").pack
_parent: Final = struct.Struct(">2sQ").pack
_times: Final = struct.Struct("<BQBQ").pack
_event_time: Final = struct.Struct("<BQ").pack
_TRACE_ID: Final = b"\x0a\x10"
_SPAN_ID: Final = b"\x12\x08"
_PARENT_ID: Final = b"\x22\x08"
_STARTED: Final = 0x39
_ENDED: Final = 0x41
_AT: Final = 0x09

_path: Final = Text("url.path")
_query: Final = Text("url.query")
_request_id: Final = Text("outrider.request_id")
_url: Final = Text("url.full")


class RecordEncoder:
    """Encodes the spans of exchanges; `methods` have names."""

    __slots__ = ("_methods",)

    def __init__(self, methods: frozenset[str]) -> None:
        self._methods = methods

    def spans(self, record: Record) -> list[bytes]:
        """The spans of one exchange as fields of ScopeSpans, the SERVER span first. Raises ValueError or struct.error for times that are none."""
        trace = record.trace
        trace_id = unhexlify(trace.trace_id)
        state = _state(trace.state) if trace.parent is not None else b""
        came, sent = record.target, record.sent_target
        target = of.shown(came)
        spans = [self._server(record, trace_id, state, target)]
        if came != sent:
            target = of.shown(sent)
        path = target.encode() if target.startswith("/") else b""
        for attempt in record.attempts:
            spans.append(self._client(record, attempt, trace_id, state, path))  # noqa: PERF401 - a list of its own costs more
        return spans

    def _server(self, record: Record, trace_id: bytes, state: bytes, target: str) -> bytes:
        trace = record.trace
        parent, link = trace.parent, trace.link
        name, facts, status = _server_facts(of.server_key(record, self._methods))
        path, _, query = target.partition("?")
        pieces = [
            _ids(_TRACE_ID, trace_id, _SPAN_ID, trace.server_span),
            state,
            b"" if parent is None else _parent(_PARENT_ID, int(parent.span, 16)),
            name,
            _times(_STARTED, _unix(record, record.started_at), _ENDED, record.ended_ns),
            facts,
            _address(record.host, record.scheme),
            _peer(record.client, record.forwarded_for),
            _agent(record.user_agent),
            _path.encode(path.encode()),
            _query.encode(query.encode()) if query else b"",
            _request_id.encode(of.text(record.request_id).encode()),
        ]
        if record.tunnel:
            pieces.append(attributes(ATTRIBUTE_OF_SPAN, of.tunnel_counts(record)))
        if len(record.attempts) > 1:
            pieces += _retries(record)
        if link is not None:
            pieces.append(_link(link))
        pieces += (status, _LOCAL_PARENT if parent is None else _REMOTE_PARENT)
        return field(_SPAN, b"".join(pieces))

    def _client(self, record: Record, attempt: Attempt, trace_id: bytes, state: bytes, path: bytes) -> bytes:
        key = of.client_key(record, attempt, self._methods)
        name, facts, base, status = _client_facts(key)
        started, ended = _unix(record, attempt.started_at), _unix(record, attempt.ended_at or record.ended_at)
        pieces = [
            _ids(_TRACE_ID, trace_id, _SPAN_ID, attempt.span_id),
            state,
            _parent(_PARENT_ID, record.trace.server_span),
            name,
            _times(_STARTED, started, _ENDED, ended),
            facts,
            _url.encode(base + path),
            status,
            _LOCAL_PARENT,
        ]
        return field(_SPAN, b"".join(pieces))


def _unix(record: Record, at: float) -> int:
    """A moment of the monotonic clock as Unix time, nanoseconds."""
    return record.ended_ns - int((record.ended_at - at) * _NANO)


def _retries(record: Record) -> list[bytes]:
    return [
        field(
            _EVENT,
            _event_time(_AT, _unix(record, at)) + text_field(_EVENT_NAME, of.RETRY) + attributes(ATTRIBUTE_OF_EVENT, values),
        )
        for at, values in of.retries(record)
    ]


def _link(link: SpanParent) -> bytes:
    return field(_LINK, _ids(_TRACE_ID, unhexlify(link.trace), _SPAN_ID, int(link.span, 16)) + _LINK_FLAGS)


# -- what is remembered


@lru_cache(_CACHED)
def _server_facts(key: of.ServerKey) -> tuple[bytes, bytes, bytes]:
    """(name and kind, attributes, status)."""
    name = text_field(_NAME, of.server_name(key)) + _SERVER
    return name, attributes(ATTRIBUTE_OF_SPAN, of.server_facts(key)), _UNSET if of.server_error(key) is None else _ERROR


@lru_cache(_CACHED)
def _client_facts(key: of.ClientKey) -> tuple[bytes, bytes, bytes, bytes]:
    """(name and kind, attributes but for the URL, the URL up to its path, status)."""
    name = text_field(_NAME, of.client_name(key)) + _CLIENT
    status = _UNSET if of.client_error(key) is None else _ERROR
    return name, attributes(ATTRIBUTE_OF_SPAN, of.client_facts(key)), of.base_url(key).encode(), status


@lru_cache(_CACHED)
def _address(host: bytes, scheme: bytes) -> bytes:
    return attributes(ATTRIBUTE_OF_SPAN, of.server_address(host, scheme))


@lru_cache(_CACHED)
def _peer(client: str, forwarded_for: bytes) -> bytes:
    return attributes(ATTRIBUTE_OF_SPAN, of.peer_address(client, forwarded_for))


@lru_cache(_CACHED)
def _agent(value: bytes) -> bytes:
    return attributes(ATTRIBUTE_OF_SPAN, of.user_agent(value))


@lru_cache(_CACHED)
def _state(value: bytes) -> bytes:
    return field(_STATE, value) if value else b""
