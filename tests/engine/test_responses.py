"""Responses of upstreams that are odd, broken or hostile: what the client gets, and whether their connection is used again."""

from __future__ import annotations

import asyncio
import os
from typing import NamedTuple

import pytest
import uvloop
from engine_driver import GET, LAST, OLD, Heard, cut, drip, each_byte, finish, hold, split_responses, swallow, talk, until
from support import Connection, RawClient, ScriptedUpstream, answer, in_turn, response
from support.engine import Engine, upstream

from sidecar.model.reason import Reason

OK = b"HTTP/1.1 200 OK\r\n"
NEXT = response(body=b"next")
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
FIVE = OK + b"Content-Length: 5\r\n\r\nhello"


class Case(NamedTuple):
    """`data` from the upstream; `status` 0: the client must see a cut. `kept`: the next request uses the connection."""

    data: bytes
    status: int
    body: bytes
    kept: bool
    why: str
    method: str = "GET"


GOOD = [
    Case(FIVE, 200, b"hello", True, "RFC 9112 6.2"),
    Case(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", 200, b"hello", True, "RFC 9112 7.1"),
    Case(CHUNKED + b"5;x=y\r\nhello\r\n0\r\nX-T: 1\r\n\r\n", 200, b"hello", True, "RFC 9112 7.1.1: extensions are not passed on"),
    Case(OK + b"Content-Length: 0\r\n\r\n", 200, b"", True, "RFC 9112 6.2"),
    Case(OK + b"Content-Length: 005\r\n\r\nhello", 200, b"hello", True, "RFC 9110 8.6: 1*DIGIT"),
    Case(b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True, "RFC 9112 6.3 rule 1"),
    Case(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n", 304, b"", True, "RFC 9110 8.6: metadata of a 304"),
    Case(OK + b"Content-Length: 100\r\n\r\n", 200, b"", True, "RFC 9110 9.3.2: metadata of HEAD", "HEAD"),
    Case(CHUNKED, 200, b"", True, "RFC 9112 6.3 rule 1: HEAD ends with its head", "HEAD"),
    Case(OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", False, "RFC 9112 9.6"),
    Case(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", False, "RFC 9112 9.3: 1.0 closes"),
    Case(b"HTTP/1.1 599 x\r\nContent-Length: 0\r\n\r\n", 599, b"", True, "RFC 9110 15: unknown codes pass"),
    Case(b"HTTP/1.1 999 x\r\nContent-Length: 0\r\n\r\n", 999, b"", True, "product.md 3.9: 100-999 pass"),
    Case(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, b"", True, "RFC 9112 4: servers that omit the blank"),
    Case(OK + b"Content-Length : 5\r\n\r\nhello", 200, b"hello", True, "RFC 9112 5.1: a proxy removes the blank"),
    # Bodies where none may be: the head passes, the connection is not believed any more.
    Case(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", 204, b"", False, "RFC 9112 6.3 rule 1, RFC 9110 8.6"),
    Case(b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 204, b"", False, "RFC 9112 6.1"),
    Case(FIVE, 200, b"", False, "RFC 9110 9.3.2: HEAD answered with a body", "HEAD"),
    Case(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello", 304, b"", False, "RFC 9110 15.4.5: a body all the same"),
    # Bytes behind the response: never anybody's answer.
    Case(FIVE + b"X", 200, b"hello", False, "RFC 9112 6.3: more than was announced"),
    Case(FIVE + b"\r\n", 200, b"hello", False, "the same, an innocent empty line"),
    Case(OK + b"Content-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", 200, b"ok", False, "response splitting"),
    Case(CHUNKED + b"2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", 200, b"ok", False, "the same behind chunks"),
]


def bad(data: bytes, why: str) -> Case:
    return Case(data, 502, b"", False, why)


BROKEN = [
    bad(OK + b"Content-Length: 5\r\nContent-Length: 3\r\n\r\nhello", "RFC 9112 6.3 rule 5: two lengths"),
    bad(OK + b"Content-Length: 5, 3\r\n\r\nhello", "RFC 9112 6.3 rule 5: a list"),
    bad(OK + b"Content-Length: -5\r\n\r\nhello", "RFC 9110 8.6: not a number"),
    bad(OK + b"Content-Length: 9223372036854775808\r\n\r\n", "RFC 9110 8.6: overflow"),
    bad(OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "RFC 9112 6.1: both"),
    bad(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "RFC 9112 6.1: would be relabelled as plain"),
    bad(OK + b"Transfer-Encoding: gzip\r\n\r\nx", "RFC 9112 6.3 rule 4"),
    bad(OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "RFC 9112 6.1: twice"),
    bad(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "RFC 9112 6.1: faulty framing in 1.0"),
    bad(OK[:-2] + b"\nX: a\n\n", "RFC 9112 2.2: bare line feeds"),
    bad(OK + b"X: a\rSet-Cookie: z=1\r\n\r\n", "RFC 9112 2.2: bare CR"),
    bad(OK + b"X: a\x00b\r\n\r\n", "RFC 9110 5.5: NUL"),
    bad(OK + b"X: a\x01b\r\n\r\n", "RFC 9110 5.5: control character"),
    bad(OK + b"X: a\r\n b\r\n\r\n", "RFC 9112 5.2: folded"),
    bad(OK + b" X: a\r\n\r\n", "RFC 9112 2.2: white space before the first field"),
    bad(OK + b"X\r\n\r\n", "RFC 9112 5: no colon"),
    bad(OK + b"X y: z\r\n\r\n", "RFC 9110 5.1: not a token"),
    *[
        bad(b"HTTP/1.1 " + code + b" x\r\nContent-Length: 0\r\n\r\n", "RFC 9112 4: not a status code")
        for code in (b"099", b"2000", b"abc", b"20", b"+20")
    ],
    bad(b"HTTP/2.0 200 OK\r\n\r\n", "RFC 9112 2.3: not our protocol"),
    bad(b"okHTTP/1.1 200 OK\r\n\r\n", "RFC 9112 4: leftovers of somebody's body"),
    bad(b"\r\nHTTP/1.1 200 OK\r\n\r\n", "RFC 9112 2.2: empty lines are for requests"),
    bad(b"SSH-2.0-OpenSSH_9\r\n", "not HTTP: told at once"),
    bad(b"\x15\x03\x01\x00\x02\x02\x46", "a TLS alert"),
    bad(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "RFC 9110 7.8: nobody asked"),
]

BROKEN_BODIES = [
    bad(CHUNKED + b"ZZ\r\nhello\r\n0\r\n\r\n", "RFC 9112 7.1: not a size"),
    bad(CHUNKED + b"5\r\nhelloX\r\n0\r\n\r\n", "RFC 9112 7.1: longer than its size"),
    bad(CHUNKED + b"5\nhello\n0\n\n", "RFC 9112 7.1: bare line feeds"),
    bad(CHUNKED + b"ffffffffffffffff\r\nhello", "RFC 9112 7.1: overflow"),
    bad(CHUNKED + b"5;x=" + b"y" * 5000 + b"\r\nhello\r\n0\r\n\r\n", "RFC 9112 7.1.1: endless extension"),
    bad(CHUNKED + b"0\r\nno colon\r\n\r\n", "RFC 9112 7.1.2: not a trailer"),
]


def request(method: str, headers: str = "") -> bytes:
    return f"{method} / HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode()


async def play(case: Case, *pieces: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """Statuses and bodies of the case's own answer and the next one's, and how many upstream connections were used."""

    async def hostile(connection: Connection) -> None:
        await connection.read_request()
        await drip(connection, pieces or (case.data,))
        while True:
            await connection.read_request()
            await connection.send(NEXT)

    async with ScriptedUpstream(in_turn(hostile, answer(NEXT))) as peer, Engine(upstream(peer.port)) as engine:
        async with await RawClient.open(engine.port()) as client:
            await client.send(request(case.method))
            first = await client.read_response(to=case.method)
            await engine.seen.last(1)
        heard = await talk(engine.port(), LAST)
    got = [(first.status, first.body if first.status < 500 else b""), *split_responses(heard.data)]
    if first.status == 502:
        assert first.get("proxy-status") is not None
        assert first.get("x-request-id") is not None
    return got, len(peer.connections)


@pytest.mark.parametrize("case", GOOD, ids=lambda case: f"{case.why} {case.data[:20]!r}")
def test_a_response_reaches_the_client_and_its_connection_is_kept_only_when_nothing_is_left_on_it(case):
    got, connections = uvloop.run(play(case))
    assert got == [(case.status, case.body), (200, b"next")]
    assert connections == (1 if case.kept else 2)


def test_a_response_reads_the_same_however_the_network_cuts_it():
    async def main() -> list[str]:
        problems = []
        for case in GOOD[:16]:
            for number, pieces in enumerate([each_byte(case.data), *[cut(case.data, at) for at in range(1, len(case.data))]]):
                got, connections = await play(case, *pieces)
                if got != [(case.status, case.body), (200, b"next")] or (case.kept and connections != 1):
                    problems.append(f"{case.why}, delivery {number}: {got} {connections}")
        return problems

    assert uvloop.run(main()) == []


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: f"{case.why} {case.data[:40]!r}")
def test_a_response_that_breaks_a_rule_is_a_502_and_its_connection_is_not_used_again(case):
    got, connections = uvloop.run(play(case))
    assert got == [(502, b""), (200, b"next")]
    assert connections == 2


@pytest.mark.parametrize("case", BROKEN_BODIES, ids=lambda case: f"{case.why} {case.data[:40]!r}")
def test_a_body_that_breaks_a_rule_is_cut_and_its_connection_is_not_used_again(case):
    async def main() -> None:
        async with ScriptedUpstream(in_turn(hold(case.data), answer(NEXT))) as peer, Engine(upstream(peer.port)) as engine:
            assert (await talk(engine.port(), GET)).ended == "reset"
            assert engine.seen.finished[0].reason is Reason.HTTP_PROTOCOL_ERROR
            assert (await talk(engine.port(), LAST)).statuses == [200]
            await peer.connections[0].ended.wait()

    uvloop.run(main())


@pytest.mark.parametrize("case", BROKEN[:-1] + BROKEN_BODIES, ids=lambda case: f"{case.why} {case.data[:40]!r}")
def test_a_broken_response_is_never_taken_for_a_complete_one_however_it_is_cut(case):
    async def main() -> list[str]:
        problems = []
        deliveries = [each_byte(case.data), *[cut(case.data, at) for at in range(1, len(case.data))]]
        for number, pieces in enumerate(deliveries if len(case.data) < 150 else deliveries[1:60]):
            heard = await hear(pieces)
            if heard.ended == "reset" or 502 in _statuses(heard):
                continue
            problems.append(f"delivery {number}: {heard}")
        return problems

    async def hear(pieces) -> Heard:
        async def hostile(connection: Connection) -> None:
            await connection.read_request()
            await drip(connection, pieces)
            await swallow(connection)

        async with ScriptedUpstream(hostile) as peer, Engine(upstream(peer.port)) as engine:
            return await talk(engine.port(), LAST)

    assert uvloop.run(main()) == []


def _statuses(heard: Heard) -> list[int]:
    try:
        return heard.statuses
    except AssertionError:
        return []


# Limits


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (OK + b"X: " + b"y" * 70_000 + b"\r\n\r\n", "64 KiB"),
        (OK + b"X: " + b"y" * 1_000_000, "64 KiB, endless"),
        (OK + b"X: y\r\n" * 257 + b"Content-Length: 0\r\n\r\n", "256 fields"),
    ],
)
def test_a_response_head_beyond_the_limits_is_a_502_of_its_own(data, why):
    async def main() -> Heard:
        async with ScriptedUpstream(hold(data)) as peer, Engine(upstream(peer.port)) as engine:
            return await talk(engine.port(), LAST)

    heard = uvloop.run(main())
    assert heard.statuses == [502], why
    assert b"error=http_response_header_section_size" in heard.data


# Framing towards the client


def client_side(data: bytes, ask: bytes, *, reset: bool = False) -> Heard:
    async def main() -> Heard:
        async with ScriptedUpstream(finish(data, reset=reset)) as peer, Engine(upstream(peer.port)) as engine:
            return await talk(engine.port(), ask)

    return uvloop.run(main())


def test_a_body_until_close_is_chunked_for_a_client_that_knows_chunks():
    heard = client_side(OK + b"\r\nhello", LAST)
    assert heard.statuses == [200]
    assert b"Transfer-Encoding: chunked\r\n" in heard.data
    assert split_responses(heard.data) == [(200, b"hello")]


def test_a_body_until_close_stays_one_for_a_client_that_does_not():
    heard = client_side(OK + b"\r\nhello", OLD)
    assert heard.data.endswith(b"\r\n\r\nhello")
    assert b"chunked" not in heard.data
    assert heard.ended == "closed"


def test_a_body_until_close_lets_the_clients_connection_go_on():
    async def main() -> None:
        async with ScriptedUpstream(finish(OK + b"\r\nhello")) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                assert [(await client.request()).body for _ in range(2)] == [b"hello", b"hello"]

    uvloop.run(main())


@pytest.mark.parametrize(("method", "status"), [("HEAD", b"200 OK"), ("GET", b"304 Not Modified")])
def test_the_length_of_what_is_not_sent_is_kept(method, status):
    data = b"HTTP/1.1 " + status + b"\r\nContent-Length: 100\r\nETag: x\r\n\r\n"

    async def main() -> None:
        async with ScriptedUpstream(answer(data)) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                for _ in range(2):
                    found = await client.request(method=method)
                    assert (found.get("content-length"), found.get("etag"), found.body) == ("100", "x", b"")
            assert len(peer.connections) == 1

    uvloop.run(main())


def test_end_to_end_fields_and_the_reason_phrase_keep_their_bytes():
    data = b"HTTP/1.1 200 Weird \xe9\r\nSet-Cookie: a\r\nX: caf\xe9\r\nset-cookie: b\r\nServer: s\r\nLocation: /a b/%zz?x=%2b\r\nContent-Length: 0\r\n\r\n"
    heard = client_side(data, GET[:-2] + b"Connection: close\r\n\r\n")
    lines = heard.data.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 Weird \xe9"
    assert lines[1:7] == data.split(b"\r\n")[1:7]


@pytest.mark.parametrize(
    ("lines", "gone"),
    [
        (b"Connection: X-A\r\nX-A: 1\r\n", [b"x-a", b"keep-alive"]),
        (
            b"Keep-Alive: timeout=1\r\nProxy-Connection: x\r\nTrailer: X\r\nUpgrade: h2c\r\n",
            [b"keep-alive", b"proxy-connection", b"trailer", b"upgrade"],
        ),
        (b"Proxy-Authenticate: Basic\r\n", [b"proxy-authenticate"]),
    ],
)
def test_hop_by_hop_fields_of_a_response_stay_behind(lines, gone):
    heard = client_side(OK + lines + b"Content-Length: 0\r\n\r\n", GET[:-2] + b"Connection: close\r\n\r\n")
    names = [line.partition(b":")[0].lower() for line in heard.data.split(b"\r\n")]
    assert [name for name in gone if name in names] == []
    assert names.count(b"via") == 1


def test_response_trailers_pass_unless_forbidden_nominated_or_not_expressible():
    trailers = b"X-T: 1\r\nX-N: 2\r\nContent-Length: 0\r\nSet-Cookie: x\r\nTransfer-Encoding: chunked\r\ngrpc-status: 0\r\n"
    data = OK + b"Connection: X-N, close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n" + trailers + b"\r\n"
    assert client_side(data, LAST).data.endswith(b"\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\ngrpc-status: 0\r\n\r\n")
    assert client_side(data, OLD).data.endswith(b"\r\n\r\nok")


# Truncation


WHOLE = {
    "length": OK + b"X: y\r\nContent-Length: 12\r\n\r\nhello, world",
    "chunked": CHUNKED + b"5\r\nhello\r\n7\r\n, world\r\n0\r\nX-T: 1\r\n\r\n",
    "until close": OK + b"\r\nhello, world",
}


@pytest.mark.parametrize("client", [OLD, GET], ids=["1.0", "1.1"])
@pytest.mark.parametrize("framing", WHOLE)
@pytest.mark.parametrize("ending", ["fin", "reset"])
def test_a_response_cut_anywhere_is_an_error_or_a_reset_never_a_complete_message(framing, client, ending):
    data = WHOLE[framing]
    head_size = data.index(b"\r\n\r\n") + 4

    async def cut_at(at: int, *, apart: bool) -> Heard:
        async def play(connection: Connection) -> None:
            await connection.read_request()
            if apart and at > head_size:
                await connection.send(data[:head_size])
                await asyncio.sleep(0.001)
                await connection.send(data[head_size:at])
            else:
                await connection.send(data[:at])
            if ending == "reset":
                await asyncio.sleep(0.001)  # or the kernel throws away what was sent
                connection.reset()

        async with ScriptedUpstream(play) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()):
                heard = await talk(engine.port(), client, *([] if client != GET else [LAST]))
            exchange = engine.seen.finished[0]
            assert exchange.reason in (Reason.HTTP_RESPONSE_INCOMPLETE, Reason.CONNECTION_TERMINATED), (at, exchange.reason)
            return heard

    async def main() -> list[str]:
        problems = []
        ends = range(len(data)) if framing != "until close" else range(head_size)
        if framing == "until close" and ending == "reset":
            ends = range(len(data) + 1)
        for at in ends:
            for apart in (False, True) if at > head_size else (False,):
                heard = await cut_at(at, apart=apart)
                if heard.ended != "reset" and _statuses(heard)[:1] != [502]:
                    problems.append(f"{at} {heard}")
        return problems

    assert uvloop.run(main()) == []


def test_a_large_body_that_is_cut_is_a_reset():
    async def main() -> None:
        async with ScriptedUpstream(finish(response(body=b"x" * 3_000_000)[:-1])) as peer, Engine(upstream(peer.port)) as engine:
            for client in (LAST, OLD):
                assert (await talk(engine.port(), client)).ended == "reset"
            assert {exchange.reason for exchange in engine.seen.finished} == {Reason.HTTP_RESPONSE_INCOMPLETE}

    uvloop.run(main())


def test_a_head_that_is_cut_and_no_head_at_all_are_502s():
    for data, reset in ((b"", False), (b"HTTP/1.1 200 OK\r\nConte", False), (b"", True)):
        assert client_side(data, LAST, reset=reset).statuses == [502]


# Poison


@pytest.mark.parametrize(
    "late",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n",
        b"garbage",
        b"\r\n",
    ],
)
@pytest.mark.parametrize("closes", [False, True])
def test_what_an_upstream_says_unasked_while_idle_is_never_delivered(late, closes):
    spoken = asyncio.Event()

    async def unsolicited(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(FIVE)
        await spoken.wait()
        await connection.send(late)
        if not closes:
            await swallow(connection)

    async def main() -> None:
        async with ScriptedUpstream(in_turn(unsolicited, answer(NEXT))) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                assert (await client.request()).body == b"hello"
                spoken.set()
                await asyncio.sleep(0.01)
                assert (await client.request()).body == b"next"
            assert len(peer.connections) == 2
            assert peer.connections[0].requests[1:] == []

    uvloop.run(main())


def test_poison_that_comes_at_the_moment_of_reuse_is_seen_in_the_kernel():
    async def main() -> None:
        async def poisoned(connection: Connection) -> None:
            await connection.read_request()
            await connection.send(FIVE)
            await swallow(connection)

        async with ScriptedUpstream(in_turn(poisoned, answer(NEXT))) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                assert (await client.request()).body == b"hello"
                # In the kernel before the client's request is: whichever the loop reads first, it is not an answer.
                os.write(peer.connections[0]._writer.get_extra_info("socket").fileno(), FIVE.replace(b"hello", b"wrong"))
                assert (await client.request()).body == b"next"

    for _ in range(10):
        uvloop.run(main())


def test_a_parked_connection_that_the_upstream_closes_is_gone_from_the_pool():
    async def main() -> None:
        async with ScriptedUpstream(finish(FIVE)) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                for _ in range(5):
                    assert (await client.request()).body == b"hello"
                    await until(peer.connections[-1].ended.is_set)
                    await asyncio.sleep(0.001)
            assert all(len(exchange.attempts) == 1 for exchange in engine.seen.finished)

    uvloop.run(main())
