"""Spans of exchanges, as a collector gets them: names, kinds, parents, times, status, events, links (interface.md section 5)."""

from __future__ import annotations

import asyncio
import time
from ipaddress import ip_network

import pytest
from support import Connection, RawClient, answer, in_turn, response
from support.engine import Engine, upstream
from support.otlp import Collector
from support.ports import closed_port
from tracing_kit import PARENT, QUICK, SPAN, TRACE, ask, clients, live, server, to, traced

from sidecar.model.snapshot import AllowEntry, RetryPolicy, Timeouts
from sidecar.model.telemetry import Propagator, Sampler, Telemetry
from sidecar.observe.tracing.service import Tracing

OK = answer(response(body=b"hi"))
LOOPBACK = {"allow": (AllowEntry(host=None, network=ip_network("127.0.0.0/8"), ports=None),)}


@live
async def test_an_exchange_is_a_server_span_with_a_client_span_for_its_attempt():
    before = time.time_ns()
    async with traced(OK) as (collector, engine, _):
        assert (await ask(engine, "/a")).status == 200
        spans = await collector.wait(2)
    exchange, (attempt,) = server(spans), clients(spans)
    assert (exchange.name, attempt.name) == ("GET all", "GET")
    assert exchange.parent_id == ""
    assert (attempt.parent_id, attempt.trace_id) == (exchange.span_id, exchange.trace_id)
    assert before <= exchange.start <= attempt.start <= attempt.end <= exchange.end <= time.time_ns()
    assert (exchange.status, attempt.status) == ("unset", "unset")
    assert exchange.scope[0] == "sidecar"


@live
async def test_each_attempt_tells_its_upstream_its_own_span_and_the_callers_line_is_gone():
    async with traced(OK) as (collector, engine, fake):
        await ask(engine, headers=PARENT + "tracestate: a=1, b=2\r\ntracestate: c=3\r\nbaggage: user=7\r\n")
        spans = await collector.wait(2)
    exchange, (attempt,) = server(spans), clients(spans)
    assert (exchange.trace_id, exchange.parent_id) == (TRACE, SPAN)
    (request,) = fake.requests
    assert request.get_all("traceparent") == [f"00-{TRACE}-{attempt.span_id}-01"]
    assert request.get_all("tracestate") == ["a=1,b=2,c=3"]
    assert request.get_all("baggage") == ["user=7"]
    assert exchange.trace_state == attempt.trace_state == "a=1,b=2,c=3"


@live
async def test_a_retry_is_an_event_with_its_reason_and_delay_and_a_span_that_counts_it():
    script = answer(response("503 Busy"), response("503 Busy"), response(body=b"at last"))
    retry = RetryPolicy(attempts=2, backoff=0.01, max_backoff=0.01)
    async with traced(script, route={"retry": retry}) as (collector, engine, fake):
        assert (await ask(engine)).status == 200
        spans = await collector.wait(4)
    exchange, attempts = server(spans), clients(spans)
    assert [(event["name"], event["reason"], event["attempt"]) for event in exchange.events] == [
        ("retry", "status_503", 2),
        ("retry", "status_503", 3),
    ]
    assert all(event["delay_ms"] >= 10 for event in exchange.events)
    assert [event["at"] for event in exchange.events] == [attempt.end for attempt in attempts[:2]]
    assert [attempt.attributes.get("http.request.resend_count") for attempt in attempts] == [None, 1, 2]
    assert [attempt.attributes.get("error.type") for attempt in attempts] == ["503", "503", None]
    assert [attempt.status for attempt in attempts] == ["error", "error", "unset"]
    assert exchange.status == "unset"
    sent = [request.get("traceparent") for request in fake.requests]
    assert sent == [f"00-{exchange.trace_id}-{attempt.span_id}-03" for attempt in attempts]
    assert len({span.span_id for span in spans}) == 4


@live
async def test_the_replay_of_a_stale_connection_is_an_attempt_with_an_event():
    async def one_answer(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(response(body=b"1"))
        await connection.read_request()  # and closes without a word

    async with traced(in_turn(one_answer, OK)) as (collector, engine, _), await RawClient.open(engine.port()) as client:
        await client.request()
        await client.request()
        spans = [span for span in await collector.wait(5) if span.trace_id != collector.spans[0].trace_id]
    assert [event["reason"] for event in server(spans).events] == ["stale_connection"]
    assert server(spans).attributes["outrider.replays"] == 1
    first, second = clients(spans)
    assert (first.status, first.attributes["error.type"], second.status) == ("error", "stale_connection", "unset")


@live
async def test_a_refused_connection_is_an_error_on_both_spans():
    async with Collector() as collector:
        with closed_port() as port:
            async with Engine(upstream(port), tracing=Tracing(QUICK), telemetry=Telemetry(tracing=to(collector))) as engine:
                assert (await ask(engine)).status == 502
                spans = await collector.wait(3)
    exchange, attempts = server(spans), clients(spans)
    assert (exchange.status, exchange.attributes["error.type"]) == ("error", "connection_refused")
    assert exchange.attributes["outrider.reason"] == "connection_refused"
    assert exchange.attributes["http.response.status_code"] == 502
    assert [event["reason"] for event in exchange.events] == ["connection_refused"]
    assert {attempt.attributes["error.type"] for attempt in attempts} == {"connection_refused"}
    assert all("http.response.status_code" not in attempt.attributes for attempt in attempts)


@live
async def test_the_clock_that_ended_it_is_named():
    async def silent(connection: Connection) -> None:
        await connection.read_request()
        await asyncio.Event().wait()

    async with traced(silent, route={"timeouts": Timeouts(response_header=0.05)}) as (collector, engine, _):
        assert (await ask(engine)).status == 504
        spans = await collector.wait(2)
    for span in (server(spans), clients(spans)[0]):
        assert (span.attributes["outrider.clock"], span.attributes["outrider.reason"]) == ("responseHeader", "http_response_timeout")
        assert (span.status, span.attributes["error.type"]) == ("error", "http_response_timeout")


@live
async def test_a_client_that_leaves_is_no_error():
    arrived = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await connection.read_request()
        arrived.set()
        await connection.read_some()

    async with traced(slow) as (collector, engine, _):
        async with await RawClient.open(engine.port()) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await arrived.wait()
        spans = await collector.wait(2)
    for span in (server(spans), clients(spans)[0]):
        assert (span.status, span.attributes["outrider.reason"]) == ("unset", "client_closed")
        assert "error.type" not in span.attributes
        assert "http.response.status_code" not in span.attributes


@live
async def test_a_response_that_is_cut_is_an_error_although_its_head_was_fine():
    async def cut(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    async with traced(cut) as (collector, engine, _):
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await ask(engine)
        spans = await collector.wait(2)
    for span in (server(spans), clients(spans)[0]):
        assert (span.status, span.attributes["error.type"]) == ("error", "http_response_incomplete")
        assert span.attributes["http.response.status_code"] == 200


@live
async def test_what_never_found_a_route_has_a_span_with_the_methods_name():
    async with traced(OK, routes=[]) as (collector, engine, _):
        assert (await ask(engine, "/secret", method="POST")).status == 404
        spans = await collector.wait(1)
    assert (spans[0].name, spans[0].status) == ("POST", "unset")
    assert "http.route" not in spans[0].attributes
    assert "error.type" not in spans[0].attributes
    assert spans[0].attributes["outrider.reason"] == "no_route"


@live
async def test_a_caller_that_is_not_believed_gets_a_trace_of_its_own_with_a_link_and_its_baggage_is_dropped():
    async with traced(OK, listener={"trusted_proxies": ()}) as (collector, engine, fake):
        await ask(engine, headers=PARENT + "tracestate: a=1\r\nbaggage: role=admin\r\n")
        spans = await collector.wait(2)
    exchange, (attempt,) = server(spans), clients(spans)
    assert exchange.trace_id != TRACE
    assert exchange.parent_id == ""
    assert exchange.links == [{"trace_id": TRACE, "span_id": SPAN}]
    (request,) = fake.requests
    assert request.get_all("traceparent") == [f"00-{exchange.trace_id}-{attempt.span_id}-03"]
    assert request.get("tracestate") is None
    assert request.get("baggage") is None


@live
async def test_the_sampling_decision_of_a_believed_caller_holds_and_travels_on():
    ratio = {"sampler": Sampler.PARENT_RATIO, "ratio": 1.0}
    async with traced(OK, tracing=ratio) as (collector, engine, fake):
        await ask(engine, headers=PARENT.replace("-01\r", "-00\r"))
        await ask(engine, headers=PARENT)
        await collector.wait(2)
        assert [request.get("traceparent")[-2:] for request in fake.requests] == ["00", "01"]
        unsampled, sampled = engine.seen.finished
        assert (unsampled.trace.sampled, sampled.trace.sampled) == (False, True)
        assert unsampled.trace.trace_id == TRACE
    assert len(collector.spans) == 2


@live
async def test_a_connect_tunnel_is_one_span_that_ends_with_it():
    async def echo_once(connection: Connection) -> None:
        await connection.send((await connection.read_exactly(4)) * 2)
        assert await connection.read_some() == b""

    async with traced(echo_once, outbound=LOOPBACK) as (collector, engine, fake):
        port = fake.port
        async with await RawClient.open(engine.port("outbound")) as client:
            await client.send(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            assert (await client.read_response(to="CONNECT")).status == 200
            await client.send(b"ping")
            assert await client.read_exactly(8) == b"pingping"
            assert collector.spans == []
        spans = await collector.wait(2)
    exchange, (attempt,) = server(spans), clients(spans)
    assert (exchange.name, attempt.attributes["url.full"]) == ("CONNECT", f"127.0.0.1:{port}")
    told = {name: value for name, value in exchange.attributes.items() if name.startswith("outrider.tunnel")}
    assert told == {"outrider.tunnel": "connect", "outrider.tunnel.bytes_in": 4, "outrider.tunnel.bytes_out": 8}


@live
async def test_limits_of_the_environment_hold():
    limits = {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "6", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "5", "OTEL_SPAN_EVENT_COUNT_LIMIT": "1"}
    script = answer(response("503 Busy"), response("503 Busy"), response(body=b"at last"))
    with pytest.MonkeyPatch.context() as patch:  # the SDK reads these itself
        for name, value in limits.items():
            patch.setenv(name, value)
        async with traced(script, route={"retry": RetryPolicy(attempts=2, backoff=0.0, max_backoff=0.0)}) as (collector, engine, _):
            await ask(engine, "/a-long-path")
            exchange = server(await collector.wait(4))
    assert len(exchange.attributes) == 6
    assert exchange.dropped_attributes > 0
    assert all(len(value) <= 5 for value in exchange.attributes.values() if isinstance(value, str))
    assert len(exchange.events) == 1


@live
async def test_with_no_propagator_the_headers_of_the_caller_travel_on_untouched():
    async with traced(OK, tracing={"propagators": ()}) as (collector, engine, fake):
        await ask(engine, headers=PARENT)
        spans = await collector.wait(2)
    assert server(spans).trace_id != TRACE
    assert fake.requests[0].get_all("traceparent") == [f"00-{TRACE}-{SPAN}-01"]


@pytest.mark.parametrize("propagator", [Propagator.B3, Propagator.B3_MULTI, Propagator.JAEGER])
@live
async def test_b3_and_jaeger_contexts_are_continued_and_replaced(propagator):
    single = f"b3: {TRACE}-{SPAN}-1\r\n"
    multi = f"X-B3-TraceId: {TRACE}\r\nX-B3-SpanId: {SPAN}\r\nX-B3-Sampled: 1\r\nX-B3-ParentSpanId: 05e3ac9a4f6e3b90\r\n"
    came = {Propagator.B3: multi, Propagator.B3_MULTI: single, Propagator.JAEGER: f"uber-trace-id: {TRACE}:{SPAN}:0:1\r\nuberctx-a: b\r\n"}
    async with traced(OK, tracing={"propagators": (propagator,), "sampler": Sampler.PARENT_RATIO, "ratio": 0.0}) as (
        collector,
        engine,
        fake,
    ):
        await ask(engine, headers=came[propagator] + PARENT)
        spans = await collector.wait(2)
    exchange, (attempt,) = server(spans), clients(spans)
    assert (exchange.trace_id, exchange.parent_id) == (TRACE, SPAN)
    (request,) = fake.requests
    sent = {name.decode(): value.decode() for name, value in request.fields if name.lower().startswith((b"b3", b"x-b3", b"uber"))}
    expected = {
        Propagator.B3: {"b3": f"{TRACE}-{attempt.span_id}-1"},
        Propagator.B3_MULTI: {"X-B3-TraceId": TRACE, "X-B3-SpanId": attempt.span_id, "X-B3-Sampled": "1"},
        Propagator.JAEGER: {"uberctx-a": "b", "uber-trace-id": f"{TRACE}:{attempt.span_id}:0:1"},
    }
    assert sent == expected[propagator]
    assert request.get_all("traceparent") == [f"00-{TRACE}-{SPAN}-01"], "a format that is not named is an ordinary field"


@live
async def test_an_excluded_url_has_no_span_and_its_headers_stay_as_they_came():
    async with traced(OK, env={"OTEL_PYTHON_EXCLUDED_URLS": "/healthz,metrics$"}) as (collector, engine, fake):
        await ask(engine, "/healthz?deep=1", headers=PARENT)
        await ask(engine, "/metrics", headers=PARENT)
        await ask(engine, "/orders", headers=PARENT)
        spans = await collector.wait(2)
    assert [span.attributes["url.path"] for span in spans if span.kind == "server"] == ["/orders"]
    assert [request.get("traceparent") == f"00-{TRACE}-{SPAN}-01" for request in fake.requests] == [True, True, False]
