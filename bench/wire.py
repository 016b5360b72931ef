"""What origin and load generator share: one protocol that reads heads and counts bodies in a buffer of its own."""

from __future__ import annotations

import asyncio
import re
import resource
from typing import cast

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
PIECE = b"x" * 262_144
PAUSE_EACH = 4 * 1024 * 1024
PAUSE = 0.02
"""A slow reader stops for so many seconds after each `PAUSE_EACH` bytes."""


class Messages(asyncio.BufferedProtocol):
    """Calls `on_head(head, length)` and, once its `length` body bytes have come, `on_end()`. Bodies are counted, not kept."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._buffer = bytearray(262_144)
        self._view = memoryview(self._buffer)
        self._head = b""
        self._body_left = 0
        self._in_body = False
        self._to_send = 0
        self._paused = False
        self.slow = False
        self._since_pause = 0
        self.received = 0

    def on_head(self, head: bytes, length: int) -> None:
        raise NotImplementedError

    def on_end(self) -> None:
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # the interface's
        return self._view

    def buffer_updated(self, count: int) -> None:
        self.received += count
        start = 0
        while start < count:
            start += self._take_body(count - start) if self._in_body else self._take_head(start, count)
        if self.slow:
            self._read_slowly(count)

    def send_body(self, length: int) -> None:
        """Stream `length` bytes, as fast as the transport wants them."""
        self._to_send = length
        self._fill()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._fill()

    def _fill(self) -> None:
        while self._to_send and not self._paused and not self.transport.is_closing():
            piece = PIECE if self._to_send >= len(PIECE) else PIECE[: self._to_send]
            self._to_send -= len(piece)
            self.transport.write(piece)

    def _take_head(self, start: int, end: int) -> int:
        data = self._head + bytes(self._view[start:end])
        at = data.find(b"\r\n\r\n")
        if at < 0:
            self._head = data
            return end - start
        used = at + 4 - len(self._head)
        head, self._head = data[: at + 4], b""
        found = LENGTH.search(head)
        self._body_left = int(found[1]) if found else 0
        self._in_body = True
        self.on_head(head, self._body_left)
        self._end_if_complete()
        return used

    def _take_body(self, there: int) -> int:
        used = min(there, self._body_left)
        self._body_left -= used
        self._end_if_complete()
        return used

    def _end_if_complete(self) -> None:
        if not self._body_left:
            self._in_body = False
            self.on_end()

    def _read_slowly(self, count: int) -> None:
        self._since_pause += count
        if self._since_pause >= PAUSE_EACH and not self.transport.is_closing():
            self._since_pause = 0
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(PAUSE, self._go_on)

    def _go_on(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()


def raise_descriptor_limit() -> None:
    """As many descriptors as the machine allows this process."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
