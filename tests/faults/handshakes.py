"""Scripts of an upstream that speaks TLS, and spoils the handshake in its own way: `Secured` is a server of which every byte is at hand."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from faults.rig import read_on
from support.certificates import issue
from support.tls import CA, LOCAL, server
from support.upstream import Connection, Script

ALERT: Final = b"\x15\x03\x03\x00\x02\x02\x28"
"""A record (RFC 8446 section 5.1) with the alert handshake_failure, fatal."""
PLAIN: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
LONG_HELLO: Final = b"\x16\x03\x03\x40\x00\x02\xff\xff\xff" + bytes(16380)
"""A full record, the first of a ServerHello that says it is 16 MiB long."""
_RECORD: Final = b"\x16\x03\x03\x40\x00" + bytes(16384)
_OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_GOOD: Final = server(LOCAL)
_EXPIRED: Final = server(issue(CA, "late", hosts=["127.0.0.1"], valid=(-48, -1)))


class Secured:
    """The server's side of one connection."""

    def __init__(self, connection: Connection, context: ssl.SSLContext = _GOOD) -> None:
        self._connection = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def flight(self) -> bytes:
        """Take the ClientHello. Returns what it is to be answered with, which has not been sent."""
        while not self._outgoing.pending:
            await self._take()
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                continue
        return self._outgoing.read()

    async def shake(self) -> None:
        """All of the handshake, or the rest of it. Raises ssl.SSLError."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._take()
            else:
                await self._flush()
                return

    async def serve(self) -> None:
        """Answer one request after the other."""
        heard = b""
        while True:
            try:
                came = self._tls.read(65536)
            except ssl.SSLWantReadError:
                await self._take()
                continue
            if not came:
                return
            heard += came
            if b"\r\n\r\n" in heard:
                heard = b""
                self._tls.write(_OK)
                await self._flush()

    async def _take(self) -> None:
        if not (data := await self._connection.read_some()):
            raise asyncio.IncompleteReadError(b"", None)
        self._incoming.write(data)

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._connection.send(self._outgoing.read())


def _left(connection: Connection) -> bool:
    """The peer has gone: uvloop takes no more bytes for it."""
    return connection._writer.is_closing()


def after_hello(*steps: bytes | Script) -> Script:
    """Take the ClientHello, then send bytes and play scripts in turn."""

    async def play(connection: Connection) -> None:
        await Secured(connection).flight()
        for step in steps:
            await (connection.send(step) if isinstance(step, bytes) else step(connection))
        await read_on(connection)

    return play


def with_flight(spoil: Script, *, keep: int | None = None) -> Script:
    """Answer the ClientHello with the first `keep` bytes of what it should be answered with, then `spoil`."""

    async def play(connection: Connection) -> None:
        flight = await Secured(connection).flight()
        await connection.send(flight[:keep])
        await spoil(connection)
        await read_on(connection)

    return play


async def drips_its_flight(connection: Connection) -> None:
    """The right answer, a byte every 20 ms: half a minute of it."""
    flight = await Secured(connection).flight()
    for at in range(len(flight)):
        if _left(connection):
            return
        await connection.send(flight[at : at + 1])
        await asyncio.sleep(0.02)


async def never_ends_its_hello(connection: Connection) -> None:
    """A ServerHello of 16 MiB; a peer that takes it all has no bound."""
    await Secured(connection).flight()
    await connection.send(LONG_HELLO)
    for _ in range(1023):
        if _left(connection):
            return
        await connection.send(_RECORD)
    raise AssertionError("all of it was taken")


async def shows_an_expired_certificate(connection: Connection) -> None:
    secured = Secured(connection, _EXPIRED)
    try:
        await secured.shake()
    except ssl.SSLError as error:
        assert "alert" in str(error).lower(), "it is told"  # noqa: PT017  # not the error that is expected: what it says
    else:
        raise AssertionError("the certificate was accepted")
    await read_on(connection)


def shakes_after(wait: Script) -> Script:
    """Take the ClientHello, `wait`, then go on as one should."""

    async def play(connection: Connection) -> None:
        secured = Secured(connection)
        flight = await secured.flight()
        await wait(connection)
        await connection.send(flight)
        await secured.shake()
        await secured.serve()

    return play
