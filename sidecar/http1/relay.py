"""Moving a long body of known length straight from one socket to another, past the task that serves the exchange.

Very long ones between plain sockets stay in the kernel (http1/splice.py). The others pass one shared buffer, `os.write` out:
two copies instead of five, and no task wakes up per piece. The source's connection feeds us from its read callback;
only what the destination's socket does not take is copied, with back-pressure.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from sidecar.http1.body import Body
from sidecar.http1.connection import BUFFER, BULK_READ, EAGER_READ, Connection, reads_are_small
from sidecar.http1.splice import SPLICE_MIN, splice_body

BULK_MIN: Final = 16 * 1024
"""Unread bytes from which a hand-over pays (64 KiB: 71 against 95 us per request)."""


_ROOM: Final = EAGER_READ + EAGER_READ // 4
"""Of a send buffer, which counts what the kernel spends on the bytes as well."""
_MEMINFO: Final = struct.Struct("9I")
_SO_MEMINFO: Final = 55
_SNDBUF, _WMEM_QUEUED = 3, 5


def send_room(connection: Connection) -> int:
    """Bytes of memory that are free in its socket's send buffer; 0 where the kernel does not say (SO_MEMINFO, linux/sock_diag.h)."""
    sock = connection.transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return 0
    try:
        said = _MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
    except (OSError, struct.error):
        return 0
    room: int = said[_SNDBUF] - said[_WMEM_QUEUED]
    return max(room, 0)


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
        if destination.secure:
            destination.transport.write(BUFFER[:take])  # encrypted at once, so there is nothing to copy
        else:
            self._write(take)
        self.left -= take
        self.body.moved(take)
        self.moved(take)
        self.source.eager = take >= BULK_READ and self._has_room()
        if not self.left:
            if size > take:
                self.source.rx += bytes(BUFFER[take:size])
            self._finish()

    def _write(self, take: int) -> None:
        destination = self.destination
        sent = 0
        if not destination.transport.get_write_buffer_size():
            try:
                sent = os.write(destination.fd, BUFFER[:take])
            except OSError:  # full, or broken: its transport will find out, after it has read what the peer said before
                sent = 0
        if sent < take:
            destination.transport.write(bytes(BUFFER[sent:take]))  # a copy: uvloop keeps what it could not send, and BUFFER is used again

    def _has_room(self) -> bool:
        """Whether the destination's socket surely takes `EAGER_READ` now: what it does not take is what we hold (decision 0023)."""
        destination = self.destination
        if destination.secure or destination.closed or reads_are_small() or destination.transport.get_write_buffer_size():
            return False
        return send_room(destination) >= _ROOM

    def ended(self) -> None:
        """See Sink: `body.read` will say whether that was too early."""
        self._finish()

    @property
    def awaiting(self) -> bool:
        """See Sink."""
        return self.source.reading

    def held(self) -> int:
        """See Sink."""
        return self.destination.transport.get_write_buffer_size()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self.detach()

    def detach(self) -> None:
        """Give both connections back to their owners."""
        self.source.eager = False
        if self.source.sink is self:
            self.source.sink = None
            self.destination.feeder = None


async def relay_bulk(body: Body, destination: Connection, moved: Callable[[int], None]) -> None:
    """Move what has not arrived yet of `body` to `destination`; `moved` hears of every piece, perhaps with 0: progress, not bytes.

    Returns when it is complete, the source has ended (`body.read()` then says which), or `destination` is closed.
    """
    if (
        body.bulk_left() > SPLICE_MIN and not reads_are_small() and await splice_body(body, destination, moved)
    ):  # full pipes are memory, too
        return
    left = body.bulk_left()
    if not left or destination.closed:
        return
    relay = DirectRelay(body, destination, left, moved)
    source = body.connection
    source.sink, destination.feeder = relay, source
    if reads_are_small():
        destination.hold_little()
    try:
        if destination.drained is None:
            source.resume_reading()
        else:
            source.pause_reading()
        await relay.done
    finally:
        relay.detach()
        source.resume_reading()
