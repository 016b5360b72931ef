"""One TLS connection: a protocol to the loop's transport below, a transport to the connection above (RFC 8446, RFC 5246).

Why not the loops' own: they cannot resume a session, tell a clean end from a cut one, or half-close; they keep 64 to 256 KiB
of buffers for each connection; and a handshake that one of them does cannot wait for its turn. Here bytes pass through two
buffers that the whole process shares, and an idle connection holds on to nothing but its keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final, Protocol

from sidecar.tls.failures import CutShort, TooLong

READ: Final = 64 * 1024
_WAITING_MAX: Final = 16 * 1024
"""More than twice this is not read of what a peer sends before the handshake's next step has been taken."""
# One buffer for the process: loops call get_buffer, recv and buffer_updated without a gap.
_RAW: Final = memoryview(bytearray(READ))
_RAW_BEGIN: Final = _RAW[:_WAITING_MAX]


class Application(Protocol):
    """What is above: http1/connection.py."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is over."""
        ...

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        ...

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        ...

    def eof_received(self) -> bool | None:
        """The peer sent `close_notify`."""
        ...

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        ...

    def pause_writing(self) -> None:
        """Too much is buffered."""
        ...

    def resume_writing(self) -> None:
        """The peer took what was buffered."""
        ...


Done = Callable[["TlsStream", Exception | None], None]
"""Called once, when the handshake has ended: well, with None, after which the application has its connection; or with what went wrong."""
Step = Callable[["TlsStream"], None]


class TlsStream:
    """Made for one connection, as the loop's protocol. `done` hears how the handshake ended, however that was.

    `step`, when given, is called instead of taking the handshake's next step as soon as there are bytes for it, and calls `advance`
    in its own time. `most`, when given, is how many bytes a peer may send for its part of the handshake: OpenSSL keeps what
    belongs to a message that has not ended, up to 128 KiB of it.
    """

    __slots__ = (
        "_application",
        "_closing",
        "_done",
        "_error",
        "_fin",
        "_incoming",
        "_loop",
        "_most",
        "_notified",
        "_open",
        "_outgoing",
        "_raw",
        "_read",
        "_reading",
        "_received",
        "_redelivery",
        "_step",
        "first_bytes",
        "ssl",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        application: Application,
        done: Done,
        *,
        server_side: bool = False,
        server_name: str | None = None,
        session: ssl.SSLSession | None = None,
        step: Step | None = None,
        most: int = 0,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side, server_hostname=server_name, session=session)
        self._read: Callable[[int, memoryview], int] = self.ssl.read  # type: ignore[assignment]  # with a buffer it returns a number
        self._application: Application | None = application
        self._done: Done | None = done
        self._step = step
        self._most = most
        self._received = 0
        """Bytes that have come while the handshake was not over."""
        self._raw: asyncio.Transport | None = None
        self._open = False
        """The handshake is over and nobody has closed: bytes may be written."""
        self._closing = False
        self._reading = True
        self._notified = False
        """The peer's `close_notify` has come."""
        self._fin = False
        """The peer's FIN has come."""
        self._error: Exception | None = None
        self._redelivery: asyncio.Handle | None = None
        self.first_bytes = b""
        """What a peer began with whose handshake failed at once."""

    # -- the protocol of the transport below

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP is there (asyncio callback)."""
        self._raw = transport  # type: ignore[assignment]  # asyncio's callback is typed for every kind of transport
        if not self.ssl.server_side:
            self.advance()

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where the next bytes go (asyncio callback)."""
        return _RAW if self._done is None else _RAW_BEGIN

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come (asyncio callback)."""
        if not nbytes or self._error is not None:
            return
        self._incoming.write(_RAW[:nbytes])
        if self._done is not None:
            self._received += nbytes
            if not self.first_bytes:
                self.first_bytes = bytes(_RAW[: min(nbytes, 8)])
            if self._incoming.pending > _WAITING_MAX and self._raw is not None:
                self._raw.pause_reading()
            if self._step is None:
                self.advance()
            else:
                self._step(self)
        elif self._reading:
            self._deliver()

    def data_received(self, data: bytes) -> None:
        """Bytes have come, by a loop that does not fill our buffer itself (asyncio callback)."""
        for start in range(0, len(data), READ):
            piece = data[start : start + READ]
            _RAW[: len(piece)] = piece
            self.buffer_updated(len(piece))

    def eof_received(self) -> bool:
        """FIN (asyncio callback)."""
        self._fin = True
        if self._done is not None:
            self._fail(ConnectionResetError("the peer closed during the TLS handshake"))
        elif self._reading:
            self._deliver()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """TCP is gone (asyncio callback, once)."""
        self._open = False
        if self._redelivery is not None:
            self._redelivery.cancel()
        application, self._application = self._application, None
        if self._done is not None:
            self._finish(self._error or error or ConnectionResetError("the connection was closed during the TLS handshake"))
        elif application is not None:
            application.connection_lost(self._error or error)
        self._step = None

    def pause_writing(self) -> None:
        """Too much is buffered (asyncio callback)."""
        if self._application is not None and self._done is None:
            self._application.pause_writing()

    def resume_writing(self) -> None:
        """The peer took what was buffered (asyncio callback)."""
        if self._application is not None and self._done is None:
            self._application.resume_writing()

    # -- the handshake

    def advance(self) -> None:
        """Take the handshake as far as what has come allows."""
        if self._done is None or self._error is not None or self._raw is None:
            return
        try:
            self.ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            if self._most and self._received > self._most:
                self._fail(TooLong(f"no end of the handshake in {self._most} bytes"))
            elif not self._raw.is_closing():
                self._raw.resume_reading()
            return
        except (ssl.SSLError, ValueError) as error:
            self._fail(error)
            return
        self._flush()
        self._open = True
        self._raw.resume_reading()
        application = self._application
        assert application is not None
        application.connection_made(self.as_transport())
        self._finish(None)
        if self._reading and (self._incoming.pending or self.ssl.pending()):
            self._deliver()

    @property
    def connected(self) -> bool:
        """TCP has been there."""
        return self._raw is not None

    def as_transport(self) -> asyncio.Transport:
        """This, typed as what asyncio would hand to a protocol."""
        transport: Any = self
        return transport  # type: ignore[no-any-return]  # it has the methods that we call, and no base class

    def _finish(self, error: Exception | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(self, error)

    def _fail(self, error: Exception) -> None:
        """The handshake failed; what there is to say about it (an alert) is said."""
        self._error = error
        raw = self._raw
        if raw is None:
            return
        self._flush()
        if raw.get_write_buffer_size():
            raw.abort()
        else:
            raw.close()

    def refuse(self, error: Exception, answer: bytes = b"") -> None:
        """End a handshake from outside; `answer` goes out in the clear, for a peer that does not speak TLS."""
        if self._raw is None:
            self._finish(error)
        elif self._done is not None:
            if answer:
                self._raw.write(answer)
            if self._error is None:
                self._fail(error)

    # -- bytes in

    def _deliver(self) -> None:
        """Hand on what can be decrypted, while the application reads."""
        more = True
        while more and self._reading and self._application is not None and self._error is None and not self._closing:
            application = self._application
            more = self._read_into(application)
            if self._outgoing.pending:
                self._flush()  # the answer to a KeyUpdate
        if self._fin and self._reading and not self._notified and self._error is None and not self._closing:
            self._break(CutShort("the peer ended the connection without a TLS close_notify"))

    def _read_into(self, application: Application) -> bool:
        """Fill the application's buffer once; whether there may be more."""
        view = application.get_buffer(-1)
        room, size, more, broken = len(view), 0, True, None
        try:
            while size < room:
                came = self._read(room - size, view[size:] if size else view)
                if not came:
                    self._ended(application, size)
                    return False
                size += came
                if not (self._incoming.pending or self.ssl.pending()):
                    more = False
                    break
        except ssl.SSLWantReadError:
            more = False
        except ssl.SSLZeroReturnError:
            self._ended(application, size)
            return False
        except ssl.SSLError as error:
            broken = error
        if size:
            application.buffer_updated(size)
        if broken is not None:
            self._flush()
            self._break(broken)
            return False
        return more

    def _ended(self, application: Application, size: int) -> None:
        """`close_notify` has come, behind `size` bytes."""
        if size:
            application.buffer_updated(size)
        if not self._notified:
            self._notified = True
            application.eof_received()

    def _break(self, error: Exception) -> None:
        """The connection is of no use any more; the application hears of `error` as what ended it."""
        self._error = error
        self._open = False
        if self._raw is not None:
            self._raw.abort()

    def _redeliver(self) -> None:
        self._redelivery = None
        if self._reading and self._raw is not None and not self._closing:
            self._deliver()

    # -- the transport of the application above

    def write(self, data: bytes | memoryview) -> None:
        """Encrypt and send `data`. After the end it is swallowed: the loss is noticed where bytes are awaited."""
        if not self._open or not data:
            return
        try:
            sent = self.ssl.write(data)
            while sent < len(data):
                sent += self.ssl.write(memoryview(data)[sent:])
        except ssl.SSLError as error:
            self._break(error)
            return
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending and self._raw is not None:
            self._raw.write(self._outgoing.read())

    def pause_reading(self) -> None:
        """Leave further bytes to the kernel, and so to the peer."""
        self._reading = False
        if self._raw is not None and not self._raw.is_closing():
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Read on; what is here already is delivered in the loop's next turn, as if it had just come."""
        self._reading = True
        if self._raw is None or self._raw.is_closing():
            return
        self._raw.resume_reading()
        if self._redelivery is None and (self._incoming.pending or self.ssl.pending() or self._fin):
            self._redelivery = self._loop.call_soon(self._redeliver)

    def get_write_buffer_size(self) -> int:
        """Bytes that the socket has not taken yet."""
        return 0 if self._raw is None else self._raw.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As asyncio's TLS transports: `ssl_object`, `sslcontext`, and what the transport below knows."""
        if name == "ssl_object":
            return self.ssl
        if name == "sslcontext":
            return self.ssl.context
        return default if self._raw is None else self._raw.get_extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Of the transport below: what waits there is encrypted already."""
        if self._raw is not None:
            self._raw.set_write_buffer_limits(high, low)

    def is_closing(self) -> bool:
        """Whether nothing can be written any more."""
        return not self._open

    def can_write_eof(self) -> bool:
        """`close_notify` ends one direction (RFC 8446 section 6.1)."""
        return True

    def write_eof(self) -> None:
        """`close_notify` after everything that has been sent; reading goes on."""
        if self._open:
            self._open = False
            self._notify()

    def _notify(self) -> None:
        with contextlib.suppress(ssl.SSLError, ValueError):  # it has sent ours, and nobody waits for the peer's
            self.ssl.unwrap()
        self._flush()

    def close(self) -> None:
        """`close_notify`, then close when everything has been sent."""
        if self._closing or self._raw is None:
            return
        self._closing = True
        if self._open:
            self._open = False
            self._notify()
        self._raw.close()

    def abort(self) -> None:
        """Close now, without a `close_notify`."""
        self._closing, self._open = True, False
        if self._raw is not None:
            self._raw.abort()
