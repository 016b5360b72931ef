"""Contexts of others: what is continued, what is ignored, and that nothing that comes in upsets anything."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import RawClient, ScriptedUpstream, answer, response
from support.engine import Engine, upstream
from tracing_kit import SPAN, TRACE, live

from sidecar.model.exchange import Attempt
from sidecar.model.telemetry import Propagator
from sidecar.observe.tracing.context import ExchangeTracer, Sampling
from sidecar.observe.tracing.propagation import Formats

EVERY = tuple(Propagator)
NAMES = (b"traceparent", b"tracestate", b"b3", b"x-b3-traceid", b"x-b3-spanid", b"x-b3-sampled", b"x-b3-flags", b"uber-trace-id")
W3C = {b"traceparent": f"00-{TRACE}-{SPAN}-01".encode()}
OTHER_TRACE = "80f198ee56343ba864fe8b2a57d3eff7"
B3 = {b"b3": f"{OTHER_TRACE}-e457b5a2e4d86bd1-1".encode()}


def trace_id(names: tuple[Propagator, ...], known: dict[bytes, bytes]) -> str | None:
    parent = Formats(names).extract(dict(known))
    return None if parent is None else parent.trace.decode()


def test_of_several_formats_the_last_that_has_a_context_counts():
    assert trace_id((Propagator.TRACE_CONTEXT, Propagator.B3), W3C | B3) == OTHER_TRACE
    assert trace_id((Propagator.B3, Propagator.TRACE_CONTEXT), W3C | B3) == TRACE
    assert trace_id((Propagator.B3, Propagator.TRACE_CONTEXT), B3) == OTHER_TRACE
    assert trace_id((Propagator.TRACE_CONTEXT, Propagator.B3), W3C | {b"b3": b"0"}) == TRACE


def test_an_id_of_64_bits_is_filled_with_zeros():
    assert trace_id((Propagator.B3,), {b"b3": b"64fe8b2a57d3eff7-e457b5a2e4d86bd1-1"}) == "0" * 16 + "64fe8b2a57d3eff7"


def test_the_fields_of_the_formats_are_taken_and_no_others():
    known = dict.fromkeys((*NAMES, b"x-request-id"), b"x")
    Formats(EVERY).extract(known)
    assert list(known) == [b"x-request-id"]
    assert Formats((Propagator.B3_MULTI,)).fields >= {b"x-b3-traceid", b"x_b3_traceid", b"x-b3_traceid"}
    assert Formats((Propagator.TRACE_CONTEXT,)).fields == {b"traceparent", b"tracestate"}


hostile = st.one_of(
    st.binary(max_size=120).filter(lambda value: b"\n" not in value),
    st.text(alphabet="0123456789abcdefABCDEF-:_ x%", max_size=80).map(str.encode),
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(NAMES), hostile), st.booleans())
def test_whatever_comes_a_trace_begins_and_the_upstream_gets_one_context(known: dict[bytes, bytes], believed: bool):
    tracer = ExchangeTracer(Formats(EVERY), Sampling(0.5, parent_based=True))
    trace = tracer.begin(known, believed=believed)
    lines = trace.outgoing(Attempt(1, 0.0), b"/")
    names = [name.lower() for name, _ in lines]
    assert len(names) == len(set(names))
    assert known == {}
    assert int(trace.trace_id, 16) > 0
    assert all(b"\r" not in value and b"\n" not in value for _, value in lines)


def test_the_ratio_goes_by_the_trace_id_so_that_everybody_keeps_the_same():
    half = Sampling(0.5, parent_based=False)
    assert half.samples(b"f" * 16 + b"7" + b"f" * 15)
    assert not half.samples(b"0" * 16 + b"8" + b"0" * 15)
    assert not Sampling(0.0, parent_based=False).samples(b"0" * 31 + b"1")
    assert Sampling(1.0, parent_based=False).samples(b"f" * 32)


@pytest.mark.parametrize(
    ("ratio", "parent_based", "flag", "sampled"),
    [(1.0, True, b"00", False), (0.0, True, b"01", True), (1.0, False, b"00", True), (0.0, False, b"01", False)],
)
def test_who_decides(ratio: float, parent_based: bool, flag: bytes, sampled: bool):
    tracer = ExchangeTracer(Formats((Propagator.TRACE_CONTEXT,)), Sampling(ratio, parent_based=parent_based))
    trace = tracer.begin({b"traceparent": f"00-{TRACE}-{SPAN}-".encode() + flag}, believed=True)
    assert trace.sampled is sampled
    ((_, sent),) = trace.outgoing(Attempt(1, 0.0), b"/")
    assert sent.endswith(b"-01" if sampled else b"-00")


def test_the_random_flag_is_set_on_traces_that_begin_here_and_otherwise_as_it_came():
    tracer = ExchangeTracer(Formats((Propagator.TRACE_CONTEXT,)), Sampling(1.0, parent_based=True))

    def sent(known: dict[bytes, bytes]) -> bytes:
        return tracer.begin(known, believed=True).outgoing(Attempt(1, 0.0), b"/")[0][1]

    assert sent({}).endswith(b"-03")
    assert sent({b"traceparent": f"00-{TRACE}-{SPAN}-03".encode()}).endswith(b"-03")
    assert sent({b"traceparent": f"00-{TRACE}-{SPAN}-fd".encode()}).endswith(b"-01")


@live
async def test_while_tracing_is_off_every_byte_of_the_callers_trace_travels_on():
    lines = (
        "TraceParent: 00-broken\r\ntraceparent: second\r\nTRACESTATE: A=1,,\r\ntracestate: b=2\r\n"
        "X-B3-TraceId: 1\r\nb3: 0\r\nuber-trace-id: x\r\nx_b3_traceid: 2\r\nBaggage: a=b;c\r\n"
    )
    async with ScriptedUpstream(answer(response())) as fake:
        async with Engine(upstream(fake.port), listener={"trusted_proxies": ()}) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.request(headers=lines)
        assert lines.encode() in bytes(fake.connections[0].received)
        assert engine.seen.finished[0].trace is None
