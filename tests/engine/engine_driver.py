"""Clients and upstreams that the tests of the engine share: raw bytes in chosen pieces, and how a connection ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from support import Connection
from support.wire import parse_head

LIMIT = 30.0
"""Seconds that a connection may take in all."""
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\nHost: a\r\n\r\n"


class Heard(NamedTuple):
    """What a client has received until the connection ended."""

    data: bytes
    ended: str
    """`closed` by FIN or `reset`."""

    @property
    def statuses(self) -> list[int]:
        return [status for status, _ in split_responses(self.data)]


class Talk(asyncio.Protocol):
    """A client's end that keeps everything; `over` resolves when the other side has ended the connection."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.data = bytearray()
        self.over: asyncio.Future[str] = self.loop.create_future()

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> None:
        self._end("closed")

    def connection_lost(self, error: Exception | None) -> None:
        self._end("reset" if error is not None else "closed")

    def _end(self, how: str) -> None:
        if not self.over.done():
            self.over.set_result(how)


async def talk(port: int, *pieces: bytes) -> Heard:
    """Send `pieces` as segments of their own; what came back until the server ended the connection."""
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_connection(Talk, "127.0.0.1", port)
    try:
        for number, piece in enumerate(pieces):
            if number:
                await turns()
            if transport.is_closing():
                break
            transport.write(piece)
        async with asyncio.timeout(LIMIT):
            ended = await client.over
    except TimeoutError:
        ended = "still open"
    finally:
        transport.abort()
    return Heard(bytes(client.data), ended)


async def turns(count: int = 3) -> None:
    """Let the event loop look at its sockets."""
    for _ in range(count):
        await asyncio.sleep(0)


def cut(data: bytes, at: int) -> tuple[bytes, bytes]:
    return data[:at], data[at:]


def each_byte(data: bytes) -> Sequence[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def split_responses(data: bytes) -> list[tuple[int, bytes]]:
    """Status and body of every response in `data`, none of them to HEAD. Fails when one is not complete."""
    found = []
    while data:
        head, mark, rest = data.partition(b"\r\n\r\n")
        assert mark, f"not a whole head: {data!r}"
        message = parse_head(head + mark)
        status = int(message.start.split(b" ")[1])
        if status < 200 or status in (204, 304):
            body, data = b"", rest
        elif (length := message.get("content-length")) is not None:
            body, data = rest[: int(length)], rest[int(length) :]
            assert len(body) == int(length), f"not a whole body: {rest!r}"
        elif message.get("transfer-encoding") == "chunked":
            body, data = split_chunks(rest)
        else:
            body, data = rest, b""
        found.append((status, body))
    return found


def split_chunks(data: bytes) -> tuple[bytes, bytes]:
    """Payload of a chunked body without trailers, and what follows it."""
    payload = b""
    while True:
        line, mark, data = data.partition(b"\r\n")
        assert mark, "no whole chunk line"
        size = int(line, 16)
        if not size:
            assert data.startswith(b"\r\n"), "no end of the chunked body"
            return payload, data[2:]
        assert data[size : size + 2] == b"\r\n", "no whole chunk"
        payload, data = payload + data[:size], data[size + 2 :]


async def swallow(connection: Connection) -> None:
    """A script: read and say nothing. What came is in `connection.received`."""
    while await connection.read_some():
        pass


def hold(data: bytes):
    """A script: after one request send `data`, then say nothing and keep the connection open."""

    async def play(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(data)
        await swallow(connection)

    return play


def finish(data: bytes, *, reset: bool = False):
    """A script: after one request send `data`, then close (or reset)."""

    async def play(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(data)
        if reset:
            connection.reset()

    return play


async def arrived(connection: Connection, data: bytes) -> None:
    """Wait until a script on `connection` has read `data`."""
    async with asyncio.timeout(LIMIT):
        while data not in connection.received:
            await asyncio.sleep(0.001)


async def until(true: Callable[[], object]) -> None:
    """Wait until `true()` is."""
    async with asyncio.timeout(LIMIT):
        while not true():
            await asyncio.sleep(0.001)


async def drip(connection: Connection, pieces: Sequence[bytes]) -> None:
    """Send `pieces` as segments of their own, until the peer has enough."""
    for piece in pieces:
        if connection._writer.transport.is_closing():
            raise ConnectionResetError("the engine has ended the connection")
        await connection.send(piece)
        await turns(2)
