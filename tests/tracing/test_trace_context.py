"""`traceparent` and `tracestate` by the letter of W3C Trace Context (level 2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.protocol.trace_context import MAX_STATE, SpanParent, clean_tracestate, parse_traceparent

TRACE = b"0af7651916cd43dd8448eb211c80319c"
SPAN = b"b7ad6b7169203331"
IDS = TRACE + b"-" + SPAN


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (b"00-%b-00" % IDS, 0),
        (b"00-%b-01" % IDS, 1),
        (b"00-%b-02" % IDS, 2),
        (b"00-%b-03" % IDS, 3),
        (b"00-%b-ff" % IDS, 3),
        (b"00-%b-fc" % IDS, 0),
        (b"cc-%b-01" % IDS, 1),
        (b"cc-%b-01-what-the-future-will-be-like" % IDS, 1),
    ],
)
def test_valid_values_and_the_flags_that_travel_on(value: bytes, flags: int):
    assert parse_traceparent(value) == SpanParent(TRACE, SPAN, flags)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00",
        b"00-%b" % IDS,
        b"00-%b-" % IDS,
        b"00-%b-1" % IDS,
        b"00-%b-01-more" % IDS,
        b"00-%b-01." % IDS,
        b"cc-%b-01.what" % IDS,
        b"ff-%b-01" % IDS,
        b"0-%b-01" % IDS,
        b"0g-%b-01" % IDS,
        b"00-%b-0G" % IDS,
        b"00-%b-%b-01" % (b"0" * 32, SPAN),
        b"00-%b-%b-01" % (TRACE, b"0" * 16),
        b"00-%b-%b-01" % (TRACE.upper(), SPAN),
        b"00-%b-%b-01" % (TRACE[:-1], SPAN),
        b"00-%b-%b-01" % (TRACE, SPAN + b"0"),
        b"00_%b_01" % IDS,
        b"00-%b-01, 00-%b-01" % (IDS, IDS),
        b" 00-%b-01" % IDS,
        b"00-%b-01\n" % IDS,
    ],
)
def test_what_is_not_valid_begins_a_new_trace(value: bytes):
    assert parse_traceparent(value) is None


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        (b"a=1", b"a=1"),
        (b"a=1,b=2", b"a=1,b=2"),
        (b" a=1 ,\tb=2\t", b"a=1,b=2"),
        (b"a=1,,b=2,", b"a=1,b=2"),
        (b"tenant@vendor=x y", b"tenant@vendor=x y"),
        (b"0a_-*/=1", b"0a_-*/=1"),
        (b"a=  1", b"a=  1"),
        (b"", b""),
        (b"a", b""),
        (b"a=", b""),
        (b"=1", b""),
        (b"A=1", b""),
        (b"a b=1", b""),
        (b"a=1=2", b""),
        (b"a=\x7f", b""),
        (b"a=\xe9", b""),
        (b"a=1,a=2", b""),
        (b"a=1,B=2", b""),
        (b"_a=1", b""),
        (b"k" * 257 + b"=1", b""),
        (b"k" * 256 + b"=1", b"k" * 256 + b"=1"),
        (b"a=" + b"v" * 257, b""),
        (b"a=" + b"v" * 256, b"a=" + b"v" * 256),
    ],
)
def test_tracestate(value: bytes, clean: bytes):
    assert clean_tracestate(value) == clean


def test_thirty_two_members_are_the_most():
    members = [b"k%d=1" % number for number in range(33)]
    assert clean_tracestate(b",".join(members[:32])) == b",".join(members[:32])
    assert clean_tracestate(b",".join(members)) == b""


def test_of_a_state_that_is_too_long_the_long_members_go_first_then_the_oldest():
    short = [b"s%d=%b" % (number, b"v" * 100) for number in range(8)]
    long = [b"l%d=%b" % (number, b"v" * 250) for number in range(20)]
    kept = clean_tracestate(b",".join([*short[:4], *long, *short[4:]])).split(b",")
    assert [member for member in kept if member.startswith(b"s")] == short
    assert [member for member in kept if member.startswith(b"l")] == long[: len(kept) - 8]
    assert MAX_STATE - 260 < len(b",".join(kept)) <= MAX_STATE


def test_without_a_valid_traceparent_tracestate_means_nothing():
    assert parse_traceparent(b"00-broken", b"a=1") is None
    assert parse_traceparent(b"00-%b-01" % IDS, b"a=1") == SpanParent(TRACE, SPAN, 1, b"a=1")
    assert parse_traceparent(b"00-%b-01" % IDS, b"a") == SpanParent(TRACE, SPAN, 1, b"")


@given(st.binary(max_size=80))
def test_no_bytes_upset_the_parsers(value: bytes):
    found = parse_traceparent(value, value)
    assert found is None or (found.trace.isalnum() and len(found.trace) == 32)
    assert len(clean_tracestate(value)) <= len(value)
