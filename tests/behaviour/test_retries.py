"""product.md 3.3 and 3.9 Retries, through real sockets: what the upstreams get, what the client sees, what is recorded."""

from __future__ import annotations

import asyncio
import contextlib
import time
from email.utils import formatdate

import pytest
from behaviour_kit import ask, assert_reply, assert_reset, hangs_up, live, playing, resets, silent, then_close
from support import Connection, ScriptedUpstream, answer, in_turn, response
from support.engine import Engine, upstream
from support.ports import closed_port

from sidecar.model.snapshot import Balancing, Condition, LoadBalancer, PoolLimits, RetryBudget, RetryMethods, RetryPolicy, Timeouts

OK = answer(response(body=b"ok"))
NO = response("503 No", b"no")
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


def stanza(**more: object) -> dict[str, object]:
    fields = {"backoff": 0.001, "max_backoff": 0.001, **more}
    return {"route": {"retry": RetryPolicy(**fields)}}


async def outcomes(engine: Engine) -> list[str]:
    await engine.seen.last()
    return [attempt.outcome for attempt in engine.seen.attempts]


# (a) before a byte has left


@live
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
async def test_a_connect_error_is_replayed_once_for_every_method_even_without_a_stanza(method: str):
    with closed_port() as dead:
        async with (
            ScriptedUpstream(OK) as fake,
            Engine(upstream([dead, fake.port], load_balancer=LoadBalancer(policy=Balancing.ROUND_ROBIN))) as engine,
        ):
            for _ in range(2):
                assert (await ask(engine, method=method, body=b"x")).body == b"ok"
            seen = await outcomes(engine)
            assert "connection_refused" in seen
            assert (seen.count("success"), set(seen)) == (2, {"connection_refused", "success"})


@live
async def test_without_a_stanza_a_connect_error_is_replayed_only_once():
    with closed_port() as dead:
        async with Engine(upstream(dead)) as engine:
            assert_reply(await ask(engine), 502, "connection_refused", details="upstream=app attempt=2/2")
            assert await outcomes(engine) == ["connection_refused", "connection_refused"]


@live
async def test_with_a_stanza_the_replay_of_a_failed_connect_is_part_of_attempts():
    with closed_port() as dead:
        async with Engine(upstream(dead), **stanza(attempts=3)) as engine:
            assert_reply(await ask(engine, method="POST"), 502, "connection_refused", details="upstream=app attempt=4/4")
            assert len(await outcomes(engine)) == 4


@live
async def test_a_pool_timeout_is_replayed_for_every_method():
    up = {"pool": PoolLimits(max_connections=1)}
    async with playing(silent, up=up, route={"timeouts": Timeouts(queue=0.05)}) as (engine, fake, holder):
        await holder.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await fake.connection(0)
        assert_reply(await ask(engine, method="POST"), 503, "connection_limit_reached", clock="queue")
        assert await outcomes(engine) == ["connection_limit_reached"] * 2


# (b) after bytes have left


@live
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_after_bytes_have_left_idempotent_methods_are_repeated(method: str):
    async with playing(in_turn(resets, OK), **stanza()) as (engine, _, client):
        assert (await client.request(method=method)).status == 200
        assert await outcomes(engine) == ["connection_terminated", "success"]


@live
@pytest.mark.parametrize("method", ["POST", "PATCH", "LINK"])
async def test_after_bytes_have_left_other_methods_are_not_repeated_and_the_skip_is_recorded(method: str):
    async with playing(in_turn(resets, OK), **stanza()) as (engine, fake, client):
        assert_reply(await client.request(method=method), 502, "connection_terminated", details="upstream=app attempt=1/3")
        assert len(fake.requests) == 1
        assert (await engine.seen.last()).retries_skipped == "method"


@live
async def test_an_idempotency_key_makes_any_method_repeatable():
    async with playing(in_turn(resets, OK), **stanza()) as (_, fake, client):
        assert (await client.request(method="POST", headers="Idempotency-Key: k1\r\n", body=b"x")).body == b"ok"
        assert [request.get("idempotency-key") for request in fake.requests] == ["k1", "k1"]


@live
async def test_methods_all_is_the_explicit_opt_in():
    async with playing(in_turn(resets, OK), **stanza(methods=RetryMethods.ALL)) as (_, fake, client):
        assert (await client.request(method="POST", body=b"x")).body == b"ok"
        assert [request.body for request in fake.requests] == [b"x", b"x"]


@live
async def test_without_a_stanza_nothing_is_repeated_after_bytes_have_left():
    async with playing(in_turn(resets, OK)) as (_, fake, client):
        assert_reply(await client.request(), 502, "connection_terminated", details="upstream=app attempt=1/2")
        assert len(fake.requests) == 1


@live
async def test_a_condition_that_is_not_listed_is_not_retried():
    async with playing(in_turn(resets, OK), **stanza(conditions=frozenset({Condition.CONNECT_FAILURE}))) as (_, fake, client):
        assert (await client.request()).status == 502
        assert len(fake.requests) == 1


@live
async def test_the_condition_timeout_retries_response_header():
    route = {"timeouts": Timeouts(response_header=0.5), "retry": RetryPolicy(backoff=0.001, conditions=frozenset({Condition.TIMEOUT}))}
    async with playing(in_turn(silent, OK), route=route) as (engine, _, client):
        assert (await client.request()).body == b"ok"
        assert await outcomes(engine) == ["http_response_timeout", "success"]


@live
async def test_the_condition_timeout_retries_backend_request_but_only_idempotent_methods():
    retry = RetryPolicy(attempts=1, backoff=0.001, conditions=frozenset({Condition.TIMEOUT}))
    route = {"timeouts": Timeouts(backend_request=0.5), "retry": retry}
    async with playing(in_turn(silent, OK), route=route) as (_, _, client):
        assert (await client.request()).body == b"ok"
    async with playing(in_turn(silent, OK), route=route) as (_, _, client):
        assert_reply(await client.request(method="POST"), 504, "http_response_timeout", clock="backendRequest")


@live
async def test_without_the_condition_timeout_no_timeout_is_retried():
    route = {"timeouts": Timeouts(response_header=0.08), "retry": RetryPolicy(backoff=0.001)}
    async with playing(in_turn(silent, OK), route=route) as (_, fake, client):
        assert (await client.request()).status == 504
        assert len(fake.requests) == 1


# (c) by status


@live
async def test_a_listed_code_is_retried_and_the_attempts_are_recorded():
    async with playing(answer(NO, NO, response(body=b"ok")), **stanza()) as (engine, _, client):
        assert (await client.request()).body == b"ok"
        assert await outcomes(engine) == ["status_503", "status_503", "success"]
        assert [attempt.status for attempt in engine.seen.attempts] == [503, 503, 200]


@live
async def test_a_code_that_is_not_listed_is_passed_on():
    async with playing(answer(response("500 Oops", b"oops"), response()), **stanza()) as (_, fake, client):
        assert (await client.request()).body == b"oops"
        assert len(fake.requests) == 1


@live
async def test_a_listed_code_is_not_retried_for_other_methods():
    async with playing(answer(NO, response()), **stanza()) as (engine, _, client):
        assert (await client.request(method="POST")).body == b"no"
        assert (await engine.seen.last()).retries_skipped == "method"


@live
async def test_attempts_is_the_number_of_retries_and_the_last_response_is_passed_on():
    async with playing(answer(NO, NO, response("503 Last", b"last")), **stanza(attempts=2)) as (engine, fake, client):
        reply = await client.request()
        assert (reply.start, reply.body) == (b"HTTP/1.1 503 Last", b"last")
        assert len(fake.requests) == 3
        exchange = await engine.seen.last()
        assert (exchange.reason, exchange.retries_skipped) == (None, "")


@live
async def test_when_tries_run_out_the_error_of_the_last_one_is_shown():
    async with playing(in_turn(answer(NO), then_close(b"garbage\r\n\r\n")), **stanza(attempts=1)) as (_, _, client):
        assert_reply(await client.request(), 502, "http_protocol_error")
    async with playing(in_turn(hangs_up, answer(response("504 Slow", b"slow"))), **stanza(attempts=1)) as (_, _, client):
        assert (await client.request()).body == b"slow"


@live
async def test_a_malformed_response_is_not_retried():
    async with playing(in_turn(then_close(b"garbage\r\n\r\n"), OK), **stanza()) as (_, fake, client):
        assert_reply(await client.request(), 502, "http_protocol_error")
        assert len(fake.requests) == 1


# (d) never after a response byte


@live
async def test_never_after_a_response_byte_reached_the_client():
    cut = then_close(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    async with playing(in_turn(cut, OK), **stanza()) as (engine, fake, client):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.read_head()
        assert await client.read_exactly(3) == b"abc"
        await assert_reset(client)
        assert len(fake.requests) == 1
        assert await outcomes(engine) == ["http_response_incomplete"]


@live
async def test_an_interim_response_is_a_response_byte():
    hints = then_close(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    async with playing(in_turn(hints, OK), **stanza()) as (engine, fake, client):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.read_response()).status == 103
        assert_reply(await client.read_response(), 502, "http_response_incomplete")
        assert len(fake.requests) == 1
        assert (await engine.seen.last()).retries_skipped == "started"


# (e) stale connections


async def serves_one_then_dies(connection: Connection) -> None:
    """Keep-alive, until the second request is in: then closes without a word."""
    await connection.read_request()
    await connection.send(response(body=b"first"))
    await connection.read_request()


@live
async def test_a_stale_keep_alive_connection_is_one_replay_outside_attempts_even_without_a_stanza():
    async with playing(in_turn(serves_one_then_dies, OK)) as (engine, fake, client):
        assert (await client.request()).body == b"first"
        assert (await client.request()).body == b"ok"
        exchange = await engine.seen.last(2)
        assert exchange.replays == 1
        assert [attempt.outcome for attempt in exchange.attempts] == ["stale_connection", "success"]
        assert [attempt.reused for attempt in exchange.attempts] == [True, False]
        assert len(fake.requests) == 3


@live
async def test_a_stale_connection_is_not_replayed_for_other_methods():
    async with playing(in_turn(serves_one_then_dies, OK)) as (engine, fake, client):
        await client.request()
        assert_reply(await client.request(method="POST", body=b"x"), 502, "connection_terminated", details="upstream=app attempt=1/2")
        assert len(fake.requests) == 2
        assert (await engine.seen.last(2)).replays == 0


@live
async def test_a_stale_connection_is_replayed_with_an_idempotency_key():
    async with playing(in_turn(serves_one_then_dies, OK)) as (_, fake, client):
        await client.request()
        assert (await client.request(method="POST", body=b"x", headers="Idempotency-Key: 1\r\n")).body == b"ok"
        assert [request.body for request in fake.requests] == [b"", b"x", b"x"]


@live
async def test_there_is_only_one_stale_replay_and_it_shows_as_replays():
    async with playing(in_turn(serves_one_then_dies, resets)) as (_, fake, client):
        await client.request()
        assert_reply(await client.request(), 502, "connection_terminated", details="upstream=app attempt=1/2 replays=1")
        assert len(fake.requests) == 3


@live
async def test_a_stale_replay_leaves_the_attempts_of_the_stanza_untouched():
    async with playing(in_turn(serves_one_then_dies, resets, resets, OK), **stanza(attempts=2)) as (engine, _, client):
        await client.request()
        assert (await client.request()).body == b"ok"
        exchange = await engine.seen.last(2)
        assert [attempt.outcome for attempt in exchange.attempts] == [
            "stale_connection", "connection_terminated", "connection_terminated", "success",
        ]  # fmt: skip


@live
async def test_a_stale_replay_that_would_need_too_long_a_body_is_skipped_and_recorded():
    async def dies_at_the_head(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(response(body=b"first"))
        await connection.read_head()

    async with playing(in_turn(dies_at_the_head, OK)) as (engine, _, client):
        await client.request()
        await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n" + bytes(70000))
        assert_reply(await client.read_response(), 502, "connection_terminated")
        assert (await engine.seen.last(2)).retries_skipped == "body"


# Delay


@live
async def test_backoff_is_a_minimum():
    async with playing(answer(NO, response(body=b"ok")), **stanza(backoff=0.15, max_backoff=0.3)) as (engine, _, client):
        start = time.monotonic()
        assert (await client.request()).body == b"ok"
        assert time.monotonic() - start >= 0.15
        first, second = (await engine.seen.last()).attempts
        assert first.delay == 0.0
        assert 0.15 <= second.delay <= 0.3
        assert second.started_at - first.ended_at >= 0.15


@live
async def test_retry_after_is_honoured_when_it_fits():
    slow_down = response("503 No", b"no", "Retry-After: 1\r\n")
    route = {"timeouts": Timeouts(request=20), "retry": RetryPolicy(backoff=0.001)}
    async with playing(answer(slow_down, response(body=b"ok")), route=route) as (engine, _, client):
        assert (await client.request()).body == b"ok"
        assert (await engine.seen.last()).attempts[1].delay == 1.0


@live
@pytest.mark.parametrize("asked", ["2", formatdate(time.time() + 3600, usegmt=True)])
async def test_retry_after_that_does_not_fit_skips_the_retry_for_time_and_passes_the_response_on(asked: str):
    slow_down = response("503 No", b"no", f"Retry-After: {asked}\r\n")
    route = {"timeouts": Timeouts(request=1), "retry": RetryPolicy(backoff=0.001)}
    async with playing(answer(slow_down, response(body=b"ok")), route=route) as (engine, fake, client):
        reply = await client.request()
        assert (reply.body, reply.get("retry-after")) == (b"no", asked)
        assert (await engine.seen.last()).retries_skipped == "time"
        assert len(fake.requests) == 1


@live
async def test_a_long_retry_after_is_not_waited_for_where_no_clock_runs():
    async with playing(answer(response("503 No", b"no", "Retry-After: 3600\r\n")), **stanza()) as (engine, _, client):
        assert (await client.request()).body == b"no"
        assert (await engine.seen.last()).retries_skipped == "time"


# Where to


@live
async def test_an_untried_endpoint_is_preferred():
    async with contextlib.AsyncExitStack() as stack:
        fakes = [await stack.enter_async_context(ScriptedUpstream(answer(NO))) for _ in range(3)]
        for policy in (Balancing.RANDOM, Balancing.LEAST_REQUEST, Balancing.ROUND_ROBIN, Balancing.PEAK_EWMA):
            balancer = LoadBalancer(policy=policy)
            async with Engine(upstream([fake.port for fake in fakes], load_balancer=balancer), **stanza(attempts=2)) as engine:
                assert (await ask(engine)).status == 503
                exchange = await engine.seen.last()
                assert len({attempt.endpoint for attempt in exchange.attempts}) == 3, policy


@live
async def test_when_all_were_tried_a_tried_one_is_used_again():
    async with playing(in_turn(hangs_up, hangs_up, OK), **stanza(attempts=2)) as (_, _, client):
        assert (await client.request()).body == b"ok"


# Budget


@live
async def test_when_the_budget_is_spent_the_last_upstream_response_is_passed_on():
    up = {"retry_budget": RetryBudget(percent=0, min_retries=2, min_interval=60)}
    async with playing(answer(NO), up=up, **stanza(attempts=5)) as (engine, fake, client):
        assert (await client.request()).body == b"no"
        assert len(fake.requests) == 3
        assert (await engine.seen.last()).retries_skipped == "budget"
        assert (await client.request()).body == b"no"
        assert len(fake.requests) == 4


@live
async def test_when_the_budget_is_spent_the_error_of_the_try_is_shown():
    up = {"retry_budget": RetryBudget(percent=0, min_retries=0)}
    with closed_port() as dead:
        async with Engine(upstream(dead, **up)) as engine:
            assert_reply(await ask(engine), 502, "connection_refused", details="upstream=app attempt=1/2")
            assert (await engine.seen.last()).retries_skipped == "budget"


@live
async def test_the_budget_is_a_share_of_the_requests():
    up = {"retry_budget": RetryBudget(percent=20, interval=60, min_retries=0)}
    async with playing(answer(NO), up=up, **stanza(attempts=1)) as (_, fake, client):
        for _ in range(20):
            await client.request()
        assert len(fake.requests) == 24


# Bodies


@live
@pytest.mark.parametrize("size", [1, 1000, 65536])
async def test_a_body_of_up_to_64_kib_is_replayed_byte_for_byte(size: int):
    body = bytes(index % 251 for index in range(size))
    async with playing(in_turn(resets, resets, OK), **stanza()) as (_, fake, client):
        assert (await client.request(method="PUT", body=body)).body == b"ok"
        assert [request.body for request in fake.requests] == [body] * 3


@live
async def test_a_body_that_comes_slowly_is_replayed_whole():
    async def resets_early(connection: Connection) -> None:
        await connection.read_head()
        await connection.read_exactly(2)
        connection.reset()

    async with playing(in_turn(resets_early, OK), **stanza()) as (_, fake, client):
        await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
        await client.send(b"0123456789", piece=1, pause=0.01)
        assert (await client.read_response()).body == b"ok"
        assert fake.requests[-1].body == b"0123456789"


@live
async def test_a_chunked_body_is_replayed_with_its_trailers():
    async with playing(in_turn(resets, OK), **stanza()) as (_, fake, client):
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (b"abc", b"defgh"))
        await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nX-Sum: 8\r\n\r\n")
        assert (await client.read_response()).body == b"ok"
        assert [(request.body, request.trailers) for request in fake.requests] == [(b"abcdefgh", [(b"X-Sum", b"8")])] * 2


@live
async def test_a_larger_body_streams_and_the_retry_is_skipped_for_body():
    async with playing(in_turn(resets, OK), **stanza()) as (engine, fake, client):
        assert_reply(await client.request(method="PUT", body=bytes(65537)), 502, "connection_terminated")
        assert fake.requests[0].body == bytes(65537)
        assert (await engine.seen.last()).retries_skipped == "body"


@live
async def test_a_larger_chunked_body_streams_and_the_retry_is_skipped_for_body():
    async with playing(in_turn(resets, OK), **stanza()) as (engine, fake, client):
        await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(10):
            await client.send(b"4000\r\n" + bytes(0x4000) + b"\r\n")
        await client.send(b"0\r\n\r\n")
        assert_reply(await client.read_response(), 502, "connection_terminated")
        assert len(fake.requests[0].body) == 10 * 0x4000
        assert (await engine.seen.last()).retries_skipped == "body"


@live
async def test_a_body_too_large_to_keep_is_replayed_after_a_connect_error_because_none_of_it_has_been_read():
    with closed_port() as dead:
        balancer = LoadBalancer(policy=Balancing.ROUND_ROBIN)
        async with ScriptedUpstream(OK) as fake, Engine(upstream([dead, fake.port], load_balancer=balancer)) as engine:
            for _ in range(2):
                assert (await ask(engine, method="POST", body=bytes(200_000))).body == b"ok"
            assert [len(request.body) for request in fake.requests] == [200_000] * 2


@live
async def test_max_buffered_body_is_what_is_kept():
    async with playing(in_turn(resets, OK), **stanza(max_buffered_body=4)) as (engine, _, client):
        assert (await client.request(method="PUT", body=b"12345")).status == 502
        assert (await engine.seen.last()).retries_skipped == "body"
    async with playing(in_turn(resets, OK), **stanza(max_buffered_body=5)) as (_, _, client):
        assert (await client.request(method="PUT", body=b"12345")).body == b"ok"


@live
async def test_replay_buffers_are_given_back():
    async with playing(in_turn(resets, OK), **stanza()) as (engine, _, client):
        assert (await client.request(method="PUT", body=bytes(50_000))).body == b"ok"
        await engine.seen.last()
        assert engine.proxy.kept.size == 0


@live
async def test_beyond_16_mib_of_replay_buffers_bodies_stream_unkept():
    async with playing(in_turn(resets, OK), **stanza()) as (engine, _, client):
        engine.proxy.kept.size = 16 * 1024 * 1024
        assert (await client.request(method="PUT", body=b"12345")).status == 502
        assert (await engine.seen.last()).retries_skipped == "body"
        assert engine.proxy.kept.size == 16 * 1024 * 1024


@live
async def test_a_client_that_leaves_during_the_back_off_ends_the_exchange():
    async with playing(answer(NO), **stanza(backoff=5, max_backoff=5)) as (engine, fake, client):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await fake.connection(0)
        while not engine.seen.attempts:
            await asyncio.sleep(0.01)
        await client.close()
        exchange = await engine.seen.last()
        assert (exchange.status, exchange.reason) == (499, "client_closed")
        assert len(fake.requests) == 1


@live
async def test_the_response_that_a_retry_replaces_never_reaches_the_client():
    async with playing(answer(response("503 No", b"secret", "X-Old: 1\r\n"), response(body=b"ok")), **stanza()) as (_, _, client):
        reply = await client.request()
        assert reply.get("x-old") is None
        assert b"secret" not in bytes(client.received)
