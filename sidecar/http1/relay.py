"""Moving a long body of known length straight from one socket to another: shared buffer in, `os.write` out.

Two copies instead of five, and no task wakes up per piece (performance.md section 2). The source's connection feeds
us from its read callback; only what the destination's socket does not take is copied, with back-pressure.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from sidecar.http1.body import Body
from sidecar.http1.connection import BUFFER, Connection

BULK_MIN: Final = 16 * 1024
"""Unread bytes from which a hand-over pays (64 KiB: 71 against 95 us per request)."""


class BulkBody(ABC):
    """A body source whose remaining bytes may be handed to another connection as they are."""

    __slots__ = ()

    @abstractmethod
    def bulk_left(self) -> int:
        """Bytes that are certain to follow beyond what has been read; 0 when they cannot be handed over."""

    @abstractmethod
    async def relay_to(self, destination: Connection) -> None:
        """Move them. Returns when all have moved, the source has ended, or `destination` is closed."""


class DirectRelay:
    """A Sink that moves `body.bulk_left()` bytes; `done` resolves when all have moved, or an end is gone."""

    __slots__ = ("body", "destination", "done", "left", "moved", "source")

    def __init__(self, body: Body, destination: Connection, left: int, moved: Callable[[int], None]) -> None:
        self.body = body
        self.source = body.connection
        self.destination = destination
        self.left = left
        self.moved = moved
        self.done: asyncio.Future[None] = self.source.loop.create_future()

    def feed(self, size: int) -> None:
        """See Sink: send what belongs to the body, give the rest back."""
        take = min(size, self.left)
        destination = self.destination
        if destination.closed:
            self.source.rx += bytes(BUFFER[:size])  # nothing is lost: the source may have more to say than this body
            self._finish()
            return
        sent = 0
        if not destination.transport.get_write_buffer_size():
            try:
                sent = os.write(destination.fd, BUFFER[:take])
            except OSError:  # full, or broken: its transport will find out, after it has read what the peer said before
                sent = 0
        if sent < take:
            destination.transport.write(bytes(BUFFER[sent:take]))  # a copy: uvloop keeps what it could not send, and BUFFER is used again
        self.left -= take
        self.body.moved(take)
        self.moved(take)
        if not self.left:
            if size > take:
                self.source.rx += bytes(BUFFER[take:size])
            self._finish()

    def ended(self) -> None:
        """See Sink: `body.read` will say whether that was too early."""
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self.detach()

    def detach(self) -> None:
        """Give both connections back to their owners."""
        if self.source.sink is self:
            self.source.sink = None
            self.destination.feeder = None


async def relay_bulk(body: Body, destination: Connection, moved: Callable[[int], None]) -> None:
    """Move what has not arrived yet of `body` to `destination`; `moved` hears of every piece.

    Returns when it is complete, the source has ended (`body.read()` then says which), or `destination` is closed.
    """
    relay = DirectRelay(body, destination, body.bulk_left(), moved)
    source = body.connection
    source.sink, destination.feeder = relay, source
    try:
        if destination.drained is None:
            source.resume_reading()
        else:
            source.pause_reading()
        await relay.done
    finally:
        relay.detach()
        source.resume_reading()
