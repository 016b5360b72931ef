"""TLS towards the clients of one port: handshakes with a bound on their number, their time, and their share of the loop."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Final, Protocol

from sidecar.model.reason import Reason, Rejection
from sidecar.model.tls import Handshake, ListenerTls
from sidecar.observe.logs import Event, event
from sidecar.tls.failures import meaning
from sidecar.tls.store import TlsStore
from sidecar.tls.stream import Application, TlsStream

log = logging.getLogger("outrider")

SECONDS: Final = 10.0
"""Longest handshake, from the connection on; `headerTimeout` when that is shorter."""
PENDING_MAX: Final = 1024
"""Handshakes under way. One more, and the oldest is dropped: honest ones are over long before."""
STEPS: Final = 4
"""Handshakes that are taken a step further in one turn of the loop: a step may be a signature, a millisecond with RSA."""
BYTES: Final = 16 * 1024
"""Most that a client may send for its part of a handshake: hellos have hundreds, some 2 KiB with post-quantum keys."""
CERTIFIED_BYTES: Final = 80 * 1024
"""The same where clients are asked for certificates."""
LOG_SECONDS: Final = 60.0
"""The shortest time between two log lines about failures of the same kind."""
_IN_THE_CLEAR: Final = (
    b"HTTP/1.1 400 Bad Request\r\n"
    b'Proxy-Status: outrider; error=http_request_error; details="plain HTTP on a TLS port"\r\n'
    b"Content-Type: application/problem+json\r\nContent-Length: 108\r\nConnection: close\r\n\r\n"
    b'{"type":"about:blank","title":"Bad Request","status":400,"detail":"This port speaks TLS (write https://)"}\r\n'
)
_RESULTS: Final = {
    Reason.TLS_CERTIFICATE_ERROR: Handshake.CERTIFICATE_REFUSED,
    Reason.TLS_ALERT_RECEIVED: Handshake.ALERT_RECEIVED,
    Reason.TLS_PROTOCOL_ERROR: Handshake.PROTOCOL_ERROR,
    Reason.CONNECTION_TERMINATED: Handshake.CLOSED,
}
_NO_CERTIFICATE: Final = "PEER_DID_NOT_RETURN_A_CERTIFICATE"


class _Ended(Exception):
    """A handshake that we ended ourselves."""

    def __init__(self, result: Handshake, words: str) -> None:
        super().__init__(words)
        self.result = result


class Watcher(Protocol):
    """Who wants to know: the observers."""

    def handshake_finished(self, listener: str, result: Handshake) -> None:
        """A client's TLS handshake has ended."""
        ...

    def message_rejected(self, listener: str, kind: Rejection) -> None:
        """Bytes from a client broke a rule."""
        ...


class Handshakes:
    """`released` is called for each connection that never became one; those that did are their application's affair."""

    def __init__(self, name: Callable[[], str], store: TlsStore, watcher: Watcher, released: Callable[[], None]) -> None:
        """`name`: what the listener is called now."""
        self._name = name
        self._store = store
        self._watcher = watcher
        self._released = released
        self._loop = asyncio.get_running_loop()
        self.pending: dict[TlsStream, asyncio.TimerHandle] = {}
        """Those under way, the oldest first."""
        self._ready: dict[TlsStream, None] = {}
        """Those for which bytes have come."""
        self._turn: asyncio.Handle | None = None
        self._said: dict[Handshake, float] = {}
        self._unsaid: dict[Handshake, int] = {}

    def begin(self, application: Application, tls: ListenerTls, header_timeout: float) -> TlsStream:
        """The protocol of a new connection; `application` gets it when the handshake is over."""
        if len(self.pending) >= PENDING_MAX:
            next(iter(self.pending)).refuse(_Ended(Handshake.DROPPED, f"more than {PENDING_MAX} handshakes at once"))
        contexts = self._store.server(tls)
        context = _NOBODY if contexts is None else contexts.default
        done = partial(self._done, missing=contexts is None)
        most = BYTES if context.verify_mode is ssl.CERT_NONE else CERTIFIED_BYTES
        stream = TlsStream(context, application, done, server_side=True, step=self._has_bytes, most=most)
        seconds = min(SECONDS, header_timeout) if header_timeout else SECONDS
        self.pending[stream] = self._loop.call_later(seconds, self._expire, stream, seconds)
        return stream

    def abort(self) -> None:
        """End those that are under way."""
        for stream in list(self.pending):
            stream.abort()

    def _expire(self, stream: TlsStream, seconds: float) -> None:
        stream.refuse(_Ended(Handshake.TIMEOUT, f"no end of the handshake within {seconds:g} s"))

    def _has_bytes(self, stream: TlsStream) -> None:
        self._ready[stream] = None
        if self._turn is None:
            self._turn = self._loop.call_soon(self._advance)

    def _advance(self) -> None:
        """A few of those that wait for their turn, the longest waiting first."""
        self._turn = None
        for stream in list(self._ready)[:STEPS]:
            del self._ready[stream]
            try:
                self._step(stream)
            except Exception:  # a bug of ours costs one client, not those that wait behind it
                log.exception("a handshake broke", extra={"event": Event.INTERNAL_ERROR.value})
                stream.abort()
        if self._ready:
            self._turn = self._loop.call_soon(self._advance)

    def _step(self, stream: TlsStream) -> None:
        if stream.first_bytes[:1].isupper():  # a method: a TLS record begins with 0x16
            stream.refuse(_Ended(Handshake.PLAIN_TEXT, "plain HTTP on a TLS port"), _IN_THE_CLEAR)
        else:
            stream.advance()

    def _done(self, stream: TlsStream, error: Exception | None, *, missing: bool) -> None:
        self._ready.pop(stream, None)
        timer = self.pending.pop(stream, None)
        if timer is not None:
            timer.cancel()
        if error is None:
            self._watcher.handshake_finished(self._name(), Handshake.RESUMED if stream.ssl.session_reused else Handshake.SUCCESS)
            return
        result, words = _judge(error)
        if missing and result is Handshake.PROTOCOL_ERROR:
            result, words = Handshake.NOT_CONFIGURED, "the listener has no certificate yet"
        self._watcher.handshake_finished(self._name(), result)
        if result is Handshake.PLAIN_TEXT:
            self._watcher.message_rejected(self._name(), Rejection.PLAIN_ON_TLS_PORT)
        self._log(result, words, stream)
        if stream.connected:  # else who accepted it has released it
            self._released()

    def _log(self, result: Handshake, words: str, stream: TlsStream) -> None:
        """The first of its kind, then one a minute at most: a scanner must not fill the log."""
        now = monotonic()
        if now - self._said.get(result, -LOG_SECONDS) < LOG_SECONDS:
            self._unsaid[result] = self._unsaid.get(result, 0) + 1
            return
        self._said[result] = now
        peer = stream.get_extra_info("peername")
        event(
            Event.HANDSHAKE_FAILED,
            words,
            level=logging.WARNING if result is Handshake.NOT_CONFIGURED else logging.INFO,
            listener=self._name(),
            result=result.value,
            client=str(peer[0]) if isinstance(peer, tuple) else "",
            unsaid=self._unsaid.pop(result, 0),
        )


_NOBODY: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
"""It has no certificate: whoever comes gets an alert."""


def _judge(error: Exception) -> tuple[Handshake, str]:
    if isinstance(error, _Ended):
        return error.result, str(error)
    if isinstance(error, ssl.SSLError) and error.reason == _NO_CERTIFICATE:
        return Handshake.CERTIFICATE_MISSING, "the client showed no certificate"
    reason, words = meaning(error)
    return _RESULTS[reason], words
