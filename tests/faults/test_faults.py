"""Every fault in every phase has one defined outcome: {refused, reset, slow, truncated, garbage, half-close} x where."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
import uvloop
from faults.cells import AFTER_THE_HEAD
from faults.rig import BOUND, assert_clean, deaf_port, read_on, until
from support import RawClient, ScriptedUpstream, answer, response
from support.engine import Engine, upstream
from support.ports import free_port
from support.upstream import Connection, Script

from sidecar.http1 import server_connection
from sidecar.model.exchange import Exchange, State
from sidecar.model.reason import Clock, Reason
from sidecar.model.snapshot import Timeouts
from sidecar.upstream.native import NativeTransport

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
CUT = "cut"
"""The client's connection is reset after what the upstream had sent."""


async def resets(connection: Connection) -> None:
    connection.reset()


async def half_closes(connection: Connection) -> None:
    connection.half_close()
    await read_on(connection)


def after_head(*steps: bytes | Script) -> Script:
    """A script: read a request's head, then send bytes and play scripts in turn."""

    async def play(connection: Connection) -> None:
        await connection.read_head()
        for step in steps:
            if isinstance(step, bytes):
                await connection.send(step)
                await asyncio.sleep(0.01)  # a segment of its own
            else:
                await step(connection)
        await read_on(connection)

    return play


@dataclass
class Case:
    name: str
    script: Script
    outcome: int | str
    reason: Reason | None
    request: bytes = GET
    clock: Clock | None = None
    timeouts: dict[str, float] = field(default_factory=dict)


OK_10 = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
CASES = [
    Case("send-reset", after_head(resets), 502, Reason.CONNECTION_TERMINATED, POST),
    Case("send-half-close", after_head(half_closes), 502, Reason.CONNECTION_TERMINATED, POST),
    Case("send-garbage", after_head(b"SSH-2.0-x\r\n\r\n"), 502, Reason.HTTP_PROTOCOL_ERROR, POST),
    Case("send-truncated", after_head(b"HTTP/1.1 20", half_closes), 502, Reason.HTTP_RESPONSE_INCOMPLETE, POST),
    Case("send-slow", after_head(), 504, Reason.STREAM_IDLE_TIMEOUT, POST, Clock.STREAM_IDLE, {"stream_idle": 0.2}),
    Case("headers-reset", after_head(resets), 502, Reason.CONNECTION_TERMINATED),
    Case("headers-half-close", after_head(half_closes), 502, Reason.CONNECTION_TERMINATED),
    Case("headers-truncated", after_head(b"HTTP/1.1 200 OK\r\nContent-Le", half_closes), 502, Reason.HTTP_RESPONSE_INCOMPLETE),
    Case("headers-truncated-by-reset", after_head(b"HTTP/1.1 200 OK\r\nContent-Le", resets), 502, Reason.HTTP_RESPONSE_INCOMPLETE),
    Case("headers-garbage", after_head(b"\x16\x03\x01\x00\x00"), 502, Reason.HTTP_PROTOCOL_ERROR),
    Case(
        "headers-conflicting",
        after_head(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"),
        502,
        Reason.HTTP_PROTOCOL_ERROR,
    ),
    Case("headers-slow", after_head(), 504, Reason.HTTP_RESPONSE_TIMEOUT, clock=Clock.RESPONSE_HEADER, timeouts={"response_header": 0.1}),
    Case(
        "headers-slow-attempt",
        after_head(),
        504,
        Reason.HTTP_RESPONSE_TIMEOUT,
        clock=Clock.BACKEND_REQUEST,
        timeouts={"backend_request": 0.1},
    ),
    Case("headers-slow-request", after_head(), 504, Reason.REQUEST_TIMEOUT, clock=Clock.REQUEST, timeouts={"request": 0.1}),
    Case("interim-reset", after_head(b"HTTP/1.1 103 Early Hints\r\n\r\n", resets), 502, Reason.HTTP_RESPONSE_INCOMPLETE),
    Case("body-reset", after_head(OK_10 + b"hello", resets), CUT, Reason.HTTP_RESPONSE_INCOMPLETE),
    Case("body-truncated", after_head(OK_10 + b"hello", half_closes), CUT, Reason.HTTP_RESPONSE_INCOMPLETE),
    Case("body-truncated-before-its-first-byte", after_head(OK_10, half_closes), CUT, Reason.HTTP_RESPONSE_INCOMPLETE),
    Case("body-chunked-truncated", after_head(CHUNKED + b"5\r\nhello\r\n", half_closes), CUT, Reason.HTTP_RESPONSE_INCOMPLETE),
    Case(
        "body-chunked-truncated-in-its-end", after_head(CHUNKED + b"5\r\nhello\r\n0\r\n", half_closes), CUT, Reason.HTTP_RESPONSE_INCOMPLETE
    ),
    Case("body-chunked-garbage", after_head(CHUNKED + b"5\r\nhello\r\n", b"zz\r\n"), CUT, Reason.HTTP_PROTOCOL_ERROR),
    Case("body-chunked-garbage-with-its-head", after_head(CHUNKED + b"zz\r\n"), CUT, Reason.HTTP_PROTOCOL_ERROR),
    Case("body-until-close-reset", after_head(b"HTTP/1.1 200 OK\r\n\r\nhello", resets), CUT, Reason.HTTP_RESPONSE_INCOMPLETE),
    Case(
        "body-bulk-reset",
        after_head(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x" * 500_000, resets),
        CUT,
        Reason.HTTP_RESPONSE_INCOMPLETE,
    ),
    Case(
        "body-bulk-truncated",
        after_head(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x" * 500_000, half_closes),
        CUT,
        Reason.HTTP_RESPONSE_INCOMPLETE,
    ),
    Case(
        "body-slow",
        after_head(OK_10 + b"hello"),
        CUT,
        Reason.STREAM_IDLE_TIMEOUT,
        clock=Clock.STREAM_IDLE,
        timeouts={"stream_idle": AFTER_THE_HEAD},
    ),
    Case(
        "body-slow-attempt",
        after_head(OK_10 + b"hello"),
        CUT,
        Reason.HTTP_RESPONSE_TIMEOUT,
        clock=Clock.BACKEND_REQUEST,
        timeouts={"backend_request": AFTER_THE_HEAD},
    ),
    Case("upgrade-slow", after_head(), 504, Reason.HTTP_UPGRADE_FAILED, UPGRADE, Clock.UPGRADE_HANDSHAKE, {"upgrade_handshake": 0.1}),
    Case("upgrade-reset", after_head(resets), 502, Reason.CONNECTION_TERMINATED, UPGRADE),
    Case("upgrade-unasked", after_head(SWITCHING), 502, Reason.HTTP_UPGRADE_FAILED),
    Case("tunnel-reset", after_head(SWITCHING, resets), CUT, None, UPGRADE),
    Case(
        "tunnel-slow", after_head(SWITCHING), CUT, Reason.STREAM_IDLE_TIMEOUT, UPGRADE, Clock.TUNNEL_IDLE, {"tunnel_idle": AFTER_THE_HEAD}
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_of_the_upstream_has_one_outcome(case: Case) -> None:
    async def main() -> None:
        async with (
            ScriptedUpstream(case.script) as server,
            Engine(upstream(server.port), route={"timeouts": Timeouts(**case.timeouts)}) as engine,
        ):
            async with await RawClient.open(engine.port()) as client:
                await client.send(case.request)
                await _check_client(case, client)
                exchange = await engine.seen.last()
                _check_record(case, exchange)
                await asyncio.wait_for((await server.connection(0)).ended.wait(), BOUND)
            await assert_clean(engine)

    uvloop.run(main())


async def _check_client(case: Case, client: RawClient) -> None:
    if case.outcome == CUT:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)) as caught:
            await _read_cut(client)
        if isinstance(caught.value, asyncio.IncompleteReadError):
            assert case.name.startswith("tunnel") or not caught.value.partial.endswith(b"0\r\n\r\n")
        return
    answer = await client.read_response()
    if answer.status == 103:
        answer = await client.read_response()
    assert answer.status == case.outcome
    assert case.reason is not None
    assert case.reason.value.encode() in answer.body
    assert f"error={case.reason.value}" in (answer.get("proxy-status") or "")


async def _read_cut(client: RawClient) -> None:
    """A response that is cut, or a tunnel that is."""
    answer = await client.read_response()
    assert answer.status == 101, f"a whole response: {answer}"
    await client.read_exactly(1)


def _check_record(case: Case, exchange: Exchange) -> None:
    assert (exchange.reason, exchange.clock) == (case.reason, case.clock)
    if case.name == "tunnel-reset":
        assert exchange.state is State.DONE
    else:
        assert exchange.state is (State.ABORTED if case.outcome == CUT else State.REPLIED)


def test_a_refused_connection_is_502_connection_refused_after_one_replay() -> None:
    async def main() -> None:
        async with Engine(upstream(free_port())) as engine:
            async with await RawClient.open(engine.port()) as client:
                answer = await client.request()
                assert answer.status == 502
                exchange = await engine.seen.last()
                assert exchange.reason is Reason.CONNECTION_REFUSED
                assert len(exchange.attempts) == 2
            await assert_clean(engine)

    uvloop.run(main())


def test_a_connect_that_nobody_answers_is_504_connection_timeout() -> None:
    async def main() -> None:
        with deaf_port() as port:
            async with Engine(upstream(port, connect_timeout=0.1)) as engine:
                async with await RawClient.open(engine.port()) as client:
                    answer = await client.request()
                    assert answer.status == 504
                    exchange = await engine.seen.last()
                    assert (exchange.reason, exchange.clock) == (Reason.CONNECTION_TIMEOUT, Clock.CONNECT)
                await assert_clean(engine)

    uvloop.run(main())


@pytest.mark.parametrize("fault", ["reset", "half-close", "garbage"])
def test_an_idle_pooled_connection_that_breaks_is_replaced(fault: str) -> None:
    """Also `garbage`: bytes that nobody asked for must not become the answer to the next request."""

    async def script(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(response(body=b"%d" % connection.number))
        await connection.idle.wait()  # type: ignore[attr-defined]
        if fault == "garbage":
            await connection.send(response(body=b"stale"))
            await read_on(connection)
        else:
            await (resets if fault == "reset" else half_closes)(connection)

    async def main() -> None:
        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(GET)
                first = await server.connection(0)
                first.idle = asyncio.Event()  # type: ignore[attr-defined]
                assert (await client.read_response()).body == b"0"
                first.idle.set()  # type: ignore[attr-defined]
                await until(lambda: engine.registry.statuses()[0].connections_idle == 0)
                await client.send(GET)
                (await server.connection(1)).idle = asyncio.Event()  # type: ignore[attr-defined]
                assert (await client.read_response()).body == b"1"
                assert len((await engine.seen.last(2)).attempts) == 1
            await assert_clean(engine)

    uvloop.run(main())


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_reused_connection_that_dies_under_a_request_is_replayed_only_when_idempotent(method: str) -> None:
    async def script(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(response(body=b"%d" % connection.number))
        await connection.read_request()
        connection.reset()

    async def main() -> None:
        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                assert (await client.request()).body == b"0"
                answer = await client.request(method=method, body=b"x" if method == "POST" else b"")
                exchange = await engine.seen.last(2)
                if method == "GET":
                    assert (answer.status, answer.body, exchange.replays) == (200, b"1", 1)
                else:
                    assert (answer.status, exchange.reason, len(exchange.attempts)) == (502, Reason.CONNECTION_TERMINATED, 1)
            await assert_clean(engine)

    uvloop.run(main())


@pytest.mark.expects_traceback("exchange failed")
def test_a_bug_of_ours_costs_one_exchange_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("bug")

    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"fine"))) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                with monkeypatch.context() as patch:
                    patch.setattr(NativeTransport, "send", broken)
                    got = await client.request()
                    assert (got.status, got.get("connection")) == (500, "close")
                    assert b"bug" not in got.body
            async with await RawClient.open(engine.port()) as client:
                assert (await client.request()).body == b"fine"
            await assert_clean(engine)

    uvloop.run(main())


# The client's faults


def test_a_client_that_sends_half_a_head_and_leaves_costs_nothing() -> None:
    async def main() -> None:
        async with Engine(upstream(free_port())) as engine:
            for leave in ("reset", "half_close"):
                async with await RawClient.open(engine.port()) as client:
                    await client.send(b"GET / HTTP/1.1\r\nHo")
                    await until(lambda: any(one.rx for owner in engine._owners for one in owner.connections))
                    getattr(client, leave)()
                await assert_clean(engine)
            assert not engine.seen.started

    uvloop.run(main())


def test_a_body_that_stops_coming_is_408_and_the_upstream_hears_of_it() -> None:
    async def main() -> None:
        async with ScriptedUpstream(after_head()) as server, Engine(upstream(server.port), listener={"body_idle_timeout": 0.1}) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(POST)
                assert (await client.read_response()).status == 408
                exchange = await engine.seen.last()
                assert (exchange.reason, exchange.clock) == (Reason.REQUEST_BODY_TIMEOUT, Clock.BODY_IDLE)
                await asyncio.wait_for((await server.connection(0)).ended.wait(), BOUND)
            await assert_clean(engine)

    uvloop.run(main())


def test_a_bulk_body_that_stops_coming_is_408_too() -> None:
    async def main() -> None:
        async with ScriptedUpstream(after_head()) as server, Engine(upstream(server.port), listener={"body_idle_timeout": 0.1}) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(POST + b"x" * 200_000)
                assert (await client.read_response()).status == 408
            await assert_clean(engine)

    uvloop.run(main())


@pytest.mark.parametrize("close", [True, False])
def test_a_body_that_the_client_truncates_never_looks_whole_to_the_upstream(close: bool) -> None:
    got: list[bytes] = []

    async def script(connection: Connection) -> None:
        try:
            await read_on(connection)
        finally:
            got.append(bytes(connection.received))

    async def main() -> None:
        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + b"Connection: close\r\n" * close + b"\r\n"
                await client.send(head + b"5\r\nhello\r\n")
                await until(lambda: engine.seen.started and engine.seen.started[0].bytes_in == 5)
                client.half_close()
                exchange = await engine.seen.last()
                assert exchange.reason is Reason.CLIENT_CLOSED
                await asyncio.wait_for((await server.connection(0)).ended.wait(), BOUND)
            await assert_clean(engine)

    uvloop.run(main())
    assert b"hello" in got[0]
    assert not got[0].endswith(b"0\r\n\r\n")


def test_garbage_in_a_chunked_body_is_400_and_closes() -> None:
    async def main() -> None:
        async with ScriptedUpstream(after_head()) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
                await server.connection(0)
                await client.send(b"GET / HTTP/1.1\r\n\r\n")
                answer = await client.read_response()
                assert (answer.status, answer.get("connection")) == (400, "close")
                assert await client.read_until_close() == b""
                client.half_close()
                await asyncio.wait_for((await server.connection(0)).ended.wait(), BOUND)
            await assert_clean(engine)

    uvloop.run(main())


# Our own answers


def test_a_client_that_does_not_read_our_own_replies_is_cut_by_stream_idle() -> None:
    """Even where no route gave the exchange a clock."""

    async def main() -> None:
        async with Engine(default_timeouts=Timeouts(stream_idle=0.2)) as engine:
            async with await RawClient.open(engine.port()) as client:
                client._writer.transport.pause_reading()
                sending = asyncio.ensure_future(client.send(GET * 50_000))
                await until(lambda: engine.seen.started, "the first is answered", 30)
                await until(lambda: not any(owner.connections for owner in engine._owners), "the connection is cut", 30)
                await asyncio.gather(sending, return_exceptions=True)
            await assert_clean(engine)

    uvloop.run(main())


def test_a_lingering_close_ends_when_the_client_does(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Engine() as engine:
            for leave in ("reset", "half_close"):
                async with await RawClient.open(engine.port()) as client:
                    await client.send(b"POST /%s HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc" % leave.encode())
                    assert (await client.read_response()).status == 404
                    assert any(owner.connections for owner in engine._owners), "it waits for the rest"
                    getattr(client, leave)()
                    await assert_clean(engine)

    uvloop.run(main())


def test_a_lingering_close_does_not_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_connection, "LINGER_SECONDS", 0.1)

    async def main() -> None:
        async with Engine() as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
                assert (await client.read_response()).status == 404
                await assert_clean(engine)

    uvloop.run(main())
