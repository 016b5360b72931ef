"""Both directions at once: early answers, full duplex, and bounded buffers (product.md 3.4; http.md I2, I4, I5)."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
import uvloop
from engine_driver import arrived, hold, swallow, talk, until
from support import Connection, RawClient, ScriptedUpstream, in_turn, response
from support.engine import Engine, upstream

from sidecar.model.reason import Reason

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
BOUND = 256 * 1024
"""Bytes that one exchange may hold (product.md 3.4)."""
KERNEL = [int(Path(f"/proc/sys/net/ipv4/tcp_{which}mem").read_text(encoding="ascii").split()[2]) for which in ("r", "w", "w")]
LOTS = (sum(KERNEL) + 16 * 1024 * 1024) // 65536 * 65536
"""More than the kernel's own buffers take: those of the sidecar's two connections, and the sender's."""


def framed(kind: str, data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data) if kind == "chunked" else data


def framing(kind: str, length: int) -> bytes:
    return b"Transfer-Encoding: chunked\r\n" if kind == "chunked" else b"Content-Length: %d\r\n" % length


@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_an_error_that_comes_while_the_upload_runs_is_relayed_at_once_and_ends_both_connections(kind):
    async def early(connection: Connection) -> None:
        await connection.read_head()
        await connection.read_some()
        await connection.send(response("413 Too Much", b"no"))
        await swallow(connection)

    async def main() -> None:
        async with ScriptedUpstream(early) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(POST + framing(kind, 10**9) + b"\r\n" + framed(kind, b"x" * 1000))
                answer = await client.read_response()
                assert (answer.status, answer.body) == (413, b"no")
                assert answer.get_all("connection") == ["close"]
                await client.send(framed(kind, b"x" * 100_000))
                assert await client.read_until_close() == b""
            await peer.connections[0].ended.wait()
            assert len(peer.connections[0].received) < 10_000
            assert not bytes(peer.connections[0].received).endswith(b"0\r\n\r\n")

    uvloop.run(main())


def test_an_upstream_that_answers_and_closes_while_the_upload_runs_is_heard():
    async def slam(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(response("413 Too Much", b"no", "Connection: close\r\n"))

    async def main() -> list[int]:
        async with ScriptedUpstream(slam) as peer, Engine(upstream(peer.port)) as engine:
            found = []
            for _ in range(10):
                async with await RawClient.open(engine.port()) as client:
                    await client.send(POST + b"Content-Length: 1000000\r\n\r\n" + b"x" * 20_000)
                    found.append((await client.read_response()).status)
            return found

    assert uvloop.run(main()) == [413] * 10


@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_both_bodies_may_run_at_the_same_time(kind):
    async def echo(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(5):
            word = b"word%d" % number
            await arrived_more(connection, word)
            await connection.send(framed("chunked", word))
        await connection.send(b"0\r\n\r\n")
        await swallow(connection)

    async def arrived_more(connection: Connection, word: bytes) -> None:
        while word not in connection.received:
            await connection.read_some()

    async def main() -> None:
        async with ScriptedUpstream(echo) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(POST + b"Connection: close\r\n" + framing(kind, 25) + b"\r\n")
                head = await client.read_head()
                assert head.get("transfer-encoding") == "chunked"
                for number in range(5):
                    word = b"word%d" % number
                    await client.send(framed(kind, word))
                    assert await client.read_exactly(len(framed("chunked", word))) == framed("chunked", word)
                if kind == "chunked":
                    await client.send(b"0\r\n\r\n")
                assert await client.read_until_close() == b"0\r\n\r\n"

    uvloop.run(main())


def test_a_connection_whose_upload_was_stopped_is_not_used_again():
    async def early(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(response(body=b"early"))
        await swallow(connection)

    async def main() -> None:
        async with ScriptedUpstream(in_turn(early, hold(response(body=b"next")))) as peer, Engine(upstream(peer.port)) as engine:
            heard = await talk(engine.port(), POST + b"Content-Length: 50\r\n\r\nGET /smuggled HTTP/1.1\r\n")
            assert heard.statuses == [200]
            async with await RawClient.open(engine.port()) as client:
                assert (await client.request()).body == b"next"
            assert len(peer.connections) == 2

    uvloop.run(main())


def test_a_malformed_upload_under_way_is_a_400_and_cut_at_the_upstream():
    async def main() -> None:
        async with ScriptedUpstream(swallow) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(POST + framing("chunked", 0) + b"\r\n5\r\nhello\r\n")
                await arrived(await peer.connection(0), b"hello")
                await client.send(b"ZZ\r\n")
                assert (await client.read_response()).status == 400
                assert await client.read_until_close() == b""
            await peer.connections[0].ended.wait()
            assert not bytes(peer.connections[0].received).endswith(b"0\r\n\r\n")

    uvloop.run(main())


@pytest.mark.parametrize("length", [100, 1_000_000])
def test_a_malformed_upload_after_the_response_has_begun_cuts_the_response(length):
    async def begin(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nbegun" % length)
        await swallow(connection)

    async def main() -> None:
        async with ScriptedUpstream(begin) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(POST + framing("chunked", 0) + b"\r\n5\r\nhello\r\n")
                await client.read_until(b"begun")
                await client.send(b"ZZ\r\n")
                with pytest.raises(ConnectionResetError):
                    await client.read_until_close()
            assert (await engine.seen.last()).reason is Reason.HTTP_REQUEST_ERROR

    uvloop.run(main())


# Back-pressure


def stop_reading(wire: Connection | RawClient) -> None:
    """Take nothing more, and leave the kernel little room for it."""
    wire._reader._transport.pause_reading()
    wire._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)


async def stalled(amount) -> int:
    """The amount that does not grow any more."""
    before = -1
    while (now := amount()) != before:
        before = now
        await asyncio.sleep(0.1)
    return now


def held(engine: Engine) -> int:
    """Bytes of all client connections that are in our own buffers."""
    found = [connection for owner in engine._owners for connection in owner.connections]
    return sum(len(one.rx) + one.transport.get_write_buffer_size() for one in found)


@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_while_a_client_does_not_read_its_upstream_is_not_read_either(kind):
    sent = 0

    async def pour(connection: Connection) -> None:
        nonlocal sent
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\n" + framing(kind, LOTS) + b"\r\n")
        piece = framed(kind, b"x" * 65536)
        for _ in range(LOTS // 65536):
            await connection.send(piece)
            sent += 65536
        if kind == "chunked":
            await connection.send(b"0\r\n\r\n")
        await swallow(connection)

    async def main() -> None:
        async with ScriptedUpstream(pour) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                stop_reading(client)
                await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                await until(lambda: sent)
                assert await stalled(lambda: sent) < LOTS
                assert held(engine) <= BOUND
                client._reader._transport.resume_reading()
                body = (await client.read_until_close()).partition(b"\r\n\r\n")[2]
                assert len(body) == LOTS if kind == "length" else (body.count(b"x") == LOTS and body.endswith(b"\r\n0\r\n\r\n"))

    uvloop.run(main())


@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_while_an_upstream_does_not_read_its_client_is_not_read_either(kind):
    go = asyncio.Event()
    sent = 0

    async def slow(connection: Connection) -> None:
        stop_reading(connection)
        await go.wait()
        connection._reader._transport.resume_reading()
        while len(connection.received) < LOTS:
            await connection.read_some()
        await connection.send(response(body=b"all"))

    async def pour(client: RawClient) -> None:
        nonlocal sent
        await client.send(POST + framing(kind, LOTS) + b"\r\n")
        piece = framed(kind, b"x" * 65536)
        for _ in range(LOTS // 65536):
            await client.send(piece)
            sent += 65536
        if kind == "chunked":
            await client.send(b"0\r\n\r\n")

    async def main() -> None:
        async with ScriptedUpstream(slow) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                pouring = asyncio.ensure_future(pour(client))
                await until(lambda: sent)
                assert await stalled(lambda: sent) < LOTS
                assert held(engine) <= BOUND
                go.set()
                assert (await client.read_response()).body == b"all"
                await pouring

    uvloop.run(main())


def test_pipelined_requests_wait_in_the_kernel_while_one_is_served():
    sent = 0

    async def pour(client: RawClient) -> None:
        nonlocal sent
        while True:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2000)
            sent += 1

    async def main() -> None:
        async with ScriptedUpstream(hold(b"")) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                pouring = asyncio.ensure_future(pour(client))
                await until(lambda: sent)
                await stalled(lambda: sent)
                assert held(engine) <= BOUND
                assert len(engine.seen.started) == 1
                pouring.cancel()
                await asyncio.gather(pouring, return_exceptions=True)
                client.reset()
            await engine.seen.last()

    uvloop.run(main())
