"""What we encode is what the encoder of OpenTelemetry's SDK makes of the same spans, byte for byte."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from sidecar.model.endpoint import Endpoint
from sidecar.model.exchange import Attempt
from sidecar.model.reason import Clock, Reason
from sidecar.model.snapshot import DnsName, Listener, Mode, Route, Upstream
from sidecar.model.tls import Secured
from sidecar.observe.tracing import attributes
from sidecar.observe.tracing.context import ExchangeTrace
from sidecar.observe.tracing.destination import Destination
from sidecar.observe.tracing.encoder import MAX_ATTRIBUTES
from sidecar.observe.tracing.otlp import Otlp
from sidecar.observe.tracing.propagation import Formats
from sidecar.observe.tracing.record import Record
from sidecar.observe.tracing.sender import Sender
from sidecar.observe.tracing.settings import METHODS
from sidecar.observe.tracing.spans import SpanBuilder
from sidecar.protocol.trace_context import SpanParent

NOW = 1_790_000_000_000_000_000
METHOD_SET = frozenset(METHODS)
RESOURCE = Resource({"service.name": "örders", "process.pid": 7}, "https://schema.example/1")


@pytest.fixture(autouse=True, scope="module")
def silence() -> Iterator[None]:
    """The SDK complains of each value that it leaves out."""
    library = logging.getLogger("opentelemetry")
    before = library.level
    library.setLevel(logging.CRITICAL + 1)
    yield
    library.setLevel(before)


def exporter(limits: SpanLimits | None = None, resource: Resource = RESOURCE) -> Otlp:
    nowhere = Destination(host="127.0.0.1", port=9, tls=False, seconds=1.0, coding="none", head=b"")
    return Otlp(Sender(nowhere), resource, METHOD_SET, SpanLimits() if limits is None else limits)


def ours(one: Otlp, *items: Record | ReadableSpan) -> bytes:
    return one.request([span for item in items for span in one.encode(item)])


def theirs(*spans: ReadableSpan) -> bytes:
    return bytes(encode_spans(spans).SerializePartialToString())


# -- records of exchanges

raw = st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.just(b"x" * 300)
# Where UTF-8 is cut in two, or is none at all.
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.just("n" * 200)
times = st.floats(0.0, 1e6)
span_ids = st.integers(0, 2**64 - 1)
hexes = st.binary(min_size=16, max_size=16)
# States that the SDK's stricter grammar leaves as they are.
states = st.sampled_from([b"", b"a=1", b"a=1,b=2", b"vendor@system=x y", b"k" * 200 + b"=" + b"v" * 200])


def remote(ids: st.SearchStrategy[bytes]) -> st.SearchStrategy[SpanParent]:
    return st.builds(
        lambda trace, span, flags, state: SpanParent(trace.hex().encode(), b"%016x" % span, flags, state),
        ids,
        span_ids,
        st.integers(0, 3),
        states,
    )


Facts = dict[str, Any]
"""Of a record; strategies must not make traces, which are random."""


def made(facts: Facts) -> Record:
    trace, flags, parent, link, server_span = facts["trace"]
    one = ExchangeTrace(Formats(()), trace, flags, parent, link, sampled=True)
    one.server_span = server_span
    return Record(**{**facts, "trace": one})


@st.composite
def traces(draw: st.DrawFn) -> tuple[bytes, int, SpanParent | None, SpanParent | None, int]:
    trace = draw(hexes)
    parent, link = draw(st.none() | remote(st.just(trace))), draw(st.none() | remote(hexes))
    return trace.hex().encode(), draw(st.integers(0, 3)), parent, link, draw(span_ids)


ciphers = st.sampled_from(["TLS_AES_256_GCM_SHA384", "ECDHE-RSA-AES128-SHA256", "UNKNOWN"])
secured = st.none() | st.builds(
    Secured, st.sampled_from(["TLSv1.2", "TLSv1.3"]), ciphers, st.booleans(), st.sampled_from(["", "h2", "http/1.1"])
)


@st.composite
def attempts(draw: st.DrawFn, number: int) -> Attempt:
    one = Attempt(number, draw(times))
    host = draw(st.sampled_from(["10.0.0.1", "::1", "app.example", ""]))
    unix = draw(st.none() | st.just("/run/app.sock"))
    one.endpoint = draw(st.none() | st.just(Endpoint(host, draw(st.integers(0, 65535)), unix_path=unix, tls=draw(st.booleans()))))
    one.connected_at, one.ended_at = draw(st.just(0.0) | times), draw(st.just(0.0) | times)
    one.status = draw(st.sampled_from([0, 200, 404, 503]))
    one.outcome = draw(st.sampled_from(["success", "status_503", *Reason]))
    one.clock, one.reused = draw(st.none() | st.sampled_from(Clock)), draw(st.booleans())
    one.secured = draw(secured)
    one.delay, one.span_id = draw(st.floats(0.0, 100.0)), draw(span_ids)
    return one


@st.composite
def records(draw: st.DrawFn) -> Facts:
    tried = [draw(attempts(number)) for number in range(1, draw(st.integers(0, 3)) + 1)]
    dns = draw(st.none() | st.just(DnsName(host="billing.example", port=8443)))
    target = draw(raw)
    return {
        "trace": draw(traces()),
        "listener": Listener(name=draw(words), port=1, bind="", mode=Mode.REVERSE),
        "route": draw(st.none() | st.builds(Route, name=words, index=st.just(0))),
        "upstream": draw(st.none() | st.builds(Upstream, name=words, dns=st.just(dns))),
        "attempts": tried,
        "method": draw(st.sampled_from([b"GET", b"CONNECT", b"BREW"]) | raw),
        "scheme": draw(st.sampled_from([b"", b"http", b"https", b"ftp"])),
        "host": draw(st.sampled_from([b"", b"shop", b"shop:81", b"[::1]:81", b"shop:x"]) | raw),
        "target": target,
        "sent_target": draw(st.just(target) | st.sampled_from([b"*", b"/?", b"/a?sig=1&x=2"]) | raw),
        "minor": draw(st.integers(0, 1)),
        "client": draw(st.sampled_from(["unix", "10.0.0.9", "2001:db8::1"])),
        "user_agent": draw(raw),
        "forwarded_for": draw(st.sampled_from([b"", b"203.0.113.7, 10.0.0.1"]) | raw),
        "request_id": draw(raw),
        "started_at": draw(times),
        "ended_at": draw(times),
        "ended_ns": NOW,
        "status": draw(st.sampled_from([0, 200, 404, 499, 500, 599])),
        "reason": draw(st.none() | st.sampled_from(Reason)),
        "clock": draw(st.none() | st.sampled_from(Clock)),
        "aborted": draw(st.booleans()),
        "replays": draw(st.integers(0, 2)),
        "retries_skipped": draw(st.sampled_from(["", "budget"])),
        "tunnel": draw(st.sampled_from(["", "websocket", "connect"])),
        "bytes_in": draw(st.integers(0, 2**62)),
        "bytes_out": draw(st.integers(0, 300)),
        "messages_in": draw(st.integers(0, 300)),
        "messages_out": draw(st.integers(0, 300)),
        "secured": draw(secured),
    }


limits_of_spans = st.builds(
    SpanLimits,
    max_span_attributes=st.sampled_from([None, 0, 3, MAX_ATTRIBUTES - 1, 128]),
    max_span_attribute_length=st.sampled_from([None, 0, 5]),
    max_events=st.sampled_from([0, 1, 128]),
    max_links=st.sampled_from([0, 1, 128]),
)


@settings(max_examples=120, deadline=None)
@given(st.lists(records(), min_size=1, max_size=3))
def test_the_spans_of_exchanges_are_what_the_sdk_encodes(facts: list[Facts]) -> None:
    batch = [made(one) for one in facts]
    builder = SpanBuilder(RESOURCE, METHOD_SET, SpanLimits())
    assert ours(exporter(), *batch) == theirs(*[span for record in batch for span in builder.spans(record)])


@settings(max_examples=60, deadline=None)
@given(records(), limits_of_spans)
def test_so_are_those_that_a_limit_touches_with_what_was_dropped(facts: Facts, limits: SpanLimits) -> None:
    record = made(facts)
    assert ours(exporter(limits), record) == theirs(*SpanBuilder(RESOURCE, METHOD_SET, limits).spans(record))


@settings(max_examples=60, deadline=None)
@given(records())
def test_no_span_of_an_exchange_has_more_attributes_than_the_shortcut_past_the_limits_believes(facts: Facts) -> None:
    record = made(facts)
    assert len(attributes.server(record, METHOD_SET)) <= MAX_ATTRIBUTES
    assert all(len(attributes.client(record, attempt, METHOD_SET)) <= MAX_ATTRIBUTES for attempt in record.attempts)


def test_a_state_with_keys_of_the_newer_grammar_is_told_as_it_travels() -> None:
    """The SDK knows keys that begin with a letter alone, and would leave the others out."""
    parent = SpanParent(b"1" * 32, b"2" * 16, 1, b"1a=x,b=2")
    trace = ExchangeTrace(Formats(()), b"1" * 32, 1, parent, None, sampled=True)
    none: list[Any] = [None, None]
    facts = [b"GET", b"", b"a", b"/", b"/", 1, "unix", b"", b"", b"r", 1.0, 2.0, NOW, 200, None, None, False, 0, "", "", 0, 0, 0, 0]
    record = Record(trace, Listener(name="in", port=1, bind="", mode=Mode.REVERSE), *none, [], *facts)
    (span,) = ExportTraceServiceRequest.FromString(ours(exporter(), record)).resource_spans[0].scope_spans[0].spans
    assert span.trace_state == "1a=x,b=2"


# -- spans of others

scalars = (
    st.none()
    | st.booleans()
    | st.text(max_size=8)
    | st.integers(-(2**65), 2**65)
    | st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, -1, 0])
    | st.floats()
    | st.binary(max_size=8)
    | st.sampled_from(["\ud800", "a\udfffb"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
# Halves of surrogates among the keys too.
bags = st.dictionaries(st.text(max_size=6) | st.just("\ud800"), values, max_size=5)
moments = st.integers(0, 2**64 - 1)
contexts = st.builds(
    lambda trace, span, remote, state: SpanContext(trace, span, is_remote=remote, trace_flags=TraceFlags(1), trace_state=TraceState(state)),
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.sampled_from([[], [("a", "1")], [("a", "1"), ("b", "2")]]),
)
bounded = st.builds(lambda bag, most: BoundedAttributes(most, bag, immutable=True), bags, st.sampled_from([None, 1, 2]))
named = st.none() | words.filter(bool)
# Without "" beside None: of two scopes that are encoded alike the SDK makes two groups, we one.
scopes = st.none() | st.builds(InstrumentationScope, words.filter(bool), named, named, st.none() | st.just({"a": 1}))


@st.composite
def readable(draw: st.DrawFn) -> ReadableSpan:
    return ReadableSpan(
        name=draw(words),
        context=draw(contexts),
        parent=draw(st.none() | contexts),
        resource=RESOURCE,
        attributes=draw(bags | bounded),
        events=draw(st.lists(st.builds(Event, words, bags | bounded, st.integers(1, 2**63)), max_size=2)),
        links=draw(st.lists(st.builds(Link, contexts, bags | bounded), max_size=2)),
        kind=draw(st.sampled_from(SpanKind)),
        status=draw(st.builds(Status, st.just(StatusCode.ERROR), st.none() | words) | st.just(Status(StatusCode.OK)) | st.just(Status())),
        start_time=draw(st.none() | moments),
        end_time=draw(st.none() | moments),
        instrumentation_scope=draw(scopes),
    )


@settings(max_examples=120, deadline=None)
@given(st.lists(readable(), min_size=1, max_size=4))
def test_spans_that_others_have_made_are_what_the_sdk_encodes_each_with_its_own_scope(spans: list[ReadableSpan]) -> None:
    assert ours(exporter(), *spans) == theirs(*spans)


def test_a_resource_without_attributes_is_still_one() -> None:
    nobody = Resource({})
    span = ReadableSpan("x", SpanContext(1, 2, is_remote=False), resource=nobody)
    assert ours(exporter(resource=nobody), span) == theirs(span)


@pytest.mark.parametrize("wrong", ["\ud800", "a\udfff"])
def test_a_name_that_is_no_text_is_refused_by_itself(wrong: str) -> None:
    """The SDK gives up on the whole batch."""
    with pytest.raises(UnicodeEncodeError):
        exporter().encode(ReadableSpan(wrong, SpanContext(1, 2, is_remote=False), resource=RESOURCE))
