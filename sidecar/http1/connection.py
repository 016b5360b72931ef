"""One TCP (or unix) connection: bytes in with back-pressure, bytes out with back-pressure, one waiter.

The consumer drives: arriving bytes are only kept (`rx`) and the one waiting task is woken; parsing happens in that
task. So awaiting what has already come does not suspend, and errors are raised where they can be handled.
"""

from __future__ import annotations

import asyncio
import mmap
import socket
import struct
from typing import Final, Protocol, cast

from sidecar.errors import PeerGone, ProxyError
from sidecar.model.tls import Secured
from sidecar.tls.spoken import spoken
from sidecar.tls.stream import TlsStream

HEAD_READ: Final = 16 * 1024
"""Small, so that a large body's bytes stay in the kernel until somebody has decided how to move them."""
BULK_READ: Final = 128 * 1024
EAGER_READ: Final = 512 * 1024
"""Of a long body, when its destination surely takes so much at once (http1/relay.py): fewer pieces are cheaper."""
RX_LIMIT: Final = 64 * 1024
"""Reading pauses while more than this is waiting for its consumer."""
STALL_SECONDS = 300.0
"""How long a closed connection waits for its peer to take anything at all; as long as `streamIdle` unless configured."""

# One buffer for the process: uvloop and asyncio call get_buffer, recv and buffer_updated without a gap.
# Anonymous memory: a page that is never read into is never there. Private: workers are forked.
BUFFER: Final = memoryview(mmap.mmap(-1, EAGER_READ, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: close() sends RST
_HEAD_VIEW: Final = BUFFER[:HEAD_READ]
_bulk_view: Final = [BUFFER[:BULK_READ]]
_rx_limit: Final = [RX_LIMIT]
SMALL_READ: Final = 16 * 1024
"""What a long body is read by while memory could run short: what a slow peer does not take of a read is what we hold."""
SMALL_RX: Final = 8 * 1024
"""Instead of `RX_LIMIT` meanwhile."""


def set_bulk_read(size: int) -> None:
    """How much of a long body is read at a time, on every connection: `BULK_READ` or `SMALL_READ`."""
    _bulk_view[0] = BUFFER[:size]
    _rx_limit[0] = RX_LIMIT if size == BULK_READ else SMALL_RX


def reads_are_small() -> bool:
    """Whether long bodies are read by `SMALL_READ` now."""
    return len(_bulk_view[0]) == SMALL_READ


class Sink(Protocol):
    """Takes a connection's incoming bytes instead of `rx`, straight from the shared buffer."""

    def feed(self, size: int) -> None:
        """`size` bytes are in `BUFFER`; they are gone after this call."""
        ...

    def ended(self) -> None:
        """The peer sent FIN, or the connection is lost."""
        ...

    @property
    def awaiting(self) -> bool:
        """It is the connection's peer that is waited for, not where the bytes go."""
        ...

    def held(self) -> int:
        """Bytes of it that its destination has not taken."""
        ...


class Connection:
    """Flow control both ways. `closed` is True from the moment nothing can be written any more.

    It has the methods of asyncio.BufferedProtocol, by which uvloop knows one, and does not inherit from it: compiled, a
    class with an interpreted base keeps its attributes in dictionaries, and each access costs more than it does in Python.
    asyncio's own loop asks for the base class and calls `data_received`.
    """

    __slots__ = (
        "closed",
        "drained",
        "eager",
        "eof",
        "error",
        "failure",
        "fd",
        "feeder",
        "loop",
        "reading",
        "rx",
        "secure",
        "secured",
        "sink",
        "transport",
        "waiter",
    )

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.rx = b""
        self.waiter: asyncio.Future[None] | None = None
        self.drained: asyncio.Future[None] | None = None
        """Pending while the peer is slow to take what was written."""
        self.sink: Sink | None = None
        self.eager = False
        """Its sink takes `EAGER_READ` at a time, and none of it stays with us."""
        self.feeder: Connection | None = None
        """Whose bytes a sink writes here: paused while our peer is slow."""
        self.fd = -1
        self.eof = False
        self.error: Exception | None = None
        """What ended the connection, when it was not a clean close."""
        self.failure: ProxyError | PeerGone | None = None
        """Why it is pointless to wait for more from this peer, when another side of the exchange knows (a failed upload)."""
        self.closed = False
        self.reading = True
        self.secure = False
        """Its transport encrypts: what is written past it, to `fd`, would go out in the clear."""
        self.secured: Secured | None = None
        """What was agreed on for that."""

    # -- bytes in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is ready (asyncio callback)."""
        self.transport = transport  # type: ignore[assignment]  # asyncio's callback is typed for every kind of transport
        sock = transport.get_extra_info("socket")
        self.fd = sock.fileno() if sock is not None else -1
        secured = transport.get_extra_info("ssl_object")
        if secured is not None:
            self.secure, self.secured = True, spoken(secured)

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where the next bytes go (asyncio callback)."""
        if self.sink is None:
            return _HEAD_VIEW
        return BUFFER if self.eager else _bulk_view[0]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come (asyncio callback)."""
        if self.sink is not None:
            self.sink.feed(nbytes)
            return
        data = bytes(BUFFER[:nbytes])
        rx = self.rx
        self.rx = rx = rx + data if rx else data
        if len(rx) >= _rx_limit[0]:
            self.pause_reading()
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Bytes have come, by a loop that does not fill our buffer itself (asyncio callback)."""
        for start in range(0, len(data), BULK_READ):
            piece = data[start : start + BULK_READ]
            BUFFER[: len(piece)] = piece
            self.buffer_updated(len(piece))

    def eof_received(self) -> bool:
        """The peer sent FIN (asyncio callback)."""
        self.eof = True
        if self.sink is not None:
            self.sink.ended()
        self.wake()
        return True  # stay open for writing: who reads decides what a FIN means

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone (asyncio callback, once)."""
        self.error = error
        self.closed = self.eof = True
        if self.sink is not None:
            self.sink.ended()
        self.wake()
        self.resume_writing()

    def wake(self) -> None:
        """Let the waiting consumer look again."""
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def arrival(self) -> asyncio.Future[None]:
        """To be awaited at once: something has changed: bytes, FIN, loss, or `wake`. The caller looks again, whatever it was.

        Cancelled, it stays behind done, which `wake` and the next arrival expect.
        """
        if not self.reading:
            self.resume_reading()
        self.waiter = waiter = self.loop.create_future()
        return waiter

    def take(self, size: int) -> bytes:
        """Remove and return up to `size` bytes that have come; b"" when there are none."""
        rx = self.rx
        if len(rx) <= size:
            self.rx = b""
            return rx
        self.rx = rx[size:]
        return rx[:size]

    def pause_reading(self) -> None:
        """Leave further bytes to the kernel, and so to the peer."""
        if self.reading and not self.closed:
            self.reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on. Harmless on a closed connection (uvloop would raise)."""
        if not self.reading and not self.closed:
            self.reading = True
            self.transport.resume_reading()

    # -- bytes out

    def send(self, data: bytes) -> None:
        """Hand `data` to the transport; a closed connection swallows it (its loss is noticed where bytes are awaited)."""
        if not self.closed:
            self.transport.write(data)

    def pause_writing(self) -> None:
        """Too much is buffered (asyncio callback)."""
        if self.drained is None:
            self.drained = self.loop.create_future()
        if self.feeder is not None:
            self.feeder.pause_reading()

    def resume_writing(self) -> None:
        """The peer took what was buffered (asyncio callback)."""
        drained, self.drained = self.drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)
        if self.feeder is not None:
            self.feeder.resume_reading()

    def hold_little(self) -> None:
        """From now on more than `SMALL_READ` waiting for this peer means that it is slow."""
        if not self.closed:
            self.transport.set_write_buffer_limits(SMALL_READ)

    async def drain(self) -> None:
        """Wait while more is buffered for the peer than it should be."""
        while self.drained is not None and not self.closed:
            await asyncio.shield(self.drained)

    def held(self) -> int:
        """Bytes that wait here: for their consumer, for this peer, and of this peer for another."""
        waiting = len(self.rx) + self.transport.get_write_buffer_size()
        return waiting if self.sink is None else waiting + self.sink.held()

    def send_eof(self) -> None:
        """FIN after everything that has been sent; reading goes on."""
        if not self.closed and self.transport.can_write_eof():
            self.transport.write_eof()

    def close(self) -> None:
        """Send what is buffered, then close; a peer that takes nothing of it for `STALL_SECONDS` gets a reset."""
        if not self.closed:
            self.closed = True
            self.transport.close()
            if left := self.transport.get_write_buffer_size():
                self.loop.call_later(STALL_SECONDS, self._give_up, left)

    def _give_up(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left >= before:
            self.transport.abort()
        elif left:
            self.loop.call_later(STALL_SECONDS, self._give_up, left)

    def abort(self) -> None:
        """Close now. What is buffered is lost; the peer sees a reset, never a clean end (RFC 9112 section 8)."""
        if not self.closed:
            self.closed = True
            if (sock := self.transport.get_extra_info("socket")) is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()


def as_protocol(connection: Connection | TlsStream) -> asyncio.BufferedProtocol:
    """`connection` for a loop's factory, whose type asks for a base class that uvloop does not ask for."""
    return cast("asyncio.BufferedProtocol", connection)
