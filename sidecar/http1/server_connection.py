"""A client's connection: reads request heads in order, one at a time, and notices when the client goes away."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Coroutine
from typing import Any, Final

from sidecar.errors import BadMessage, ProxyError
from sidecar.http1.body import RequestBody
from sidecar.http1.connection import Connection
from sidecar.http1.idle import IdleQueue
from sidecar.model.head import RequestHead
from sidecar.model.reason import Clock, Reason, Rejection
from sidecar.protocol.head import END_OF_HEAD, HeadLimits, find_end, looks_wrong, overflow, parse_request_head, skip_empty_lines
from sidecar.tasks import create_task
from sidecar.tls.identity import Identity, identity_of

LINGER_SECONDS = 2.0
LINGER_BYTES: Final = 1024 * 1024
LOOK_SECONDS: Final = 0.1
"""How often a client that we do not read from is looked at: nothing else would tell that it has gone."""
_CRLF: Final = b"\r\n"
_CR: Final = 0x0D
_MAPPED: Final = "::ffff:"
_LINE_SLACK: Final = 64
"""Room for a method and a version beside the target."""


def _plain(address: str) -> str:
    """As everybody else writes it: an IPv4 client of an IPv6 socket is its IPv4 address, and a zone means nothing elsewhere."""
    return address[len(_MAPPED) :] if address.startswith(_MAPPED) and "." in address else address.partition("%")[0]


class ServerSettings:
    """What a listener's connections share. Replaced whole at a reload; a connection reads it anew for each request."""

    __slots__ = ("header_timeout", "idle", "limits", "max_body")

    def __init__(self, limits: HeadLimits, header_timeout: float, max_body: int, idle: IdleQueue) -> None:
        self.limits = limits
        self.header_timeout = header_timeout
        """Seconds from the first byte of a head to its last; 0.0 = off."""
        self.max_body = max_body
        self.idle = idle


class Owner:
    """Who accepts connections: the listener. `handler` runs once per connection and ends with it."""

    __slots__ = ("closed", "connections", "handler", "name", "opened", "settings")

    def __init__(
        self,
        name: str,
        settings: ServerSettings,
        handler: Callable[[ServerConnection], Coroutine[Any, Any, None]],
        opened: Callable[[ServerConnection], None],
        closed: Callable[[ServerConnection], None],
    ) -> None:
        self.name = name
        self.settings = settings
        self.handler = handler
        self.opened = opened
        self.closed = closed
        self.connections: set[ServerConnection] = set()


class ServerConnection(Connection):
    """`busy`: an exchange runs whose answer the client waits for; its leaving then cancels the handler's task."""

    __slots__ = (
        "body",
        "busy",
        "draining",
        "gone",
        "head_coming",
        "head_error",
        "identity",
        "last",
        "leaving",
        "looking",
        "on_lost",
        "owner",
        "peer",
        "peer_port",
        "requests",
        "task",
    )

    def __init__(self, owner: Owner) -> None:
        super().__init__()
        self.owner = owner
        self.peer = "unix"
        """The client's address without port."""
        self.peer_port = 0
        self.identity: Identity | None = None
        """Of the client's certificate, which has been verified; None: it showed none, or was not asked."""
        self.body: RequestBody | None = None
        """Of the current request; None when it has none."""
        self.busy = False
        self.gone = False
        """The client has left while it was waited on."""
        self.draining = False
        """The next response says `Connection: close`."""
        self.leaving = False
        """Nobody waits for a further request: closed when it is idle."""
        self.head_error: ProxyError | None = None
        """Why the head that is coming in pieces is not waited for any longer."""
        self.head_coming = False
        """A head has begun and is waited for."""
        self.last = False
        """The current request said that it is the last: after its FIN the client still waits for the answer."""
        self.requests = 0
        self.looking = False
        """A look at a paused client is due."""
        self.on_lost: Callable[[], None] | None = None
        """Of a tunnel: what the client sent last may be waiting for the other side, so that nobody reads when it goes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected (asyncio callback)."""
        super().connection_made(transport)
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self.peer, self.peer_port = _plain(name[0]), name[1]
        if self.secure:
            self.identity = identity_of(transport.get_extra_info("ssl_object"))
        self.owner.connections.add(self)
        self.owner.opened(self)
        self.task = create_task(self._handle(), name=f"connection {self.owner.name}")

    async def _handle(self) -> None:
        try:
            await self.owner.handler(self)
        finally:
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone (asyncio callback)."""
        super().connection_lost(error)
        self.owner.settings.idle.discard(self)
        self.owner.connections.discard(self)
        self.owner.closed(self)
        self._leave()
        if self.on_lost is not None:
            self.on_lost()

    def eof_received(self) -> bool:
        """The client sent FIN: it has left, unless it said that this request is its last (product.md 3.9)."""
        super().eof_received()
        if not self.last:
            self._leave()
        return True

    def watch(self) -> None:
        """An exchange begins: should the client leave, cancel the handler's task."""
        self.busy = True
        if self.closed or (self.eof and not self.last):
            self._leave()

    def unwatch(self) -> None:
        """The exchange is over; the client's leaving is found by reading."""
        self.busy = False

    def _leave(self) -> None:
        if self.busy:
            self.busy, self.gone = False, True
            self.task.cancel()

    def pause_reading(self) -> None:
        """As Connection; but while nobody reads, the loop does not hear of a FIN or RST either."""
        super().pause_reading()
        self._look_later()

    def _look_later(self) -> None:
        if not self.looking:
            self.looking = True
            self.loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self.looking = False
        if self.reading or self.closed:
            return
        poll = select.poll()
        poll.register(self.fd, select.POLLRDHUP)
        events = poll.poll(0)
        if events and events[0][1] & select.POLLERR:
            self.abort()
            return
        if events and not self.last:
            self._leave()
        self._look_later()

    def idle_expired(self) -> None:
        """Idle for too long, or idle while draining: close without a word."""
        self.close()
        self.wake()

    def drain_soon(self) -> None:
        """Close now when idle, after the current exchange otherwise."""
        self.draining = self.leaving = True
        self.wake()

    async def next_request(self) -> RequestHead | None:
        """The next head, or None when the client is done (or idled too long, or we drain).

        Raises BadMessage when its bytes break a rule, ProxyError when it came too slowly. After either nothing more
        may be read from this connection.
        """
        self.body = None
        block: bytes | None = b""
        while not block:
            while not self.rx:
                if self.closed or self.eof or self.leaving:
                    return None
                idle = self.owner.settings.idle
                idle.add(self)
                await self.arrival()  # cancelled only when the connection ends, and then `connection_lost` takes it out
                idle.discard(self)
            rx = self.rx
            end = rx.find(END_OF_HEAD) + 4
            if end >= 4 and rx[0] != _CR:
                self.rx, block = rx[end:], rx[:end]
            else:
                block = await self._rest_of_head()
                if block is None:
                    return None
        settings = self.owner.settings
        head = parse_request_head(block, settings.limits)
        self.requests += 1
        self.last = not head.keep_alive
        if head.length:
            self._begin_body(head.length, settings.max_body)
        return head

    def _begin_body(self, length: int, limit: int) -> None:
        self.body = body = RequestBody(self, length, limit)
        if limit and length > limit:  # refused by the exchange, so that the refusal is recorded with its request
            detail = f"Content-Length {length} exceeds maxRequestBody"
            body.error = BadMessage(Rejection.BODY_TOO_LARGE, detail, reason=Reason.REQUEST_TOO_LARGE)

    async def _rest_of_head(self) -> bytes | None:
        """A head that has come only in part: on the clock `headerTimeout`, checked as it grows.

        None when the client is done, b"" when nothing but empty lines had come: the connection idles again.
        """
        timer: asyncio.TimerHandle | None = None
        if self.owner.settings.header_timeout:
            timer = self.loop.call_later(self.owner.settings.header_timeout, self._expire_head)
        scanned = 0
        self.head_coming = True
        try:
            while True:
                rx = self.rx
                if scanned == 0 and rx.startswith(_CRLF):
                    rx = self.rx = skip_empty_lines(rx)
                    if not rx:
                        return rx
                end = find_end(rx, max(scanned - 3, 0))
                if end > 0:
                    self.rx = rx[end:]
                    return rx[:end]
                if rx != b"\r":
                    self._refuse_early(rx, scanned)
                    scanned = len(rx)
                if self.closed or self.eof or (self.leaving and not rx):
                    return None
                await self.arrival()
                if self.head_error is not None:
                    raise self.head_error
        finally:
            self.head_coming = False
            if timer is not None:
                timer.cancel()

    def _expire_head(self) -> None:
        self.head_error = ProxyError(Reason.REQUEST_HEADER_TIMEOUT, clock=Clock.HEADER, rejection=Rejection.HEADER_TIMEOUT, reusable=False)
        self.wake()

    def refuse_head(self, error: ProxyError) -> bool:
        """Wait no longer for a head that has begun and is not complete, because of `error`. False: there is none."""
        if not self.head_coming or self.head_error is not None or END_OF_HEAD in self.rx:
            return False
        self.head_error = error
        self.wake()
        return True

    def _refuse_early(self, rx: bytes, scanned: int) -> None:
        """What can no longer become an acceptable head is refused now, not when the clock fires."""
        limits = self.owner.settings.limits
        if len(rx) > limits.max_bytes or (len(rx) > limits.max_target + _LINE_SLACK and _CRLF not in rx):
            raise overflow(rx, limits)
        error = looks_wrong(rx, scanned)
        if error is not None:
            raise error

    async def linger(self) -> None:
        """Close so that the client gets to read our last answer although it is still sending (RFC 9112 section 9.6)."""
        self.send_eof()
        deadline = self.loop.call_later(LINGER_SECONDS, self.idle_expired)  # not a reset: a slow client may still be reading
        dropped = 0
        try:
            while not (self.closed or self.eof) and dropped < LINGER_BYTES:
                dropped += len(self.take(LINGER_BYTES))
                await self.arrival()
        finally:
            deadline.cancel()
            self.close()
