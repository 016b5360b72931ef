"""Other readers of HTTP/1.1: nginx, HAProxy and Envoy in front of an origin that says what it read, and llhttp in this process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import httptools
from corpus_wire import Ear, cut_message
from support.wire import parse_head

from bench import peers

NAMES = ("nginx", "haproxy", "envoy")
QUIET = 3.0
"""Seconds after which a peer that neither answers nor closes is taken to be waiting for more. Only ever hides a difference."""
SENTINEL = b"GET /sentinel HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Read(NamedTuple):
    """One request as somebody read it."""

    method: bytes
    target: bytes
    body: bytes


def read_by(data: bytes) -> Read:
    """A whole request in canonical form, as a record."""
    head, _, body = data.partition(b"\r\n\r\n")
    method, _, rest = head.split(b"\r\n")[0].partition(b" ")  # a peer may have passed on what is no request line
    target = rest.rpartition(b" ")[0]
    if (parse_head(head + b"\r\n\r\n").get("transfer-encoding") or "").lower() == "chunked":
        line, _, rest = body.partition(b"\r\n")
        body = rest[: int(line, 16)]
    return Read(method, target, body)


class Origin:
    """Runs in a thread of its own: keeps what a peer sent it, and answers with `reply`."""

    OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    def __init__(self) -> None:
        self.read: list[Read] = []
        self.reply = self.OK
        self.port = 0
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="origin")

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._over is not None
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        transports: set[asyncio.Transport] = set()
        server = await self._loop.create_server(lambda: _Reading(self, transports), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for transport in list(transports):
            transport.abort()
        await asyncio.sleep(0)


class _Reading(asyncio.Protocol):
    def __init__(self, origin: Origin, transports: set[asyncio.Transport]) -> None:
        self.origin = origin
        self.transports = transports
        self.rx = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.transports.add(self.transport)

    def connection_lost(self, _error: Exception | None) -> None:
        self.transports.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        self.rx += data
        while self.rx:
            part, rest = cut_message(self.rx)
            if not part.complete:
                return
            self.rx = rest
            self.origin.read.append(read_by(part.data))
            self.transport.write(self.origin.reply)


class Peer(NamedTuple):
    """A running proxy and its origin."""

    name: str
    port: int
    origin: Origin


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[Peer]:
    """The peer of that name, serving."""
    found = {peer.name: peer for peer in peers.available(fetch=False)[0]}
    with Origin() as origin, peers.started(found[name], origin.port, folder) as started:
        yield Peer(name, started.port, origin)


def present(name: str) -> bool:
    """Whether the machine has that peer."""
    return any(peer.name == name for peer in peers.available(fetch=False)[0])


async def say(port: int, data: bytes) -> bytes:
    """What a peer answers to these bytes until it closes, or until it has been quiet for long."""
    transport, ear = await asyncio.get_running_loop().create_connection(Ear, "127.0.0.1", port)
    try:
        transport.write(data)
        size = -1
        while size != len(ear.data):
            size = len(ear.data)
            await asyncio.wait([ear.over], timeout=QUIET)
            if ear.over.done():
                break
    finally:
        transport.abort()
    return bytes(ear.data)


async def as_read(peer: Peer, data: bytes) -> list[Read]:
    """What reached the peer's origin of `data` and a sentinel behind it."""
    peer.origin.read.clear()
    await say(peer.port, data + SENTINEL)
    return list(peer.origin.read)


class _Llhttp:
    def __init__(self) -> None:
        self.read: list[Read] = []

    def on_message_begin(self) -> None:
        self.target = self.body = b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.read.append(Read(self.parser.get_method(), self.target, self.body))


def read_by_llhttp(data: bytes) -> list[Read]:
    """The requests that llhttp, strict, reads from `data` and a sentinel behind it, up to its first error or upgrade.

    The message that asks for an upgrade is left out: httptools, not llhttp, ends it with its head.
    """
    reader = _Llhttp()
    reader.parser = httptools.HttpRequestParser(reader)  # type: ignore[attr-defined]
    try:
        reader.parser.feed_data(data + SENTINEL)  # type: ignore[attr-defined]
    except httptools.HttpParserUpgrade:
        return reader.read[:-1]
    except httptools.HttpParserError:
        return reader.read
    return reader.read
