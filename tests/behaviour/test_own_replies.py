"""product.md 3.5 and interface.md 3: status by cause, the exact form of our own replies, and what they never say."""

from __future__ import annotations

import json
import re
import uuid

import pytest
from behaviour_kit import ask, assert_reply, hangs_up, live, playing, resets, silent, then_close
from support import Connection, RawClient, answer, response
from support.engine import Engine, upstream
from support.ports import closed_port

from sidecar.model.reason import Reason, Rejection
from sidecar.model.snapshot import Backend, Match, PathMatch, PoolLimits, Timeouts

OK = answer(response(body=b"ok"))
GET = b"GET / HTTP/1.1\r\nHost: a\r\n"


# Status by cause


@live
async def test_refused_is_502_connection_refused():
    with closed_port() as dead:
        async with Engine(upstream(dead)) as engine:
            assert_reply(await ask(engine), 502, "connection_refused", details="upstream=app attempt=2/2")


@live
@pytest.mark.parametrize("script", [resets, hangs_up], ids=["reset", "closed"])
async def test_an_upstream_that_goes_without_an_answer_is_502_connection_terminated(script):
    async with playing(script) as (_, _, client):
        assert_reply(await client.request(), 502, "connection_terminated", details="upstream=app attempt=1/2")


@live
@pytest.mark.parametrize(
    "data",
    [
        b"NOT HTTP AT ALL\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked, x\r\n\r\n",
        b"HTTP/1.1 99 Low\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Name: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
    ],
)
async def test_a_protocol_error_of_the_upstream_is_502_http_protocol_error(data: bytes):
    async with playing(then_close(data)) as (engine, _, client):
        assert_reply(await client.request(), 502, "http_protocol_error")
        assert len(engine.seen.rejected) == 0 or all(isinstance(kind, Rejection) for kind in engine.seen.rejected)


@live
async def test_an_answer_that_ends_inside_its_head_is_502_http_response_incomplete():
    async with playing(then_close(b"HTTP/1.1 200 OK\r\nContent-Le")) as (_, _, client):
        assert_reply(await client.request(), 502, "http_response_incomplete", details="upstream=app attempt=1/2")


@live
async def test_an_upstreams_head_beyond_64_kib_is_502_http_response_header_section_size():
    big = b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %s\r\n" % (number, b"v" * 1000) for number in range(70)) + b"\r\n"
    async with playing(then_close(big)) as (_, _, client):
        assert_reply(await client.request(), 502, "http_response_header_section_size")


@live
async def test_an_upstreams_head_of_more_than_256_fields_is_502_http_response_header_section_size():
    many = b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 257 + b"\r\n"
    async with playing(then_close(many)) as (_, _, client):
        assert_reply(await client.request(), 502, "http_response_header_section_size")


@live
async def test_a_head_of_60_kib_and_256_fields_passes():
    many = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + b"X: " + b"v" * 220 + b"\r\n"
    many += (b"X: " + b"v" * 220 + b"\r\n") * 254 + b"\r\n"
    async with playing(then_close(many)) as (_, _, client):
        reply = await client.request()
        assert (reply.status, len(reply.get_all("x"))) == (200, 255)


@live
async def test_no_endpoint_is_503_destination_unavailable():
    async with Engine(upstream([])) as engine:
        assert_reply(await ask(engine), 503, "destination_unavailable", details="upstream=app attempt=1/2")


@live
async def test_max_requests_reached_is_503_overloaded():
    async with playing(silent, up={"pool": PoolLimits(max_requests=1)}) as (engine, fake, holder):
        await holder.send(GET + b"\r\n")
        await fake.connection(0)
        reply = await ask(engine)
        assert_reply(reply, 503, "overloaded", details="upstream=app attempt=1/2")
        assert reply.get("retry-after") == "1"


@live
async def test_a_route_without_a_backend_that_has_weight_is_500():
    async with playing(OK, route={"backends": (Backend(name="app", weight=0),)}) as (_, _, client):
        assert_reply(await client.request(), 500, "destination_not_found", details="")


@live
async def test_no_route_is_404():
    route = {"matches": (Match(path=PathMatch(value="/only")),)}
    async with playing(OK, route=route) as (engine, _, client):
        assert_reply(await client.request("/other"), 404, "no_route", details="")
        exchange = await engine.seen.last()
        assert (exchange.status, exchange.reason, exchange.route, exchange.upstream) == (404, Reason.NO_ROUTE, None, None)


@live
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\n\r\n",
        b"GET http://user:secret@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n",
        b"HELLO\r\n\r\n",
    ],
)
async def test_a_bad_request_is_400_http_request_error_and_the_connection_closes(data: bytes):
    async with playing(OK) as (engine, fake, client):
        await client.send(data)
        reply = await client.read_response()
        assert_reply(reply, 400, "http_request_error")
        assert reply.get("connection") == "close"
        assert await client.read_until_close() == b""
        assert fake.connections == []
        assert len(engine.seen.rejected) == 1
        assert (await engine.seen.last()).status == 400


@live
async def test_a_malformed_body_is_400_http_request_error():
    async with playing(silent) as (engine, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        reply = await client.read_response()
        assert_reply(reply, 400, "http_request_error")
        assert reply.get("connection") == "close"
        assert engine.seen.rejected == [Rejection.BAD_CHUNK]


@live
async def test_a_body_above_max_request_body_is_413():
    async with playing(OK, listener={"max_request_body": 10}) as (engine, _, client):
        reply = await client.request(method="POST", body=b"x" * 11)
        assert_reply(reply, 413, "request_too_large")
        exchange = await engine.seen.last()
        assert (exchange.status, exchange.head.method, exchange.head.path) == (413, b"POST", b"/")
        assert engine.seen.rejected == [Rejection.BODY_TOO_LARGE]


@live
async def test_a_chunked_body_above_max_request_body_is_413():
    async with playing(silent, listener={"max_request_body": 10}) as (_, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n")
        assert_reply(await client.read_response(), 413, "request_too_large")


@live
async def test_a_body_of_exactly_max_request_body_passes():
    async with playing(OK, listener={"max_request_body": 10}) as (_, _, client):
        assert (await client.request(method="POST", body=b"x" * 10)).body == b"ok"


@live
async def test_a_head_above_max_header_bytes_is_431_header_section_too_large():
    async with playing(OK, listener={"max_header_bytes": 1000}) as (_, _, client):
        await client.send(GET + b"X: " + b"v" * 1000 + b"\r\n\r\n")
        assert_reply(await client.read_response(), 431, "header_section_too_large")


@live
async def test_max_header_bytes_is_the_whole_head_request_line_included():
    line = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
    for extra, status in ((0, 200), (1, 431)):
        async with playing(OK, listener={"max_header_bytes": 1000}) as (_, _, client):
            await client.send(line + b"v" * (1000 - len(line) - 4 + extra) + b"\r\n\r\n")
            assert (await client.read_response()).status == status


@live
async def test_more_fields_than_max_header_count_is_431():
    for count, status in ((8, 200), (9, 431)):
        async with playing(OK, listener={"max_header_count": 8}) as (_, _, client):
            await client.send(GET + b"X: y\r\n" * (count - 1) + b"\r\n")
            assert (await client.read_response()).status == status


@live
async def test_a_target_above_max_target_bytes_is_414_uri_too_long():
    for size, status in ((100, 200), (101, 414)):
        async with playing(OK, listener={"max_target_bytes": 100}) as (_, _, client):
            reply = await client.request("/" + "x" * (size - 1))
            assert reply.status == status
            if status == 414:
                assert_reply(reply, 414, "uri_too_long")


@live
async def test_there_is_no_limit_per_field():
    async with playing(OK) as (_, fake, client):
        assert (await client.request(headers=f"X: {'v' * 30000}\r\n")).status == 200
        assert fake.requests[0].get("x") == "v" * 30000


@live
async def test_trace_is_405_http_request_denied():
    async with playing(OK) as (_, fake, client):
        reply = await client.request(method="TRACE")
        assert_reply(reply, 405, "http_request_denied")
        assert reply.get("allow")
        assert fake.connections == []


@live
async def test_connect_on_a_reverse_listener_is_405_http_request_denied():
    async with playing(OK) as (_, fake, client):
        await client.send(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n")
        assert_reply(await client.read_response(), 405, "http_request_denied")
        assert fake.connections == []


@live
async def test_more_than_eight_via_entries_of_ours_is_502_proxy_loop_detected():
    for entries, status in ((8, 200), (9, 502)):
        async with playing(OK) as (_, _, client):
            reply = await client.request(headers="Via: 1.1 outrider\r\n" * entries)
            assert reply.status == status
            if status == 502:
                assert_reply(reply, 502, "proxy_loop_detected", details="")


@live
async def test_more_than_sixteen_interim_responses_is_502_http_protocol_error():
    for count, status in ((16, 200), (17, 502)):
        async with playing(then_close(b"HTTP/1.1 103 Early Hints\r\n\r\n" * count + response())) as (_, _, client):
            await client.send(GET + b"\r\n")
            for _ in range(16):
                assert (await client.read_response()).status == 103
            reply = await client.read_response()
            assert reply.status == status
            if status == 502:
                assert_reply(reply, 502, "http_protocol_error")


@live
async def test_a_101_that_nobody_asked_for_is_502_http_upgrade_failed():
    async with playing(then_close(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")) as (_, _, client):
        assert_reply(await client.request(), 502, "http_upgrade_failed")


@pytest.mark.expects_traceback("exchange failed")
@live
async def test_a_bug_of_ours_is_500_proxy_internal_error_and_says_nothing_of_it():
    async with playing(OK) as (engine, _, client):
        engine.registry.get("app").endpoints = ("no endpoint",)
        reply = await client.request()
        assert_reply(reply, 500, "proxy_internal_error", details="upstream=app attempt=1/2")
        assert b"'str'" not in reply.body


# Form


@live
async def test_a_reply_of_ours_is_problem_json_with_these_fields_and_no_others():
    async with playing(silent, route={"timeouts": Timeouts(response_header=0.05)}) as (_, _, client):
        reply = await client.request(headers="x-request-id: my-id\r\n")
        assert reply.start == b"HTTP/1.1 504 Gateway Timeout"
        assert json.loads(reply.body) == {
            "type": "about:blank",
            "title": "Gateway Timeout",
            "status": 504,
            "detail": "The upstream did not answer in time.",
            "reason": "http_response_timeout",
            "clock": "responseHeader",
            "requestId": "my-id",
        }
        names = [name.lower() for name, _ in reply.fields]
        assert names == [b"date", b"proxy-status", b"x-request-id", b"content-type", b"content-length"]


@live
async def test_for_head_there_is_no_body():
    async with playing(resets) as (_, _, client):
        reply = await client.request(method="HEAD")
        assert (reply.status, reply.get("content-type")) == (502, "application/problem+json")
        assert reply.get("proxy-status") == 'outrider; error=connection_terminated; details="upstream=app attempt=1/2"'
        assert int(reply.get("content-length") or 0) > 0
        assert (await client.request(method="HEAD")).status == 502  # and the connection is in step


@live
@pytest.mark.parametrize(("status", "code"), [(502, 14), (504, 4), (404, 12), (413, 8)])
async def test_grpc_gets_a_grpc_status_instead_of_a_problem(status: int, code: int):
    route = {"timeouts": Timeouts(response_header=0.05), "matches": (Match(path=PathMatch(value="/svc")),)}
    async with playing(resets if status == 502 else silent, route=route, listener={"max_request_body": 100}) as (_, _, client):
        target = "/other" if status == 404 else "/svc/Method"
        body = b"x" * (101 if status == 413 else 5)
        reply = await client.request(target, method="POST", headers="Content-Type: application/grpc+proto\r\n", body=body)
        assert (reply.status, reply.get("content-type"), reply.body) == (200, "application/grpc", b"")
        assert reply.get("grpc-status") == str(code)
        assert reply.get("grpc-message")
        assert (reply.get("proxy-status") or "").startswith("outrider; error=")


@live
async def test_every_reply_of_ours_has_a_request_id_which_is_a_uuid_when_none_was_given():
    async with playing(resets) as (engine, _, client):
        reply = await client.request()
        assert uuid.UUID(reply.get("x-request-id"))
        assert (await engine.seen.last()).request_id.decode() == reply.get("x-request-id")


@live
async def test_an_upstreams_own_errors_pass_untouched():
    async with playing(answer(response("503 Busy", b"busy", "Proxy-Status: other; error=x\r\n"))) as (engine, _, client):
        reply = await client.request()
        assert (reply.start, reply.body, reply.get("proxy-status")) == (b"HTTP/1.1 503 Busy", b"busy", "other; error=x")
        assert reply.get("x-request-id") is None
        exchange = await engine.seen.last()
        assert (exchange.status, exchange.reason) == (503, None)


# What is not said


@live
async def test_no_reply_ever_shows_an_address_or_an_exceptions_text():
    with closed_port() as dead:
        async with Engine(upstream(dead)) as engine:
            await ask(engine)
            async with await RawClient.open(engine.port()) as client:
                await client.request()
                seen = bytes(client.received)
            assert str(dead).encode() not in seen
            assert b"127.0.0.1" not in seen
            assert not re.search(rb"Errno|Traceback|Error\(", seen)


@live
async def test_untrusted_peers_do_not_learn_the_upstreams_name_nor_how_often_it_was_tried():
    async with playing(silent, listener={"trusted_proxies": ()}, route={"timeouts": Timeouts(response_header=0.05)}) as (engine, _, client):
        assert_reply(await client.request(), 504, "http_response_timeout", clock="responseHeader", details="clock=responseHeader")
        assert b"app" not in bytes(client.received).replace(b"application", b"")
        assert (await engine.seen.last()).upstream.name == "app"


# The record


@live
async def test_every_exchange_is_recorded_exactly_once_with_what_the_client_saw():
    async def script(connection: Connection) -> None:
        while True:
            request = await connection.read_request()
            await connection.send(response("201 Created", b"12345", "X: y\r\n"))
            assert request.start.startswith(b"POST /a")

    async with playing(script) as (engine, fake, client):
        await client.request("/a?q=1", method="POST", body=b"abc")
        exchange = await engine.seen.last()
        assert (exchange.status, exchange.reason, exchange.bytes_in, exchange.bytes_out) == (201, None, 3, 5)
        assert (exchange.route.name, exchange.upstream.name, exchange.client) == ("all", "app", "127.0.0.1")
        attempt = exchange.attempts[0]
        assert attempt.endpoint.label == f"127.0.0.1:{fake.port}"
        assert (
            0 < attempt.started_at <= attempt.connected_at <= attempt.sent_at <= attempt.headers_at <= attempt.ended_at <= exchange.ended_at
        )


@live
async def test_a_client_that_goes_away_is_499_client_closed_and_cancels_the_upstream_request_at_once():
    async with playing(silent) as (engine, fake, client):
        await client.send(GET + b"\r\n")
        connection = await fake.connection(0)
        while not connection.requests:
            await client.read_nothing(0.01)
        await client.close()
        exchange = await engine.seen.last()
        assert (exchange.status, exchange.reason) == (499, Reason.CLIENT_CLOSED)
        assert exchange.attempts[0].outcome == "client_closed"
        await connection.ended.wait()
