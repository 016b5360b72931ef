"""product.md 3.2 and 3.9 Clocks, Queue: every clock fires by itself and is named in body, Proxy-Status and record.

No test measures time; where order is what matters, the other clocks are hundreds of times longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

from behaviour_kit import ask, assert_reply, assert_reset, deaf, live, never_accepts, playing, resets, silent, then_silent
from support import Connection, RawClient, ScriptedUpstream, answer, in_turn, response
from support.engine import Engine, upstream

from sidecar.model.reason import Clock, Reason
from sidecar.model.snapshot import PoolLimits, RetryPolicy, Timeouts

SHORT = 0.08
AFTER_THE_REQUEST = 0.5
"""The upstream must have the request before, on a busy machine too."""
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD_OF_TEN = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"


def clocks(**more: float) -> dict[str, object]:
    return {"route": {"timeouts": Timeouts(**more)}}


async def record(engine: Engine, status: int, reason: Reason, clock: Clock) -> None:
    exchange = await engine.seen.last()
    assert (exchange.status, exchange.reason, exchange.clock) == (status, reason, clock)


# Before response headers: 504


@live
async def test_connect_is_dns_tcp_and_tls_and_fires_504_connection_timeout():
    with never_accepts() as port:
        async with Engine(upstream(port, connect_timeout=SHORT)) as engine:
            reply = await ask(engine)
            assert_reply(reply, 504, "connection_timeout", clock="connect", details="upstream=app attempt=2/2 clock=connect")
            await record(engine, 504, Reason.CONNECTION_TIMEOUT, Clock.CONNECT)
            assert [attempt.clock for attempt in engine.seen.attempts] == [Clock.CONNECT] * 2
            assert engine.seen.connects == [("app", "connection_timeout")] * 2


@live
async def test_response_header_fires_504_http_response_timeout():
    async with playing(silent, **clocks(response_header=SHORT)) as (engine, _, client):
        details = "upstream=app attempt=1/2 clock=responseHeader"
        assert_reply(await client.request(), 504, "http_response_timeout", clock="responseHeader", details=details)
        await record(engine, 504, Reason.HTTP_RESPONSE_TIMEOUT, Clock.RESPONSE_HEADER)


@live
async def test_the_clients_connection_serves_on_after_a_504():
    async with playing(in_turn(silent, answer(response(body=b"ok"))), **clocks(response_header=AFTER_THE_REQUEST)) as (_, _, client):
        assert (await client.request()).status == 504
        assert (await client.request()).body == b"ok"


@live
async def test_response_header_starts_when_the_request_has_been_sent():
    async def slow_reader(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(response(body=b"ok"))

    async with playing(slow_reader, **clocks(response_header=0.5)) as (_, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n")
        await client.send(b"12345678", piece=1, pause=0.1)
        assert (await client.read_response()).body == b"ok"


@live
async def test_an_interim_response_does_not_restart_response_header():
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with playing(then_silent(*[hints] * 12, pause=0.1), **clocks(response_header=0.6)) as (engine, _, client):
        await client.send(GET)
        seen = 0
        while (reply := await client.read_response()).status == 103:
            seen += 1
        assert 0 < seen < 12
        assert_reply(reply, 504, "http_response_timeout", clock="responseHeader")
        await record(engine, 504, Reason.HTTP_RESPONSE_TIMEOUT, Clock.RESPONSE_HEADER)


@live
async def test_backend_request_is_one_attempt_and_fires_504_http_response_timeout():
    async with playing(silent, **clocks(backend_request=SHORT, request=30)) as (engine, _, client):
        details = "upstream=app attempt=1/2 clock=backendRequest"
        assert_reply(await client.request(), 504, "http_response_timeout", clock="backendRequest", details=details)
        await record(engine, 504, Reason.HTTP_RESPONSE_TIMEOUT, Clock.BACKEND_REQUEST)


@live
async def test_each_attempt_has_a_backend_request_clock_of_its_own():
    retry = RetryPolicy(attempts=1, codes=frozenset({503}), backoff=0.001)
    slow_no = then_silent(response("503 No"), pause=0.4)
    slow_yes = then_silent(response(body=b"ok"), pause=0.4)
    route = {"timeouts": Timeouts(backend_request=0.7), "retry": retry}
    async with playing(in_turn(slow_no, slow_yes), route=route) as (_, _, client):
        assert (await client.request()).body == b"ok"


@live
async def test_the_clocks_of_an_attempt_do_not_run_during_the_back_off_after_it():
    retry = RetryPolicy(attempts=1, backoff=1.4, max_backoff=1.4)
    route = {"timeouts": Timeouts(backend_request=0.5, response_header=0.5, stream_idle=1.0), "retry": retry}
    async with playing(in_turn(resets, answer(response(body=b"ok"))), route=route) as (_, _, client):
        assert (await client.request()).body == b"ok"


@live
async def test_request_is_the_whole_transaction_and_fires_504_request_timeout():
    async with playing(silent, **clocks(request=AFTER_THE_REQUEST)) as (engine, _, client):
        assert_reply(await client.request(), 504, "request_timeout", clock="request", details="upstream=app attempt=1/2 clock=request")
        await record(engine, 504, Reason.REQUEST_TIMEOUT, Clock.REQUEST)


@live
async def test_request_covers_queueing():
    up = {"pool": PoolLimits(max_connections=1)}
    async with playing(silent, up=up, **clocks(request=1.0, queue=30)) as (engine, fake, holder):
        async with await RawClient.open(engine.port()) as waiting:
            await holder.send(GET)
            await fake.connection(0)
            await waiting.send(GET)
            assert_reply(await holder.read_response(), 504, "request_timeout", clock="request")
            assert_reply(await waiting.read_response(), 504, "request_timeout", clock="request")


@live
async def test_request_covers_retries():
    retry = RetryPolicy(attempts=20, codes=frozenset({503}), backoff=0.001)
    route = {"timeouts": Timeouts(request=1.0), "retry": retry}
    async with playing(then_silent(response("503 No"), pause=0.2), route=route) as (engine, _, client):
        reply = await client.request()
        assert_reply(reply, 504, "request_timeout", clock="request")
        assert 1 < len(engine.seen.attempts) < 10
        assert f"attempt={len(engine.seen.attempts)}/21" in (reply.get("proxy-status") or "")


@live
async def test_request_covers_back_off_so_a_retry_that_does_not_fit_is_not_waited_for():
    retry = RetryPolicy(attempts=3, codes=frozenset({503}), backoff=5, max_backoff=5)
    route = {"timeouts": Timeouts(request=1), "retry": retry}
    async with playing(answer(response("503 No", b"last word")), route=route) as (engine, _, client):
        assert (await client.request()).body == b"last word"
        assert (await engine.seen.last()).retries_skipped == "time"


@live
async def test_request_runs_from_the_head_on_also_while_the_body_is_still_coming():
    async with playing(silent, **clocks(request=SHORT)) as (_, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
        reply = await client.read_response()
        assert_reply(reply, 504, "request_timeout", clock="request")
        assert reply.get("connection") == "close"


@live
async def test_stream_idle_before_the_response_fires_504_direction_read():
    async with playing(silent, **clocks(stream_idle=SHORT)) as (engine, _, client):
        details = "upstream=app attempt=1/2 clock=streamIdle direction=read"
        assert_reply(await client.request(), 504, "stream_idle_timeout", clock="streamIdle", details=details)
        await record(engine, 504, Reason.STREAM_IDLE_TIMEOUT, Clock.STREAM_IDLE)


@live
async def test_stream_idle_fires_direction_write_when_an_upstream_takes_no_body():
    async with playing(deaf, **clocks(stream_idle=0.6)) as (engine, _, _):
        # Little room in the kernel, so that what is sent in vain is not more than a closing connection reads away.
        engine._servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        async with await RawClient.open(engine.port()) as client:
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000000\r\n\r\n")
            with contextlib.suppress(TimeoutError):
                while True:
                    await asyncio.wait_for(client.send(bytes(20_000)), 0.1)
            details = "upstream=app attempt=1/2 clock=streamIdle direction=write"
            assert_reply(await client.read_response(), 504, "stream_idle_timeout", clock="streamIdle", details=details)


@live
async def test_stream_idle_direction_is_read_when_it_is_the_client_that_sends_nothing():
    listener = {"body_idle_timeout": 0.0}
    async with playing(silent, listener=listener, **clocks(stream_idle=SHORT)) as (_, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + bytes(70000))
        assert_reply(
            await client.read_response(),
            504,
            "stream_idle_timeout",
            clock="streamIdle",
            details="upstream=app attempt=1/2 clock=streamIdle direction=read",
        )


@live
async def test_bytes_in_either_direction_keep_stream_idle_from_firing():
    pieces = [HEAD_OF_TEN, *[b"x"] * 10]
    async with playing(then_silent(*pieces, pause=0.1), **clocks(stream_idle=0.8)) as (_, _, client):
        await client.send(GET)
        assert (await client.read_response()).body == b"x" * 10


@live
async def test_upload_bytes_keep_stream_idle_from_firing():
    async with playing(answer(response(body=b"ok")), **clocks(stream_idle=0.7)) as (_, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
        await client.send(b"1234567890", piece=1, pause=0.1)
        assert (await client.read_response()).body == b"ok"


@live
async def test_upgrade_handshake_bounds_the_wait_for_101_with_504_http_upgrade_failed():
    async with playing(silent, **clocks(upgrade_handshake=SHORT)) as (engine, _, client):
        reply = await client.request(headers="Connection: Upgrade\r\nUpgrade: websocket\r\n")
        details = "upstream=app attempt=1/2 clock=upgradeHandshake"
        assert_reply(reply, 504, "http_upgrade_failed", clock="upgradeHandshake", details=details)
        await record(engine, 504, Reason.HTTP_UPGRADE_FAILED, Clock.UPGRADE_HANDSHAKE)


@live
async def test_the_first_clock_to_fire_wins_and_only_that_one_is_named():
    async with playing(silent, **clocks(request=5, backend_request=4, response_header=SHORT, stream_idle=3)) as (_, _, client):
        assert_reply(await client.request(), 504, "http_response_timeout", clock="responseHeader")


@live
async def test_a_clock_of_zero_is_off():
    off = Timeouts(request=0, backend_request=0, response_header=0, stream_idle=0, queue=0)
    async with playing(then_silent(response(body=b"late"), pause=0.2), route={"timeouts": off}) as (_, _, client):
        assert (await client.request()).body == b"late"


# After response headers: the client's connection is reset


AFTER_THE_HEAD = 0.5
"""The head must have gone before, on a busy machine too."""


async def cut_after_the_head(clock: Clock, reason: Reason, **timeouts: float) -> None:
    async with playing(then_silent(HEAD_OF_TEN + b"abc"), **clocks(**timeouts)) as (engine, _, client):
        await client.send(GET)
        assert (await client.read_head()).start == b"HTTP/1.1 200 OK"
        assert await client.read_exactly(3) == b"abc"
        await assert_reset(client)
        await record(engine, 200, reason, clock)
        assert engine.seen.attempts[-1].outcome == reason.value


@live
async def test_request_after_the_head_resets_the_client():
    await cut_after_the_head(Clock.REQUEST, Reason.REQUEST_TIMEOUT, request=AFTER_THE_HEAD)


@live
async def test_backend_request_after_the_head_resets_the_client():
    await cut_after_the_head(Clock.BACKEND_REQUEST, Reason.HTTP_RESPONSE_TIMEOUT, backend_request=AFTER_THE_HEAD)


@live
async def test_stream_idle_after_the_head_resets_the_client():
    await cut_after_the_head(Clock.STREAM_IDLE, Reason.STREAM_IDLE_TIMEOUT, stream_idle=AFTER_THE_HEAD)


@live
async def test_response_header_is_over_once_the_head_has_come():
    async with playing(then_silent(HEAD_OF_TEN, b"0123456789", pause=0.4), **clocks(response_header=0.7)) as (_, _, client):
        await client.send(GET)
        assert (await client.read_response()).body == b"0123456789"


@live
async def test_stream_idle_resets_a_client_that_takes_nothing():
    body = bytes(50_000_000)  # takes its time, in which the loop must not be held up

    async def pours(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
        await connection.send(body)

    async with playing(pours, **clocks(stream_idle=1.0)) as (engine, _, client):
        client._reader._transport.pause_reading()
        await client.send(GET)
        await record(engine, 200, Reason.STREAM_IDLE_TIMEOUT, Clock.STREAM_IDLE)
        client._reader._transport.resume_reading()
        await assert_reset(client)


# Tunnels


UPGRADE = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


@live
async def test_after_an_upgrade_tunnel_idle_takes_the_place_of_stream_idle():
    async with playing(then_silent(SWITCHING), **clocks(tunnel_idle=AFTER_THE_HEAD)) as (engine, _, client):
        await client.send(UPGRADE)
        assert (await client.read_head()).start.startswith(b"HTTP/1.1 101")
        await assert_reset(client)
        await record(engine, 101, Reason.STREAM_IDLE_TIMEOUT, Clock.TUNNEL_IDLE)


@live
async def test_after_an_upgrade_request_and_backend_request_and_stream_idle_no_longer_apply():
    async def echo(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(SWITCHING)
        while data := await connection.read_some():
            await connection.send(data)

    names = ("request", "backend_request", "stream_idle", "response_header", "upgrade_handshake")
    timeouts = dict.fromkeys(names, 0.5)
    async with playing(echo, **clocks(**timeouts)) as (engine, _, client):
        await client.send(UPGRADE)
        await client.read_head()
        await asyncio.sleep(0.7)
        await client.send(b"still here")
        assert await client.read_exactly(10) == b"still here"
        client.half_close()
        assert await client.read_until_close() == b""
        exchange = await engine.seen.last()
        assert (exchange.reason, exchange.clock, exchange.tunnel, exchange.bytes_in, exchange.bytes_out) == (None, None, "upgrade", 10, 10)


@live
async def test_bytes_keep_tunnel_idle_from_firing():
    async with playing(then_silent(SWITCHING, *[b"x"] * 8, pause=0.12), **clocks(tunnel_idle=0.8)) as (_, _, client):
        await client.send(UPGRADE)
        await client.read_head()
        assert await client.read_exactly(8) == b"x" * 8


# The queue


@live
async def test_waiting_longer_than_queue_is_503_connection_limit_reached_with_retry_after():
    up = {"pool": PoolLimits(max_connections=1)}
    async with playing(silent, up=up, **clocks(queue=SHORT)) as (engine, fake, holder):
        await holder.send(GET)
        await fake.connection(0)
        reply = await ask(engine)
        assert_reply(reply, 503, "connection_limit_reached", clock="queue", details="upstream=app attempt=2/2 clock=queue")
        assert reply.get("retry-after") == "1"
        await record(engine, 503, Reason.CONNECTION_LIMIT_REACHED, Clock.QUEUE)


@live
async def test_a_full_pending_queue_is_503_overloaded_at_once_with_retry_after():
    up = {"pool": PoolLimits(max_connections=1, max_pending_requests=1)}
    async with playing(silent, up=up, **clocks(queue=30)) as (engine, fake, holder):
        async with await RawClient.open(engine.port()) as queued:
            await holder.send(GET)
            await fake.connection(0)
            await queued.send(GET)
            while not engine.registry.get("app").transport.pool.pending:
                await asyncio.sleep(0.005)
            reply = await ask(engine)
            assert_reply(reply, 503, "overloaded", details="upstream=app attempt=1/2")
            assert reply.get("retry-after") == "1"


@live
async def test_a_queued_request_goes_on_when_a_connection_becomes_free():
    up = {"pool": PoolLimits(max_connections=1)}
    async with playing(answer(response(body=b"ok")), up=up) as (engine, fake, _):
        replies = await asyncio.gather(*(ask(engine) for _ in range(8)))
        assert [reply.body for reply in replies] == [b"ok"] * 8
        assert len(fake.connections) == 1


# The client's own slowness


@live
async def test_a_client_that_is_slow_with_its_head_gets_408_request_header_timeout():
    async with playing(silent, listener={"header_timeout": SHORT}) as (engine, _, client):
        await client.send(b"GET / HTTP/1.1\r\nHo")
        reply = await client.read_response()
        assert_reply(reply, 408, "request_header_timeout", clock="headerTimeout", details="clock=headerTimeout rule=header_timeout")
        assert reply.get("connection") == "close"
        assert await client.read_until_close() == b""
        await record(engine, 408, Reason.REQUEST_HEADER_TIMEOUT, Clock.HEADER)


@live
async def test_one_byte_at_a_time_does_not_outlive_the_header_timeout():
    async with playing(silent, listener={"header_timeout": 0.2}) as (_, _, client):
        sending = asyncio.create_task(client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1000, piece=1, pause=0.02))
        assert (await client.read_response()).status == 408
        sending.cancel()
        await asyncio.wait({sending})


@live
async def test_a_client_that_is_slow_with_its_body_gets_408_request_body_timeout():
    async with playing(silent, listener={"body_idle_timeout": SHORT}) as (engine, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        reply = await client.read_response()
        assert_reply(reply, 408, "request_body_timeout", clock="bodyIdleTimeout", details="upstream=app attempt=1/2 clock=bodyIdleTimeout")
        assert reply.get("connection") == "close"
        await record(engine, 408, Reason.REQUEST_BODY_TIMEOUT, Clock.BODY_IDLE)


@live
async def test_a_large_body_that_stops_gets_408_request_body_timeout():
    async with playing(silent, listener={"body_idle_timeout": 0.5}) as (_, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n")
        await client.send(bytes(1_000_000))
        await client.send(bytes(100_000))
        assert_reply(await client.read_response(), 408, "request_body_timeout", clock="bodyIdleTimeout")


@live
async def test_body_idle_timeout_is_between_reads_and_never_a_limit_of_the_whole_body():
    async with playing(answer(response(body=b"ok")), listener={"body_idle_timeout": 0.7}) as (_, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
        await client.send(b"1234567890", piece=1, pause=0.1)
        assert (await client.read_response()).body == b"ok"


@live
async def test_body_idle_timeout_after_the_response_began_resets_the_client():
    async def early(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await connection.read_until_close()

    async with playing(early, listener={"body_idle_timeout": 0.5}) as (engine, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
        assert (await client.read_head()).start == b"HTTP/1.1 200 OK"
        assert await client.read_exactly(8) == b"3\r\nabc\r\n"
        await assert_reset(client)
        await record(engine, 200, Reason.REQUEST_BODY_TIMEOUT, Clock.BODY_IDLE)


@live
async def test_a_connection_without_a_request_is_closed_after_idle_timeout_without_a_word():
    async with playing(answer(response(body=b"ok")), listener={"idle_timeout": AFTER_THE_HEAD}) as (_, _, client):
        assert (await client.request()).body == b"ok"
        assert await client.read_until_close() == b""


# The caller's deadline


def passed_on(fake: ScriptedUpstream) -> list[int]:
    return [int(request.get("x-request-timeout-ms") or -1) for request in fake.requests]


@live
async def test_a_deadline_header_shortens_the_request_clock():
    async with playing(silent, **clocks(request=30)) as (engine, fake, client):
        reply = await client.request(headers="x-request-timeout-ms: 500\r\n")
        assert_reply(reply, 504, "request_timeout", clock="request")
        assert 0 < passed_on(fake)[0] <= 500
        await record(engine, 504, Reason.REQUEST_TIMEOUT, Clock.REQUEST)


@live
async def test_a_deadline_header_cannot_lengthen_our_clock():
    async with playing(silent, **clocks(request=AFTER_THE_REQUEST)) as (_, fake, client):
        assert_reply(await client.request(headers="x-request-timeout-ms: 60000\r\n"), 504, "request_timeout", clock="request")
        assert 0 < passed_on(fake)[0] <= 500


@live
async def test_a_deadline_header_starts_the_request_clock_where_it_is_off():
    async with playing(silent) as (_, _, client):
        assert_reply(await client.request(headers="X-Request-Timeout-Ms: 100\r\n"), 504, "request_timeout", clock="request")


@live
async def test_what_is_left_is_passed_on_and_decreases_from_try_to_try():
    retry = RetryPolicy(attempts=2, codes=frozenset({503}), backoff=0.06, max_backoff=0.06)
    route = {"timeouts": Timeouts(request=20), "retry": retry}
    async with playing(answer(response("503 No")), route=route) as (_, fake, client):
        await client.request()
        first, second, third = passed_on(fake)
        assert 20_000 >= first >= second + 60 >= third + 120


@live
async def test_no_deadline_is_passed_on_while_the_request_clock_is_off():
    async with playing(answer(response())) as (_, fake, client):
        await client.request()
        assert fake.requests[0].get("x-request-timeout-ms") is None


@live
async def test_a_deadline_header_of_an_untrusted_peer_is_not_believed_and_not_passed_on():
    listener = {"trusted_proxies": ()}
    async with playing(then_silent(response(body=b"ok"), pause=0.15), listener=listener) as (_, fake, client):
        assert (await client.request(headers="x-request-timeout-ms: 50\r\n")).body == b"ok"
        assert fake.requests[0].get("x-request-timeout-ms") is None


@live
async def test_a_deadline_header_that_is_no_number_is_ignored():
    async with playing(answer(response(body=b"ok"))) as (_, fake, client):
        assert (await client.request(headers="x-request-timeout-ms: soon\r\n")).body == b"ok"
        assert fake.requests[0].get("x-request-timeout-ms") is None


@live
async def test_there_is_no_total_limit_by_default():
    assert (Timeouts().request, Timeouts().backend_request) == (0, 0)
    start = time.monotonic()
    async with playing(then_silent(HEAD_OF_TEN, *[b"0"] * 10, pause=0.04)) as (_, _, client):
        await client.send(GET)
        assert (await client.read_response()).body == b"0" * 10
    assert time.monotonic() - start >= 0.4


@live
async def test_a_clock_that_has_fired_does_not_fire_again_into_its_own_reply_or_the_next_exchange():
    async with playing(silent, **clocks(request=SHORT)) as (engine, _, client):
        for _ in range(3):
            assert_reply(await client.request(), 504, "request_timeout", clock="request")
        assert [exchange.clock for exchange in engine.seen.finished] == [Clock.REQUEST] * len(engine.seen.finished)


@live
async def test_many_exchanges_on_one_connection_each_have_clocks_of_their_own():
    async def slower_and_slower(connection: Connection) -> None:
        for number in range(6):
            await connection.read_request()
            await asyncio.sleep(0.2)
            await connection.send(response(body=b"%d" % number))
        await connection.read_until_close()

    async with playing(slower_and_slower, **clocks(request=0.9, backend_request=0.8, response_header=0.8, stream_idle=0.8)) as (
        _,
        fake,
        client,
    ):
        assert [(await client.request()).body for _ in range(6)] == [b"%d" % number for number in range(6)]
        assert len(fake.connections) == 1
