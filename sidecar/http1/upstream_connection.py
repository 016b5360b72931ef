"""A connection to an endpoint: one exchange at a time, then parked in the pool or closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

from sidecar.errors import BadMessage, PeerGone, ProxyError, StaleConnection, UpstreamError
from sidecar.http1.body import ResponseBody
from sidecar.http1.connection import RX_LIMIT, Connection, reads_are_small
from sidecar.http1.relay import BULK_MIN, BulkBody
from sidecar.http1.stream import RawStream
from sidecar.model.endpoint import Endpoint
from sidecar.model.exchange import Attempt
from sidecar.model.head import CHUNKED, ResponseHead
from sidecar.model.outbound import OutboundRequest
from sidecar.model.reason import Clock, Phase, Reason, Rejection
from sidecar.model.snapshot import HttpProxy
from sidecar.policy.deadline import Deadlines
from sidecar.protocol.chunked import encode_chunk, last_chunk
from sidecar.protocol.head import END_OF_HEAD, parse_response_head, response_looks_wrong, response_overflow
from sidecar.protocol.upgrade import accepted
from sidecar.tasks import create_task
from sidecar.tls.failures import meaning

MAX_HEAD: Final = 64 * 1024
MAX_INTERIM: Final = 16
_SWITCHING: Final = 101
_SEND: Final = Phase.SEND
_HEADERS: Final = Phase.HEADERS
_BODY: Final = Phase.BODY
_RESPONSE_HEADER: Final = Clock.RESPONSE_HEADER
_PROXY_UNAUTHORIZED: Final = 407
Done = Callable[["UpstreamConnection", bool], None]


class UpstreamConnection(Connection):
    """The pool's unit. `parked` while nobody uses it: a server that speaks then is not believed again."""

    __slots__ = ("endpoint", "generation", "idle_since", "on_closed", "parked", "proxied", "requests", "upload")

    endpoint: Endpoint

    def __init__(self) -> None:
        super().__init__()
        self.idle_since = 0.0
        self.requests = 0
        self.generation = 0
        """Of the settings that it was made with; the pool's affair."""
        self.proxied: HttpProxy | None = None
        """The HTTP proxy that it leads to, which is told with each request where that goes."""
        self.parked = False
        self.on_closed: Callable[[UpstreamConnection], None] | None = None
        self.upload: asyncio.Task[object] | None = None

    # -- life in the pool

    def park(self) -> None:
        """Nobody uses this connection for now."""
        self.parked = True
        self.resume_reading()

    def reusable(self) -> bool:
        """Alive, and not a byte has come that nobody asked for.

        The kernel is not asked as well (FIONREAD, 4 % of a request's CPU): a parked connection is always read, and the
        loop runs read callbacks before the tasks of its turn, so only bytes of the last microseconds could be missed;
        those cannot be told from bytes that come just after the request has gone out. Whoever moves bytes past the
        read callback (splice) must ask before parking.
        """
        return not (self.closed or self.eof or self.rx)

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come (asyncio callback)."""
        if self.parked:
            self.abort()  # an answer to nobody must not become the answer to somebody
        else:
            super().buffer_updated(nbytes)

    def eof_received(self) -> bool:
        """The server sent FIN (asyncio callback)."""
        super().eof_received()
        if self.parked:
            self.close()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone (asyncio callback): the pool hears of it once."""
        super().connection_lost(error)
        on_closed, self.on_closed = self.on_closed, None
        if on_closed is not None:
            on_closed(self)

    # -- one exchange

    def begin(self, attempt: Attempt) -> None:
        """Somebody uses this connection again: what the server says now was asked for."""
        self.parked = False
        self.requests += 1
        attempt.phase = _SEND

    async def exchange(
        self,
        request: OutboundRequest,
        attempt: Attempt,
        deadlines: Deadlines,
        on_interim: Callable[[ResponseHead], None],
        on_done: Done,
    ) -> Response:
        """Send `request` and wait for the final head (RFC 9112 section 9).

        `on_done` is called exactly once: when the response is released or aborted, or before this raises.
        """
        self.begin(attempt)
        try:
            if request.length == 0:
                self.send(b"".join(self.render(request)))
                self.sent(request, attempt, deadlines)
            else:
                await self._send_with_body(request, attempt, deadlines)
            head = await self.final_head(request, attempt, deadlines, on_interim)
        except BaseException:
            self.stop_upload()
            self.abort()
            on_done(self, False)
            raise
        attempt.headers_at = monotonic()
        attempt.phase = _BODY
        return Response(self, head, on_done)

    async def _send_with_body(self, request: OutboundRequest, attempt: Attempt, deadlines: Deadlines) -> None:
        """The head and what has come of the body leave in one write; the rest follows as it comes."""
        parts = self.render(request)
        body = request.body
        assert body is not None
        complete = False
        size = 0
        while size < RX_LIMIT and body.ready():
            piece = await body.read()
            size += len(piece)
            if not piece:
                complete = True
                if request.length == CHUNKED:
                    parts.append(last_chunk(body.trailers))
                break
            parts += encode_chunk(piece) if request.length == CHUNKED else (piece,)
        self.send(b"".join(parts))
        if complete:
            self.sent(request, attempt, deadlines)
        else:
            self.upload = create_task(self._pump(request, attempt, deadlines), name="upload")

    def sent(self, request: OutboundRequest, attempt: Attempt, deadlines: Deadlines) -> None:
        """The whole request is on its way: from now on the upstream's silence counts."""
        now = monotonic()
        attempt.sent_at = now
        if attempt.phase is not _SEND:
            return
        attempt.phase = _HEADERS
        timeouts = deadlines.timeouts
        if request.upgrade:
            deadlines.arm_phase(Clock.UPGRADE_HANDSHAKE, now, timeouts.upgrade_handshake)
        else:
            deadlines.arm_phase(_RESPONSE_HEADER, now, timeouts.response_header)

    async def _pump(self, request: OutboundRequest, attempt: Attempt, deadlines: Deadlines) -> None:
        """The upload, beside the wait for the response. What stops it is told to whoever waits for the head."""
        body = request.body
        assert body is not None
        if reads_are_small():
            self.hold_little()
        try:
            await self.drain()
            while piece := await body.read():
                self.send(b"".join(encode_chunk(piece)) if request.length == CHUNKED else piece)
                await self.drain()
                if self.closed:
                    return
                if isinstance(body, BulkBody) and body.bulk_left() > BULK_MIN:
                    await body.relay_to(self)
            if request.length == CHUNKED:
                self.send(last_chunk(body.trailers))
        except (ProxyError, PeerGone) as error:
            if self.closed:  # the upstream has gone, not the client: what it sent before, if anything, says more
                return
            self.failure = error
            if self.sink is not None:
                self.sink.ended()
            self.wake()
            return
        self.upload = None
        self.sent(request, attempt, deadlines)

    def stop_upload(self) -> None:
        """Nothing more of the request is sent."""
        if self.upload is not None:
            self.upload.cancel()
            self.upload = None

    async def final_head(
        self, request: OutboundRequest, attempt: Attempt, deadlines: Deadlines, on_interim: Callable[[ResponseHead], None]
    ) -> ResponseHead:
        """The head of the final response, or of a 101 that was asked for; `on_interim` hears of the ones before it.

        Raises UpstreamError, StaleConnection, or `failure`.
        """
        relayed = 0  # bytes of interim heads: they are not held back for a slow client, so all of them get one head's room
        for interims in range(MAX_INTERIM + 1):
            try:
                if not self.rx and not self.eof:
                    await self.arrival()
                block = self._whole_head() or await self._rest_of_head(attempt, interims)
                head = parse_response_head(block, request.method)
            except BadMessage as error:
                if error is self.failure:  # it was the client's body that broke a rule
                    raise
                raise UpstreamError(error.reason, error.detail, phase=Phase.HEADERS, rejection=error.rejection) from None
            if head.status >= 200:
                deadlines.disarm_phase()
                if head.status == _PROXY_UNAUTHORIZED and self.proxied is not None:  # asks us for credentials, not our client
                    raise UpstreamError(
                        Reason.PROXY_CONFIGURATION_ERROR, "the proxy answered 407 (the credentials of proxyURL)", phase=Phase.HEADERS
                    )
                return head
            if head.status == _SWITCHING:
                return self._switched(request, head, deadlines)
            relayed += head.size
            if interims == MAX_INTERIM or relayed > MAX_HEAD:
                break
            on_interim(head)
        raise UpstreamError(
            Reason.HTTP_PROTOCOL_ERROR, "too many or too large interim responses", phase=Phase.HEADERS, rejection=Rejection.TOO_MANY_INTERIM
        )

    def _switched(self, request: OutboundRequest, head: ResponseHead, deadlines: Deadlines) -> ResponseHead:
        if not request.upgrade or not accepted(request.upgrade, head.upgrade):
            raise UpstreamError(
                Reason.HTTP_UPGRADE_FAILED, "101 that nobody asked for", phase=Phase.HEADERS, rejection=Rejection.UNASKED_UPGRADE
            )
        deadlines.disarm_phase()
        return head

    def _whole_head(self) -> bytes:
        """The next head when all of it has come, else b""."""
        rx = self.rx
        end = rx.find(END_OF_HEAD) + 4
        if end < 4 or self.failure is not None:
            return b""
        self.rx = rx[end:]
        return rx[:end]

    async def _rest_of_head(self, attempt: Attempt, interims: int) -> bytes:
        """A head of which some, or nothing, has come: checked as it grows. Raises UpstreamError, StaleConnection."""
        scanned = 0
        while not (block := self._whole_head()):
            if self.failure is not None:
                raise self.failure
            rx = self.rx
            if rx and (wrong := response_looks_wrong(rx, scanned)) is not None:
                raise wrong
            if len(rx) >= MAX_HEAD:
                raise response_overflow()
            scanned = len(rx)
            if self.eof or self.closed:
                raise self._lost(attempt, interims)
            await self.arrival()
        return block

    def _lost(self, attempt: Attempt, interims: int) -> UpstreamError:
        if self.rx or interims:
            return UpstreamError(Reason.HTTP_RESPONSE_INCOMPLETE, "upstream ended inside its response head", phase=Phase.HEADERS)
        reason, why = (Reason.CONNECTION_TERMINATED, "FIN") if self.error is None else meaning(self.error)
        kind = StaleConnection if attempt.reused else UpstreamError
        return kind(reason, f"upstream closed without a response ({why})", phase=Phase.HEADERS)

    def render(self, request: OutboundRequest) -> list[bytes]:
        """The head of `request` as it goes out here, in pieces."""
        proxy = self.proxied
        return _render(request if proxy is None else _for_proxy(request, proxy, self.endpoint.label.encode("ascii")))

    # -- as one side of a tunnel

    def stream(self) -> RawStream:
        """From now on raw bytes; the connection never goes to a pool."""
        return RawStream(self)


class Response(ResponseBody):
    """Implements InboundResponse (upstream/transport.py); it is its own body, to be one object less per request."""

    __slots__ = ("_done", "_upstream", "head")

    def __init__(self, connection: UpstreamConnection, head: ResponseHead, on_done: Done) -> None:
        super().__init__(connection, head.length)
        self._upstream = connection
        self.head = head
        self._done: Done | None = on_done

    @property
    def body(self) -> Response:
        """The body."""
        return self

    def tunnel(self) -> RawStream:
        """The raw connection after a 101; `abort` or `release` still ends it."""
        return RawStream(self._upstream)

    def release(self) -> None:
        """Keep the connection if both messages are complete and both sides want to go on, else close it."""
        connection = self._upstream
        keep = (
            self.done
            and self.head.keep_alive
            and connection.upload is None
            and self.head.status != _SWITCHING
            and not (connection.rx or connection.eof or connection.closed)
        )
        self._finish(keep=keep)

    def abort(self) -> None:
        """Close the connection now."""
        self._finish(keep=False)

    def _finish(self, *, keep: bool) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        connection = self._upstream
        if not keep:
            connection.stop_upload()
            connection.abort()
        done(connection, keep)


def _for_proxy(request: OutboundRequest, proxy: HttpProxy, authority: bytes) -> OutboundRequest:
    """`request` in absolute-form, with the `Host` that belongs to it (RFC 9112 section 3.2.2)."""
    path = b"" if request.target == b"*" else request.target  # OPTIONS of the whole server (section 3.2.4)
    fields = [(b"Host", b"host", authority), *(field for field in request.fields if field[1] != b"host")]
    own = request.own if proxy.authorization is None else [(b"Proxy-Authorization", proxy.authorization), *request.own]
    asked = OutboundRequest(request.method, b"http://" + authority + path, fields, own, request.length, request.body)
    asked.attempt_own, asked.wants_trailers = request.attempt_own, request.wants_trailers
    return asked


def _render(request: OutboundRequest) -> list[bytes]:
    parts = [request.method, b" ", request.target, b" HTTP/1.1\r\n"]
    for name, _, value in request.fields:
        parts += (name, b": ", value, b"\r\n")
    for name, value in request.own:
        parts += (name, b": ", value, b"\r\n")
    for name, value in request.attempt_own:
        parts += (name, b": ", value, b"\r\n")
    if request.length == CHUNKED:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    if request.upgrade:
        parts += (b"Connection: Upgrade\r\nUpgrade: ", request.upgrade, b"\r\n")
    elif request.wants_trailers:
        parts.append(b"Connection: TE\r\nTE: trailers\r\n")
    parts.append(b"\r\n")
    return parts
