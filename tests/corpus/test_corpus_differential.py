"""The corpus against others: whatever we accept or send, they must find the end of each message where we found it.

A peer may refuse what we accept: then nobody is confused. It must not read other messages in the same bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import NamedTuple

import pytest
import uvloop
from corpus_data import Vector, load
from corpus_peers import NAMES, SENTINEL, Read, as_read, present, read_by, read_by_llhttp, running, say
from corpus_requests import deliveries, lane, play, statuses
from corpus_wire import cut_message, expand

pytestmark = pytest.mark.timeout(600)
READ_AS_SENTINEL = Read(b"GET", b"/sentinel", b"")
Reader = Callable[[bytes], Coroutine[None, None, list[Read]]]


class Ours(NamedTuple):
    """A vector that we accept: the requests we read, and the bytes that we sent on for them."""

    vector: Vector
    read: list[Read]
    sent: bytes


async def _accepted() -> list[Ours]:
    """Every request vector that is forwarded, played once."""
    found = []
    for setting in sorted({vector.expected.get("setting", "plain") for vector in load("requests")}):
        async with lane(setting) as playing:
            for vector in load("requests"):
                if vector.expected.get("setting", "plain") != setting or not _comparable(vector):
                    continue
                assert await play(playing, vector, next(deliveries(vector))) == ""
                whole = [*playing.app.whole, *playing.guarded.whole]
                raw = [*playing.app.raw, *playing.guarded.raw]
                pairs = [(one, bytes_) for one, bytes_ in zip(whole, raw, strict=True) if not one.startswith(b"GET /probe ")]
                found.append(Ours(vector, [read_by(one) for one, _ in pairs], b"".join(bytes_ for _, bytes_ in pairs)))
    return found


def _comparable(vector: Vector) -> bool:
    """Forwarded whole, no tunnel (its bytes are nobody's messages), and no limit of ours is what others lack."""
    return bool(vector.expected.get("forward")) and vector.expected.get("then") != "tunnel"


@pytest.fixture(scope="module")
def ours() -> list[Ours]:
    return uvloop.run(_accepted())


def _is_within(read: list[Read], wanted: list[Read], *, targets: bool) -> bool:
    """Whether `read` are some of `wanted`, in order: a reader may leave out what it refuses, and invent nothing."""
    rest = iter(wanted)
    same = Read.__eq__ if targets else _same_message
    return all(any(same(one, other) for other in rest) for one in read)


def _same_message(one: Read, other: Read) -> bool:
    return (one.method, one.body) == (other.method, other.body)


async def _disagreements(ours: list[Ours], reader: Reader) -> list[str]:
    """Where the reader finds other messages than we did; it must take three quarters of what we send, or nothing is compared."""
    problems, taken = [], 0
    for vector, read, sent in ours:
        behind = await reader(sent)
        taken += behind == [*read, READ_AS_SENTINEL]
        if not _is_within(behind, [*read, READ_AS_SENTINEL], targets=True):
            problems.append(f"{vector}: behind us it reads {behind}, we sent {read}")
        raw = await reader(vector.data)
        # Nothing after a request that ends its connection was ever read by us; others that go on harm nobody.
        if _ends(vector):
            raw = raw[: len(read)]
        if not _is_within(raw, [*read, READ_AS_SENTINEL], targets=False):
            problems.append(f"{vector}: from the same bytes it reads {raw}, we read {read}")
    if taken < len(ours) * 3 // 4:
        problems.append(f"it refused all but {taken} of {len(ours)}")
    return problems


def _ends(vector: Vector) -> bool:
    return vector.expected.get("then") == "close" or any(status >= 400 for status in statuses(vector))


def test_llhttp_finds_the_end_of_every_message_where_we_do(ours):
    async def reader(data: bytes) -> list[Read]:
        return read_by_llhttp(data)

    assert uvloop.run(_disagreements(ours, reader)) == []
    assert len(ours) > 300


@pytest.mark.parametrize("name", NAMES)
def test_a_proxy_finds_the_end_of_every_message_where_we_do(name, ours, tmp_path):
    if not present(name):
        pytest.skip(
            f"NO {name.upper()}: the differential with it is not run (Debian has nginx and haproxy; `make bench-quick` fetches Envoy)"
        )
    with running(name, tmp_path) as peer:

        async def reader(data: bytes) -> list[Read]:
            return await as_read(peer, data)

        assert asyncio.run(reader(b"")) == [READ_AS_SENTINEL]
        assert asyncio.run(_disagreements(ours, reader)) == []


RESPONSES = [vector for vector in load("responses") if "client" in vector.expected and "ask" not in vector.expected]


@pytest.mark.parametrize("name", NAMES)
def test_a_proxy_in_front_of_us_reads_our_responses_as_we_meant_them(name, tmp_path):
    if not present(name):
        pytest.skip(
            f"NO {name.upper()}: the differential with it is not run (Debian has nginx and haproxy; `make bench-quick` fetches Envoy)"
        )

    async def problems(port: int, reply: Callable[[bytes], None]) -> list[str]:
        found = []
        for vector in RESPONSES:
            meant = expand(vector.expected["client"][-1])
            reply(b"".join(expand(text) for text in vector.expected["client"]))
            heard = await say(port, SENTINEL)
            if (wrong := _misread(meant, heard)) != "":
                found.append(f"{vector}: {wrong}")
        return found

    with running(name, tmp_path) as peer:
        assert asyncio.run(problems(peer.port, lambda data: setattr(peer.origin, "reply", data))) == []


def _misread(meant: bytes, heard: bytes) -> str:
    """What is wrong with a peer's last answer when the response `meant` was given to it; it may be an error of its own."""
    bodiless = meant[9:12] in (b"204", b"304")
    last, rest = b"", heard
    while rest:
        part, rest = cut_message(rest, bodiless=bodiless or rest[9:10] == b"1")
        last = part.data
    if last[9:12] != meant[9:12] and last[9:10] == b"5":
        return ""
    if last[9:12] != meant[9:12]:
        return f"status of {last[:60]!r}"
    return "" if bodiless or _payload(last) == _payload(meant) else f"body {_payload(last)!r}, not {_payload(meant)!r}"


def _payload(message: bytes) -> bytes:
    head, _, body = message.partition(b"\r\n\r\n")
    if b"\r\ntransfer-encoding: chunked" not in head.lower():
        return body
    line, _, rest = body.partition(b"\r\n")
    return rest[: int(line, 16)]
