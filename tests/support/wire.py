"""Bytes in and out of one socket with a time limit on every wait; what client and upstream have in common.

The message reading here is naive on purpose and shares nothing with `sidecar.protocol`: a fake must not repeat a bug.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

LIMIT = 64 * 1024 * 1024
DEFAULT_TIMEOUT = 10.0


class TooSlow(AssertionError):
    """The peer did not send what was waited for; the message shows what came instead."""


@dataclass(slots=True)
class Message:
    """A head (start line and fields as received), its body, and the trailers of a chunked one."""

    start: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def get(self, name: str) -> str | None:
        """The first value of a field, None when absent."""
        values = self.get_all(name)
        return values[0] if values else None

    def get_all(self, name: str) -> list[str]:
        """Every value of a field, in order."""
        wanted = name.lower().encode()
        return [value.decode("latin-1") for key, value in self.fields if key.lower() == wanted]


def parse_head(head: bytes) -> Message:
    """`head` ends with an empty line."""
    start, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    return Message(start, parse_fields(lines))


def parse_fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    return [(name, value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines)]


class Wire:
    """One connected stream. Every read has a time limit (seconds) and fails with what had come until then."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._reader = reader
        self._writer = writer
        self._certificate = writer.get_extra_info("peercert")
        self.timeout = timeout
        self.received = bytearray()
        """Every byte that has been read, in order."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def certificate(self) -> dict[str, Any]:
        """The peer's, as `ssl` tells it."""
        return dict(self._certificate or {})

    async def tunnel_to(self, port: int) -> None:
        """Carry bytes between this stream and a loopback port until one of the two ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()

        ways = [asyncio.ensure_future(carry(self._reader, writer)), asyncio.ensure_future(carry(reader, self._writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.close()

    @property
    def local_port(self) -> int:
        """Our own port of a TCP connection."""
        return int(self._writer.get_extra_info("sockname")[1])

    async def send(self, data: bytes, *, piece: int | None = None, pause: float = 0.0) -> None:
        """Write `data` and wait until the kernel took it; `piece` sends so many bytes at a time, `pause` seconds apart."""
        size = piece or len(data) or 1
        for start in range(0, len(data), size):
            if self._writer.is_closing():  # uvloop would raise RuntimeError
                raise ConnectionResetError
            self._writer.write(data[start : start + size])
            await asyncio.wait_for(self._writer.drain(), self.timeout)
            if piece is not None:
                await asyncio.sleep(pause)

    async def read_some(self, limit: int = 65536) -> bytes:
        """What there is, at least one byte; b"" at the end of the stream. Raises ConnectionResetError."""
        data = await self._within(self._reader.read(limit), f"up to {limit} bytes")
        self.received += data
        return data

    async def read_exactly(self, count: int) -> bytes:
        """Raises asyncio.IncompleteReadError when the stream ends before."""
        data = await self._within(self._reader.readexactly(count), f"{count} bytes")
        self.received += data
        return data

    async def read_until(self, mark: bytes) -> bytes:
        """Up to and including `mark`. Raises asyncio.IncompleteReadError when the stream ends before."""
        data = await self._within(self._reader.readuntil(mark), repr(mark))
        self.received += data
        return data

    async def read_until_close(self) -> bytes:
        """Everything up to the peer's FIN. Raises ConnectionResetError when it resets instead."""
        data = await self._within(self._reader.read(), "the end of the stream")
        self.received += data
        return data

    async def read_nothing(self, seconds: float = 0.2) -> None:
        """Fails when a byte or the end of the stream comes within `seconds`."""
        try:
            data = await asyncio.wait_for(self._reader.read(65536), seconds)
        except TimeoutError:
            return
        raise AssertionError(f"expected silence, got {data!r}" if data else "expected silence, the peer closed")

    async def read_head(self) -> Message:
        """A start line and its fields."""
        return parse_head(await self.read_until(b"\r\n\r\n"))

    async def read_body(self, message: Message) -> Message:
        """Fill in the body (and trailers) that `message`'s own fields announce; nothing is read without framing fields."""
        if (message.get("transfer-encoding") or "").lower().endswith("chunked"):
            await self._read_chunks(message)
        elif length := message.get("content-length"):
            message.body = await self.read_exactly(int(length))
        return message

    def half_close(self) -> None:
        """FIN: nothing more is sent, reading goes on."""
        self._writer.write_eof()

    def reset(self) -> None:
        """RST instead of a clean end; unsent bytes are lost. Harmless when the connection is gone."""
        if (sock := self._writer.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close and wait until it is; harmless when the connection is gone."""
        self._writer.close()
        try:
            await asyncio.wait_for(self._writer.wait_closed(), self.timeout)
        except OSError:
            return

    async def _read_chunks(self, message: Message) -> None:
        while size := int((await self.read_until(b"\r\n")).split(b";")[0], 16):
            message.body += (await self.read_exactly(size + 2))[:-2]
        while (line := await self.read_until(b"\r\n")) != b"\r\n":
            message.trailers += parse_fields([line.removesuffix(b"\r\n")])

    async def _within(self, reading: Coroutine[None, None, bytes], wanted: str) -> bytes:
        try:
            return await asyncio.wait_for(reading, self.timeout)
        except TimeoutError:
            tail = bytes(self.received[-400:])
            raise TooSlow(f"waited {self.timeout} s for {wanted}; read before: {tail!r}") from None
