"""Bodies on their way: not a byte lost, doubled or out of order, whatever the speeds and whoever goes away."""

from __future__ import annotations

import asyncio
import os
import random
import stat
from types import FunctionType
from typing import Any

import pytest
import uvloop
from faults.rig import assert_clean, read_on, until
from support import RawClient, ScriptedUpstream, answer, response
from support.engine import Engine, upstream
from support.upstream import Connection

from sidecar.http1 import relay, splice
from sidecar.http1.connection import BULK_READ, EAGER_READ, RX_LIMIT, SMALL_READ, set_bulk_read
from sidecar.http1.relay import BULK_MIN

MIB = 1024 * 1024


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def _slowly(connection: Connection, size: int, *, first_pause: float = 0.05) -> bytes:
    """Read `size` bytes with pauses, so that the kernel's buffers and ours fill up."""
    body = bytearray()
    await asyncio.sleep(first_pause)
    while len(body) < size:
        body += await connection.read_some(min(256 * 1024, size - len(body)))
        if len(body) < size // 2:
            await asyncio.sleep(0.001)
    return bytes(body)


def test_an_upload_through_a_slow_upstream_arrives_in_order() -> None:
    sent = noise(24 * MIB)

    async def main() -> None:
        async def script(connection: Connection) -> None:
            head = await connection.read_head()
            got = await _slowly(connection, int(head.get("content-length") or 0))
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + (b"ok" if got == sent else b"no"))

        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(sent))
                for start in range(0, len(sent), 300_000):
                    await client.send(sent[start : start + 300_000])
                assert (await client.read_response()).body == b"ok"

    uvloop.run(main())


def test_a_request_behind_a_bulk_upload_is_the_next_request() -> None:
    """What comes in one read with the end of a handed-over body stays with the client's connection."""
    sent = noise(3 * MIB + 12_345)

    async def main() -> None:
        async def script(connection: Connection) -> None:
            while True:
                request = await connection.read_request()
                await connection.send(response(body=b"whole" if request.body == sent else request.start))

        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                for number in range(5):
                    follow = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\nGET /%d-again HTTP/1.1\r\nHost: a\r\n\r\n" % (number, number)
                    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(sent) + sent + follow)
                    assert (await client.read_response()).body == b"whole"
                    assert (await client.read_response()).body == b"GET /%d HTTP/1.1" % number
                    assert (await client.read_response()).body == b"GET /%d-again HTTP/1.1" % number
            await assert_clean(engine)

    uvloop.run(main())


def test_a_bulk_answer_to_a_slow_reader_arrives_in_order() -> None:
    body = noise(24 * MIB, 2)

    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=body))) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                client._writer.transport.pause_reading()
                await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
                await until(lambda: any(one.drained is not None for owner in engine._owners for one in owner.connections))
                client._writer.transport.resume_reading()
                for _ in range(2):
                    assert (await client.read_response()).body == body
            await assert_clean(engine)

    uvloop.run(main())


def test_bytes_behind_a_bulk_answer_belong_to_nobody() -> None:
    """A connection on which the server said more than it should is not used again."""
    body = noise(2 * MIB)

    async def main() -> None:
        async with ScriptedUpstream(
            answer(response(body=body) + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale", response(body=b"right"))
        ) as server:
            async with Engine(upstream(server.port)) as engine, await RawClient.open(engine.port()) as client:
                assert (await client.request()).body == body
                assert (await client.request()).body == b"right"
                assert len(server.connections) == 2

    uvloop.run(main())


@pytest.mark.parametrize("end", ["keeps reading", "closes", "resets"])
def test_an_early_answer_to_a_bulk_upload_reaches_the_client(end: str) -> None:
    """The server answers in the middle of the upload, and perhaps goes away: its answer counts, not its leaving."""

    async def script(connection: Connection) -> None:
        await connection.read_head()
        await connection.read_exactly(MIB)
        await connection.send(response("413 Content Too Large", b"enough"))
        if end == "keeps reading":
            await read_on(connection)
        elif end == "resets":
            await asyncio.sleep(0.02)
            connection.reset()

    async def main() -> None:
        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (64 * MIB) + bytes(2 * MIB))
                got = await client.read_response()
                assert (got.status, got.body, got.get("connection")) == (413, b"enough", "close")
            await assert_clean(engine)

    uvloop.run(main())


def test_a_body_of_every_size_around_the_hand_over_arrives() -> None:
    sizes = [BULK_MIN + around for around in (-1, 0, 1, 2, 17)] + [
        RX_LIMIT - 1,
        RX_LIMIT,
        RX_LIMIT + 1,
        BULK_READ - 1,
        BULK_READ,
        BULK_READ + 1,
    ]

    async def main() -> None:
        async def script(connection: Connection) -> None:
            while True:
                request = await connection.read_request()
                await connection.send(response(body=request.body))

        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                for first in (0, 1, 5000, BULK_MIN):
                    for size in sizes:
                        body = noise(size, size)
                        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + body[:first])
                        await asyncio.sleep(0.002)
                        await client.send(body[first:])
                        assert (await client.read_response()).body == body
            await assert_clean(engine)

    uvloop.run(main())


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What relays in user space offer to sockets at a time, and what is taken of that; -1: nothing."""
    seen: list[tuple[int, int]] = []
    real = os.write

    def write(descriptor: int, data: Any) -> int:
        if not (isinstance(data, memoryview) and stat.S_ISSOCK(os.fstat(descriptor).st_mode)):
            return real(descriptor, data)
        try:
            took = real(descriptor, data)
        except BlockingIOError:
            seen.append((len(data), -1))
            raise
        seen.append((len(data), took))
        return took

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(splice.PIPES, "refused", True)
    return seen


def bulk_answer(*, slow: bool) -> None:
    """64 MiB to one client, which stops now and then when it is slow."""

    async def main() -> None:
        body = noise(64 * MIB)

        async def script(connection: Connection) -> None:
            await connection.read_request()
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await connection.read_some()

        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                for _ in range(8 * slow):
                    client._writer.transport.pause_reading()
                    await until(lambda: any(one.drained is not None for owner in engine._owners for one in owner.connections))
                    client._writer.transport.resume_reading()
                    await asyncio.sleep(0.002)
                assert (await client.read_response()).body == body
            await assert_clean(engine)

    uvloop.run(main())


@pytest.mark.parametrize("slow", [False, True])
def test_a_large_read_is_one_that_its_destination_takes_whole(writes: list[tuple[int, int]], slow: bool) -> None:
    """What it does not take is what we hold, and that is bounded by BULK_READ.

    But for a kernel that is short of memory for all of its sockets, and shrinks a buffer after it has said how large it is.
    """
    bulk_answer(slow=slow)
    large = [(offered, took) for offered, took in writes if offered > BULK_READ]
    assert max(offered for offered, _ in writes) <= EAGER_READ
    refused = [(offered, took) for offered, took in large if offered != took]
    assert len(refused) <= len(large) / 10, refused
    assert large or slow
    assert any(offered != took for offered, took in writes) or not slow, "it was slow"


def test_no_read_is_large_any_more_once_memory_is_short(writes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    after, counted = [], os.write

    def write(descriptor: int, data: Any) -> int:
        if isinstance(data, memoryview) and (after or len(data) > BULK_READ):
            after.append(len(data))
            set_bulk_read(SMALL_READ)
        return counted(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    try:
        bulk_answer(slow=False)
    finally:
        set_bulk_read(BULK_READ)
    assert after[0] > BULK_READ
    assert max(after[1:]) <= SMALL_READ


def test_no_read_is_large_where_the_kernel_does_not_say_how_much_room_there_is(
    writes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(relay.send_room, FunctionType):
        pytest.skip("compiled: constants cannot be replaced")
    monkeypatch.setattr(relay, "_SO_MEMINFO", 9999)
    bulk_answer(slow=False)
    assert writes
    assert max(offered for offered, _ in writes) <= BULK_READ
