"""B3 and Jaeger contexts: our parsers and OpenTelemetry's propagators say the same."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry import trace as api
from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.propagators.jaeger import JaegerPropagator
from opentelemetry.propagators.textmap import TextMapPropagator

from sidecar.protocol.b3_context import B3_FIELDS, b3_multi, b3_single, parse_b3
from sidecar.protocol.jaeger_context import jaeger, parse_jaeger
from sidecar.protocol.trace_context import SpanParent

TRACE = b"80f198ee56343ba864fe8b2a57d3eff7"
SPAN = b"e457b5a2e4d86bd1"
JAEGER = b"uber-trace-id"


def theirs(propagator: TextMapPropagator, fields: dict[bytes, bytes]) -> SpanParent | None:
    carrier = {name.decode(): value.decode("latin-1") for name, value in fields.items()}
    found = api.get_current_span(propagator.extract(carrier)).get_span_context()
    return SpanParent(b"%032x" % found.trace_id, b"%016x" % found.span_id, found.trace_flags) if found.is_valid else None


def hexadecimal(*sizes: int) -> st.SearchStrategy[bytes]:
    digits = st.sampled_from(["0", "1", "9", "a", "F"])
    return st.one_of(*(st.text(digits, min_size=size, max_size=size) for size in sizes)).map(str.encode)


ids = hexadecimal(0, 1, 15, 16, 17, 31, 32, 33) | st.sampled_from([b"0" * 16, b"0" * 32, TRACE, SPAN])
said = st.sampled_from([b"", b"0", b"1", b"d", b"true", b"True", b"TRUE", b"2", b"x", b"01", b"\n"])
pieces = st.lists(ids | said, max_size=6).map(b"-".join)
values = dict.fromkeys(B3_FIELDS, ids) | {b"b3": pieces, b"x-b3-sampled": said, b"x-b3-flags": said}


@settings(max_examples=500)
@given(st.fixed_dictionaries({}, optional=values))
@example({b"b3": TRACE + b"-" + SPAN})
@example({b"b3": TRACE + b"-" + SPAN + b"-d-" + SPAN})
@example({b"b3": TRACE + b"-" + SPAN + b"-0-" + SPAN})
@example({b"b3": b"0"})
@example({b"b3": b"", b"x-b3-traceid": TRACE, b"x-b3-spanid": SPAN})
@example({b"x-b3-traceid": TRACE, b"x-b3-spanid": SPAN, b"x-b3-flags": b"1"})
@example({b"x-b3-traceid": TRACE.upper(), b"x-b3-spanid": SPAN.upper(), b"x-b3-sampled": b"1"})
@example({b"x-b3-traceid": TRACE, b"x-b3-spanid": b"0" * 16})
def test_b3_is_read_as_opentelemetry_reads_it(fields: dict[bytes, bytes]):
    assert parse_b3(fields) == theirs(B3MultiFormat(), fields)


@settings(max_examples=300)
@given(st.lists(hexadecimal(1, 2, 15, 16, 32), min_size=3, max_size=5), st.sampled_from([b"0", b"1", b"2", b"3", b"ff", b"01", b"00"]))
def test_jaeger_is_read_as_opentelemetry_reads_it(pieces: list[bytes], flags: bytes):
    fields = {JAEGER: b":".join([*pieces[:-1], flags])}
    too_long = len(pieces) == 4 and max(map(len, pieces[1:3])) > 16  # they pass over leading zeros without an end, and over the parent's id
    assert parse_jaeger(fields) == (None if too_long else theirs(JaegerPropagator(), fields))


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"1", b"1:2:3", b"0:2:0:1", b"1:0:0:1", b"1:2:0:", b"1:2:0:x", b"1:2:0:123", b"1:2:0:1:", b" 1:2:0:1", b"1:2:0:1,1:2:0:1"),
        *(b"0x1:2:0:1", b"-1:2:0:1", b"1_0:2:0:1", b"1:2:0:1\n", b"1" * 33 + b":2:0:1", b"1:" + b"2" * 17 + b":0:1"),
    ],
)
def test_what_is_no_jaeger_context_is_none(value: bytes):
    assert parse_jaeger({JAEGER: value}) is None


@pytest.mark.parametrize("value", [b"a1:b2::1", b"A1:B2:0:01", b"a1%3Ab2%3a0%3A3", b"0000a1:00b2:1f:ff"])
def test_a_jaeger_context_may_be_short_or_encoded(value: bytes):
    assert parse_jaeger({JAEGER: value}) == SpanParent(b"a1".rjust(32, b"0"), b"b2".rjust(16, b"0"), 1)


def test_no_field_is_no_context():
    assert parse_jaeger({}) is None
    assert parse_b3({}) is None


@pytest.mark.parametrize("sampled", [True, False])
def test_what_is_written_is_read_by_opentelemetry(sampled: bool):
    said = SpanParent(TRACE, SPAN, int(sampled))
    writers = {b3_single: B3SingleFormat(), b3_multi: B3MultiFormat(), jaeger: JaegerPropagator()}
    for write, propagator in writers.items():
        lines = write(TRACE, int(SPAN, 16), sampled=sampled)
        assert theirs(propagator, {name.lower(): value for name, value in lines}) == said
