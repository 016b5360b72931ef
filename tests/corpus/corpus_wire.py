"""What the corpus' lanes have in common: a client that hears everything, messages cut out of bytes, patterns of what may pass."""

from __future__ import annotations

import asyncio
import re
from ssl import SSLContext
from typing import NamedTuple

from corpus_data import to_bytes
from support.wire import parse_head

ID = "@@id@@"
LIMIT = 60.0
"""Seconds that a connection may take in all: never what is tested, only how long a hang takes to be one."""
UUID = rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
PROBE = b"GET /probe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
GOOD = b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n"


class Heard(NamedTuple):
    """What a client received, and how its connection ended: `closed`, `reset` or `hangs`."""

    data: bytes
    ended: str


class Ear(asyncio.Protocol):
    """A client's end: keeps what it hears; `over` resolves when the other side has ended the connection."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.data += data

    async def wait_for(self, heads: int) -> None:
        async with asyncio.timeout(LIMIT):
            while self.data.count(b"\r\n\r\n") < heads and not self.over.done():
                await asyncio.sleep(0.001)

    def eof_received(self) -> None:
        self._end("closed")

    def connection_lost(self, error: Exception | None) -> None:
        self._end("reset" if error is not None else "closed")

    def _end(self, how: str) -> None:
        if not self.over.done():
            self.over.set_result(how)


async def turns(count: int = 2) -> None:
    """Let the event loop look at its sockets, so that what was written becomes a segment of its own."""
    for _ in range(count):
        await asyncio.sleep(0)


async def talk(port: int, pieces: list[bytes], *, fin: bool = False, after: int = 0, ssl: SSLContext | None = None) -> Heard:
    """Send the pieces as segments of their own, hear until the other side ends the connection.

    `fin`: send a FIN as well, once `after` heads of answers have come. `ssl`: speak TLS.
    """
    transport, ear = await asyncio.get_running_loop().create_connection(Ear, "127.0.0.1", port, ssl=ssl)
    try:
        for number, piece in enumerate(pieces):
            if number:
                await turns()
            if transport.is_closing() or ear.over.done():
                break
            transport.write(piece)
        if fin and not transport.is_closing():
            await turns()
            await ear.wait_for(after)
            if not transport.is_closing():
                transport.write_eof()
        async with asyncio.timeout(LIMIT):
            ended = await ear.over
    except TimeoutError:
        ended = "hangs"
    finally:
        transport.abort()
    return Heard(bytes(ear.data), ended)


class Part(NamedTuple):
    """One message cut out of a stream: its first line, its canonical bytes (chunks joined to one), whether it was complete."""

    start: bytes
    data: bytes
    complete: bool


def cut_message(data: bytes, *, bodiless: bool = False) -> tuple[Part, bytes]:
    """The first message in `data` and what follows it; naive, and nothing of it shared with what is tested."""
    block, mark, rest = data.partition(b"\r\n\r\n")
    start = block.partition(b"\r\n")[0]
    if not mark:
        return Part(start, data, complete=False), b""
    head = block + mark
    message = parse_head(head)
    if bodiless:
        return Part(start, head, complete=True), rest
    if (message.get("transfer-encoding") or "").lower() == "chunked":
        return _cut_chunked(start, head, rest)
    if (length := message.get("content-length")) is not None:
        size = int(length)
        return Part(start, head + rest[:size], complete=len(rest) >= size), rest[size:]
    return Part(start, head, complete=True), rest


def _cut_chunked(start: bytes, head: bytes, rest: bytes) -> tuple[Part, bytes]:
    payload = b""
    while True:
        line, mark, rest = rest.partition(b"\r\n")
        if not mark:
            return Part(start, head + payload, complete=False), b""
        size = int(line, 16)
        if not size:
            break
        if len(rest) < size + 2:
            return Part(start, head + payload, complete=False), b""
        assert rest[size : size + 2] == b"\r\n", "what we send is chunked well"
        payload, rest = payload + rest[:size], rest[size + 2 :]
    coded = b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""
    trailers = b"\r\n"
    while not rest.startswith(b"\r\n"):
        line, mark, rest = rest.partition(b"\r\n")
        if not mark:
            return Part(start, head + payload, complete=False), b""
        trailers = trailers[:-2] + line + b"\r\n\r\n"
    return Part(start, head + coded + b"0\r\n" + trailers, complete=True), rest[2:]


def _own_lines(host: str, minor: str = "1") -> str:
    named = f"X-Forwarded-Host: {host}\r\n" if host else ""
    return f"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n{named}X-Real-IP: 127.0.0.1\r\nVia: 1.{minor} outrider\r\nx-request-id: {ID}\r\n"


def expand(text: str) -> bytes:
    """Bytes of an expected message, its marks filled in.

    `⟨own⟩`: the lines that we add to a request for Host `a`; `⟨own:HOST⟩`: for another, or none; `⟨own10⟩`: to an HTTP/1.0 one;
    `⟨via⟩`: what we add to a response; `⟨id⟩`: an id that is made anew.
    """
    text = text.replace("⟨own10⟩", _own_lines("a", "0") if "Host: a\r" in text else _own_lines("", "0"))
    text = re.sub("⟨own(?::([^⟩]*))?⟩", lambda match: _own_lines("a" if match[1] is None else match[1]), text)
    return to_bytes(text.replace("⟨via⟩", "Via: 1.1 outrider\r\n").replace("⟨id⟩", ID))


def matches(expected: bytes, data: bytes) -> bool:
    """Whether `data` is `expected`, byte for byte but for ids that are made anew."""
    if ID.encode() not in expected:
        return expected == data
    return re.fullmatch(re.escape(expected).replace(ID.encode(), UUID), data, re.DOTALL) is not None
