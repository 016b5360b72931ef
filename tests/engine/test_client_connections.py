"""A client's connection from its first byte to its last: RFC 9112 sections 2.2, 9.3 and 9.6, product.md 3.9."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop
from engine_driver import GET, LAST, OLD, cut, each_byte, finish, hold, split_responses, swallow, talk, turns, until
from support import Connection, RawClient, ScriptedUpstream, answer, response
from support.engine import Engine, upstream

from sidecar.http1 import connection, server_connection
from sidecar.model.reason import Reason
from sidecar.model.snapshot import Timeouts

OK = response(body=b"ok")
UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\n"


def get(path: str, headers: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode()


async def echo_path(connection: Connection) -> None:
    """A script: the body of each response is its request's target, small ones with a length, every third in chunks."""
    while True:
        path = (await connection.read_request()).start.split(b" ")[1]
        chunked = path[-1:] in b"369"
        await connection.send(response(chunks=[path]) if chunked else response(body=path))


# Order


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_ten_pipelined_requests_are_answered_in_order(run):
    async def main() -> None:
        async with ScriptedUpstream(echo_path) as peer, Engine(upstream(peer.port)) as engine:
            requests = b"".join(get(f"/{number}") for number in range(9)) + get("/9", "Connection: close\r\n")
            for pieces in ([requests], each_byte(requests), cut(requests, 77)):
                heard = await talk(engine.port(), *pieces)
                assert heard.ended == "closed"
                assert [body for _, body in split_responses(heard.data)] == [b"/%d" % number for number in range(10)]
            assert len(peer.connections) == 1

    run(main())


def test_pipelined_requests_with_bodies_keep_their_own_bodies():
    async def main() -> list[bytes]:
        data = UPLOAD + b"Content-Length: 3\r\n\r\none" + UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n" + UPLOAD
        async with ScriptedUpstream(answer(OK)) as peer, Engine(upstream(peer.port)) as engine:
            heard = await talk(engine.port(), data + b"Connection: close\r\nContent-Length: 5\r\n\r\nthree")
            assert heard.statuses == [200, 200, 200]
        return [request.body for request in peer.requests]

    assert uvloop.run(main()) == [b"one", b"two", b"three"]


def test_nothing_behind_a_last_request_is_parsed():
    async def main() -> int:
        async with ScriptedUpstream(answer(OK)) as peer, Engine(upstream(peer.port)) as engine:
            for behind in (GET, b"\x00garbage", b"x" * 100_000):
                assert (await talk(engine.port(), LAST + behind)).statuses == [200]
        return len(peer.requests)

    assert uvloop.run(main()) == 3


def test_local_replies_keep_their_place_in_the_pipeline():
    async def main() -> None:
        async with ScriptedUpstream(echo_path) as peer, Engine(upstream(peer.port)) as engine:
            trace = b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"
            assert (await talk(engine.port(), get("/1") + trace + get("/2") + trace + LAST)).statuses == [200, 405, 200, 405, 200]

    uvloop.run(main())


# The first bytes


@pytest.mark.parametrize("pieces", [[b"\r\n"], [b"\r", b"\n"], [b"\r\n\r\n"], [b"\r\n", b"\r", b"\n\r\n"]], ids=repr)
def test_empty_lines_before_a_request_are_skipped(pieces):
    async def main() -> None:
        async with ScriptedUpstream(answer(OK)) as peer, Engine(upstream(peer.port)) as engine:
            assert (await talk(engine.port(), *pieces, GET, *pieces, LAST)).statuses == [200, 200]
            assert (await talk(engine.port(), b"".join(pieces) + GET + b"".join(pieces) + LAST)).statuses == [200, 200]
            assert (await talk(engine.port(), *pieces[:-1], pieces[-1] + LAST)).statuses == [200]

    uvloop.run(main())


def test_an_empty_line_after_a_request_leaves_the_connection_idle_not_late():
    async def main() -> None:
        async with ScriptedUpstream(answer(OK)) as peer, Engine(upstream(peer.port), listener={"header_timeout": 0.5}) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(GET + b"\r\n")
                assert (await client.read_response()).status == 200
                await client.read_nothing(0.7)
                assert (await client.request()).status == 200

    uvloop.run(main())


@pytest.mark.parametrize("start", [b"\rGET / HTTP/1.1\r\n", b"\nGET / HTTP/1.1\r\n", b"\r\r\nGET / HTTP/1.1\r\n"])
def test_half_an_empty_line_is_refused(start):
    async def main() -> None:
        async with Engine() as engine:
            for pieces in ([start], each_byte(start)):
                assert (await talk(engine.port(), *pieces)).statuses == [400]

    uvloop.run(main())


# Clocks


@pytest.mark.parametrize("data", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\n", b"\r", GET[:-1]])
def test_a_head_that_does_not_end_in_time_is_a_408(data):
    async def main() -> None:
        async with Engine(listener={"header_timeout": 0.05}) as engine:
            heard = await talk(engine.port(), data)
            assert heard.statuses == [408]
            assert b"error=request_header_timeout" in heard.data
            assert heard.ended == "closed"
            assert engine.seen.finished[0].reason is Reason.REQUEST_HEADER_TIMEOUT

    uvloop.run(main())


def test_the_header_clock_does_not_start_anew_with_every_byte():
    async def main() -> None:
        async with Engine(listener={"header_timeout": 0.1}) as engine, await RawClient.open(engine.port()) as client:
            dripping = asyncio.ensure_future(client.send(GET * 9, piece=1, pause=0.02))
            assert (await client.read_response()).status == 408
            dripping.cancel()
            await asyncio.gather(dripping, return_exceptions=True)  # it may have met the closed connection

    uvloop.run(main())


def test_an_idle_connection_is_closed_without_a_word_and_not_before_its_time():
    async def main() -> None:
        async with ScriptedUpstream(answer(OK)) as peer, Engine(upstream(peer.port), listener={"idle_timeout": 0.6}) as engine:
            async with await RawClient.open(engine.port()) as silent:
                assert await silent.read_until_close() == b""
            async with await RawClient.open(engine.port()) as client:
                for _ in range(5):  # longer than that in total
                    await asyncio.sleep(0.15)
                    assert (await client.request()).status == 200
                assert await client.read_until_close() == b""

    uvloop.run(main())


def test_a_body_that_does_not_go_on_is_a_408():
    async def main() -> None:
        async with ScriptedUpstream(swallow) as peer, Engine(upstream(peer.port), listener={"body_idle_timeout": 0.05}) as engine:
            heard = await talk(engine.port(), UPLOAD + b"Content-Length: 9\r\n\r\nhell")
            assert heard.statuses == [408]
            assert b"error=request_body_timeout" in heard.data
            await (await peer.connection(0)).ended.wait()

    uvloop.run(main())


# Limits


@pytest.mark.parametrize(
    ("data", "status", "why"),
    [
        (b"GET /" + b"x" * 300 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "RFC 9110 15.5.15"),
        (b"GET /" + b"x" * 3000, 414, "the same, told before the line ends"),
        (GET[:-2] + b"X: " + b"y" * 2000 + b"\r\n\r\n", 431, "RFC 6585 5: the head in all"),
        (GET[:-2] + b"X: " + b"y" * 2000, 431, "the same, told before the head ends"),
        (GET[:-2] + b"X: y\r\n" * 10 + b"\r\n", 431, "RFC 6585 5: number of fields"),
        (UPLOAD + b"Content-Length: 11\r\n\r\n", 413, "RFC 9110 15.5.14: told before a byte of it is read"),
        (UPLOAD + b"Expect: 100-continue\r\nContent-Length: 11\r\n\r\n", 413, "RFC 9110 10.1.1: instead of the 100"),
        (UPLOAD + b"Transfer-Encoding: chunked\r\n\r\nb\r\n12345678901\r\n0\r\n\r\n", 413, "RFC 9110 15.5.14: counted while it comes"),
        (UPLOAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501, "RFC 9112 6.1: a coding that we do not know"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "RFC 9110 15.6.6"),
        (b"GET / HTTP/1.2\r\nHost: a\r\nConnection: close\r\n\r\n", 200, "RFC 9110 2.5: a higher minor version is served"),
        (UPLOAD + b"Connection: close\r\nContent-Length: 10\r\n\r\n0123456789", 200, "as long as it may be"),
    ],
)
def test_each_limit_has_its_own_status_and_closes(data, status, why):
    async def main() -> None:
        limits = {"max_target_bytes": 200, "max_header_bytes": 1024, "max_header_count": 8, "max_request_body": 10}
        async with ScriptedUpstream(answer(OK)) as peer, Engine(upstream(peer.port), listener=limits) as engine:
            heard = await talk(engine.port(), data)
            assert heard.statuses == [status], why
            assert heard.ended == "closed"
            assert (status == 200) or peer.requests == []

    uvloop.run(main())


def test_a_head_may_be_as_long_as_the_listener_allows():
    async def main() -> None:
        limits = {"max_target_bytes": 1024, "max_header_bytes": 1024 * 1024, "max_header_count": 128}
        async with ScriptedUpstream(answer(OK)) as peer, Engine(upstream(peer.port), listener=limits) as engine:
            fields = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 9000) for number in range(100))
            assert (await talk(engine.port(), LAST[:-2] + fields + b"\r\n")).statuses == [200]
            assert (await talk(engine.port(), LAST[:-2] + fields * 2 + b"\r\n")).statuses == [431]
            assert len(peer.requests[0].fields) > 100

    uvloop.run(main())


# HTTP/1.0


@pytest.mark.parametrize("data", [OLD, OLD[:-2] + b"Connection: keep-alive\r\n\r\n"])
def test_an_http_10_client_gets_no_chunks_and_is_closed_afterwards(data):
    async def main() -> None:
        async with ScriptedUpstream(answer(response(chunks=[b"one", b"two"]))) as peer, Engine(upstream(peer.port)) as engine:
            heard = await talk(engine.port(), data + OLD)
            assert heard.data.startswith(b"HTTP/1.1 200 OK\r\n")
            assert heard.data.endswith(b"\r\n\r\nonetwo")
            assert b"chunked" not in heard.data
            assert heard.ended == "closed"
            assert len(peer.requests) == 1

    uvloop.run(main())


# Leaving


def test_a_fin_on_a_connection_that_may_go_on_cancels_the_upstream_request():
    async def main() -> None:
        async with ScriptedUpstream(hold(b"")) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(GET)
                await until(lambda: peer.requests)
                client.half_close()
                await peer.connections[0].ended.wait()
                exchange = await engine.seen.last()
                assert (exchange.reason, exchange.status) == (Reason.CLIENT_CLOSED, 499)

    uvloop.run(main())


@pytest.mark.parametrize("data", [LAST, OLD], ids=["close", "1.0"])
def test_a_fin_after_a_last_request_still_gets_its_answer(data):
    async def slow(connection: Connection) -> None:
        await connection.read_request()
        await asyncio.sleep(0.05)
        await connection.send(OK)

    async def main() -> None:
        async with ScriptedUpstream(slow) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(data)
                client.half_close()
                assert (await client.read_response()).body == b"ok"
                assert await client.read_until_close() == b""

    uvloop.run(main())


def test_a_client_that_resets_cancels_the_upstream_request_at_once():
    async def main() -> None:
        async with ScriptedUpstream(hold(response(body=b"x" * 10)[:-5])) as peer, Engine(upstream(peer.port)) as engine:
            client = await RawClient.open(engine.port())
            await client.send(LAST)
            await client.read_head()
            client.reset()
            await client.close()
            await (await peer.connection(0)).ended.wait()
            assert (await engine.seen.last()).reason is Reason.CLIENT_CLOSED

    uvloop.run(main())


# Lingering close


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST / HTTP/2.0\r\n\r\n", 505),
        (UPLOAD + b"Content-Length: 999999\r\n\r\n", 413),
        (UPLOAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n", 400),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405),
    ],
)
def test_a_client_that_is_still_sending_gets_to_read_the_refusal(head, status):
    async def main() -> None:
        async with ScriptedUpstream(swallow) as peer, Engine(upstream(peer.port), listener={"max_request_body": 1000}) as engine:
            for _ in range(5):
                async with await RawClient.open(engine.port()) as client:
                    await client.send(head)
                    for _ in range(50):
                        await client.send(b"x" * 5000)
                        await turns()
                    assert (await client.read_response()).status == status
                    assert await client.read_until_close() == b""

    uvloop.run(main())


def test_a_client_that_never_stops_sending_is_cut(monkeypatch):
    monkeypatch.setattr(server_connection, "LINGER_SECONDS", 0.1)

    async def main() -> None:
        async with Engine() as engine, await RawClient.open(engine.port()) as client:
            await client.send(b"\x00")
            assert (await client.read_response()).status == 400
            with pytest.raises(ConnectionError):
                await client.send(b"x" * 500_000, piece=1000, pause=0.01)

    uvloop.run(main())


def test_a_client_that_reads_its_last_answer_slowly_gets_all_of_it(monkeypatch):
    monkeypatch.setattr(server_connection, "LINGER_SECONDS", 0.05)

    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"x" * 500_000))) as peer, Engine(upstream(peer.port)) as engine:
            for number, data in enumerate((LAST, OLD), 1):
                async with await RawClient.open(engine.port()) as client:
                    client._reader._transport.pause_reading()
                    await client.send(data)
                    await engine.seen.last(number)
                    await asyncio.sleep(0.15)
                    client._reader._transport.resume_reading()
                    assert len((await client.read_response()).body) == 500_000

    uvloop.run(main())


def test_what_a_client_never_takes_is_given_up_after_a_close(monkeypatch):
    monkeypatch.setattr(server_connection, "LINGER_SECONDS", 0.05)
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.05)

    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"x" * 60_000))) as peer, Engine(upstream(peer.port)) as engine:
            small = socket.socket()
            small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)  # before it connects, or the window is larger already
            small.connect(("127.0.0.1", engine.port()))
            async with RawClient(*await asyncio.open_connection(sock=small)) as client:
                client._reader._transport.pause_reading()
                await until(lambda: engine._owners[0].connections)
                (ours,) = engine._owners[0].connections
                ours.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                await client.send(LAST)
                client.half_close()
                await engine.seen.last()
                assert ours.transport.get_write_buffer_size()
                await until(lambda: not engine._owners[0].connections)

    uvloop.run(main())


def test_a_client_that_never_reads_does_not_keep_its_connection_for_ever(monkeypatch):
    monkeypatch.setattr(server_connection, "LINGER_SECONDS", 0.1)

    async def main() -> None:
        async with ScriptedUpstream(finish(response(body=b"x" * 30_000_000))) as peer:
            async with Engine(upstream(peer.port), route={"timeouts": Timeouts(stream_idle=0.2)}) as engine:
                async with await RawClient.open(engine.port()) as client:
                    await client.send(LAST)
                    client._reader._transport.pause_reading()
                    assert (await engine.seen.last()).reason is Reason.STREAM_IDLE_TIMEOUT
                    await until(lambda: not engine._owners[0].connections)

    uvloop.run(main())


def test_an_early_answer_without_error_ends_the_connection_when_the_upload_did_not_end():
    async def early(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(OK)
        await swallow(connection)

    async def main() -> None:
        async with ScriptedUpstream(early) as peer, Engine(upstream(peer.port)) as engine:
            heard = await talk(engine.port(), UPLOAD + b"Content-Length: 9\r\n\r\nhell")
            assert heard.statuses == [200]
            assert heard.ended == "closed"
            assert len(peer.connections) == 1

    uvloop.run(main())
