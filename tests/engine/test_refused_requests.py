"""Requests that must be refused: what the client hears, and that nothing of them reaches the upstream."""

from __future__ import annotations

import asyncio

import uvloop
from engine_driver import GET, Heard, arrived, cut, each_byte, swallow, talk
from protocol.protocol_vectors import REFUSED
from support import Connection, RawClient, ScriptedUpstream, answer, response
from support.engine import Engine, upstream

from sidecar.model.reason import Rejection

SHORT = 160
"""Longest vector that is cut at every byte; nearly all are shorter."""
IN_BODY = [vector for vector in REFUSED if vector[2].startswith(("chunk", "trailer"))]
IN_HEAD = [vector for vector in REFUSED if vector not in IN_BODY]
GOOD = response(body=b"good")
TOGETHER = 16


def wrong(heard: Heard, expected: list[int]) -> str:
    """What is wrong with the answer to a message that must be refused; "" when nothing is."""
    try:
        statuses = heard.statuses
    except AssertionError as error:
        return f"{error} {heard}"
    return "" if statuses == expected and heard.ended == "closed" and b"\r\nConnection: close\r\n" in heard.data else str(heard)[:300]


async def collect(port: int, cases: list[tuple[str, list[bytes], list[int]]]) -> list[str]:
    """Play all cases, some at a time, and say what is wrong with which."""
    found: list[str] = []

    async def play(why: str, pieces: list[bytes], expected: list[int]) -> None:
        if text := wrong(await talk(port, *pieces), expected):
            found.append(f"{why}: {text}")

    for start in range(0, len(cases), TOGETHER):
        await asyncio.gather(*[play(*case) for case in cases[start : start + TOGETHER]])
    return found


async def refuse(cases: list[tuple[str, list[bytes], list[int]]]) -> tuple[list[str], list[Connection]]:
    """Problems, and the upstream's connections with the bytes that came through."""
    async with ScriptedUpstream(swallow) as peer, Engine(upstream(peer.port)) as engine:
        problems = await collect(engine.port(), cases)
    return problems, peer.connections


def test_a_bad_head_is_answered_and_closed_and_no_byte_of_it_reaches_the_upstream():
    problems, connections = uvloop.run(refuse([(why, [data], [status]) for data, status, why in IN_HEAD]))
    assert problems == []
    assert connections == []


def test_a_bad_head_is_refused_wherever_the_network_cuts_it():
    cases = [
        (f"{why} cut at {at}", list(cut(data, at)), [status])
        for data, status, why in IN_HEAD
        if len(data) <= SHORT
        for at in range(1, len(data))
    ]
    problems, connections = uvloop.run(refuse(cases))
    assert problems == []
    assert connections == []


def test_a_bad_head_is_refused_when_it_comes_byte_by_byte():
    cases = [(why, list(each_byte(data)), [status]) for data, status, why in IN_HEAD if len(data) <= SHORT]
    problems, connections = uvloop.run(refuse(cases))
    assert problems == []
    assert connections == []


def test_a_bad_body_that_came_with_its_head_is_refused_before_anything_is_sent_on():
    problems, connections = uvloop.run(refuse([(why, [data], [status]) for data, status, why in IN_BODY]))
    assert problems == []
    assert [bytes(one.received) for one in connections if one.received] == []


def whole(received: bytes) -> bool:
    """Whether the upstream could take what it has for a complete message: the naive way, an empty chunk ends it."""
    return received.endswith(b"\r\n0\r\n\r\n")


def test_a_bad_body_wherever_it_is_cut_never_becomes_a_complete_message_at_the_upstream():
    cases = [
        (f"{why} cut at {at}", list(cut(data, at)), [status])
        for data, status, why in IN_BODY
        if len(data) <= SHORT
        for at in range(1, len(data))
    ]
    cases += [(f"{why} byte by byte", list(each_byte(data)), [status]) for data, status, why in IN_BODY if len(data) <= SHORT]
    problems, connections = uvloop.run(refuse(cases))
    assert problems == []
    assert [bytes(one.received) for one in connections if whole(one.received)] == []


def test_a_good_request_before_a_bad_one_in_the_same_segment_is_answered_first():
    async def main() -> tuple[list[str], int]:
        async with ScriptedUpstream(answer(GOOD)) as peer, Engine(upstream(peer.port)) as engine:
            problems = await collect(engine.port(), [(why, [GET + data], [200, status]) for data, status, why in REFUSED])
        return problems, len(peer.requests)

    problems, requests = uvloop.run(main())
    assert problems == []
    assert requests == len(REFUSED)


def test_a_good_request_behind_a_bad_one_is_never_served():
    problems, connections = uvloop.run(refuse([(why, [data + GET], [status]) for data, status, why in REFUSED]))
    assert problems == []
    assert [bytes(one.received) for one in connections if one.received] == []


def test_a_body_that_turns_out_bad_on_its_way_is_the_clients_fault_and_counted_as_such():
    async def main() -> Engine:
        async with ScriptedUpstream(swallow) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
                await arrived(await peer.connection(0), b"hello")
                await client.send(b"ZZ\r\n")
                assert (await client.read_response()).status == 400
            await engine.seen.last(1)
        return engine

    engine = uvloop.run(main())
    assert engine.seen.rejected == [Rejection.BAD_CHUNK]
    assert [attempt.outcome for attempt in engine.seen.attempts] == ["http_request_error"]
    endpoint = engine.seen.attempts[0].endpoint
    assert endpoint is not None
    assert endpoint.failures == 0, "the upstream is not to blame"
