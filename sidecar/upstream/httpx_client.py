"""HttpxTransport: `client: Httpx`, HTTP/1.1. A client of httpx, with httpcore's HTTP/1.1 over connections of ours.

What is given to httpx and httpcore, and what is kept from them, guards against things that httpx 0.28 and httpcore 1.0
do; tests/contract/test_httpx_defects.py shows each of them, and fails when a release has mended it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from http.cookiejar import CookieJar, DefaultCookiePolicy
from time import monotonic
from typing import Final

import anyio._backends._asyncio  # noqa: F401 - anyio would import it in the event loop, at the first request
import httpcore
import httpx

from sidecar.errors import OutriderError, UpstreamError
from sidecar.http1.upstream_connection import Done, Response, UpstreamConnection
from sidecar.model.endpoint import Endpoint
from sidecar.model.exchange import Attempt
from sidecar.model.head import CHUNKED, UNTIL_CLOSE, ResponseHead
from sidecar.model.outbound import OutboundRequest
from sidecar.model.reason import Phase, Reason
from sidecar.model.snapshot import Upstream
from sidecar.observe.observer import Observer
from sidecar.policy.deadline import Deadlines
from sidecar.tasks import create_task
from sidecar.upstream.guest import GuestBody, GuestResponse, Incoming, Wire, answered, framed
from sidecar.upstream.native import Addresses, ConnectFailed, PooledTransport, Secure, in_the_clear
from sidecar.upstream.transport import InboundResponse

Exchange = Callable[[httpx.Request], Awaitable[httpx.Response]]

_EXCHANGE: Final = "outrider"
_HIDDEN: Final = frozenset((b"set-cookie", b"location"))
_ORIGIN: Final = httpcore.URL(scheme=b"http", host=b"upstream", port=80, target=b"/")


class HttpxBridge(httpx.AsyncBaseTransport):
    """httpx's own interface to transports: each request brings the exchange that carries it.

    httpx's own transport is not used: its pool looks at all requests and connections at each event, has a queue without
    bound, and keeps no limit per host.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx.AsyncBaseTransport."""
        exchange: Exchange = request.extensions[_EXCHANGE]
        return await exchange(request)


def new_client() -> httpx.AsyncClient:
    """No redirects, no clocks but ours, nothing of the environment, and no cookies: httpx keeps those of all answers for ever."""
    client = httpx.AsyncClient(transport=HttpxBridge(), trust_env=False, follow_redirects=False, timeout=None)  # noqa: S113 - ours count
    client.cookies = httpx.Cookies(CookieJar(DefaultCookiePolicy(allowed_domains=())))
    return client


def httpx_request(endpoint: Endpoint, request: OutboundRequest, body: AsyncIterator[bytes] | None, exchange: Exchange) -> httpx.Request:
    """What httpx carries. Its headers are for httpx's hooks: what goes out is `request`, which no default of httpx can add to."""
    scheme = "https" if endpoint.tls else "http"
    authority = "localhost" if endpoint.unix_path else endpoint.label
    fields = [(name, value) for name, _, value in request.fields] + request.own + request.attempt_own
    extensions = {"target": request.target, _EXCHANGE: exchange}
    return httpx.Request(
        request.method.decode("latin-1"), f"{scheme}://{authority}/", headers=fields, stream=Upload(body), extensions=extensions
    )


def httpx_response(head: ResponseHead, stream: httpx.AsyncByteStream) -> httpx.Response:
    """What httpx hears: without `Location`, which it reads whether or not it is to follow it, and fails when it is not a URL."""
    headers = [(name, value) for name, lower, value in head.fields if lower not in _HIDDEN]
    return httpx.Response(head.status, headers=headers, stream=stream, extensions={"reason_phrase": head.reason})


class Upload(httpx.AsyncByteStream):
    """A request's body, None: there is none."""

    def __init__(self, pieces: AsyncIterator[bytes] | None) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._pieces is not None:
            async for piece in self._pieces:
                yield piece


class HttpxTransport(PooledTransport):
    """Sends requests to the endpoints of one upstream with httpx, over HTTP/1.1."""

    def __init__(
        self, config: Upstream, addresses: Addresses, observer: Observer, connect_failed: ConnectFailed, secure: Secure = in_the_clear
    ) -> None:
        super().__init__(config, addresses, observer, connect_failed, secure)
        self._client = new_client()  # holds no socket, so it need not be closed: exchanges that began before a reload still use it

    async def _exchange(
        self,
        connection: UpstreamConnection,
        request: OutboundRequest,
        attempt: Attempt,
        deadlines: Deadlines,
        on_interim: Callable[[ResponseHead], None],
        done: Done,
    ) -> InboundResponse:
        exchange = _Exchange(HttpxWire(connection, request, attempt, deadlines), deadlines, on_interim, done)
        answer = await self._client.send(httpx_request(connection.endpoint, request, None, exchange.run), stream=True)
        assert exchange.native is not None
        return HttpxResponse(exchange.native, HttpxBody(exchange.native, answer), exchange)


make = HttpxTransport


class _Exchange:
    """One request on one connection, below httpx."""

    def __init__(
        self,
        wire: HttpxWire,
        deadlines: Deadlines,
        on_interim: Callable[[ResponseHead], None],
        on_done: Done,
    ) -> None:
        self.wire = wire
        self._deadlines = deadlines
        self._on_interim = on_interim
        self._on_done = on_done
        self.native: Response | None = None
        wire.connection.begin(wire.attempt)
        self.asking = create_task(_ask(wire), name="httpcore request")

    async def run(self, _request: httpx.Request) -> httpx.Response:
        """Httpx's answer. Raises as Transport.send; the connection has then been given back."""
        wire = self.wire
        connection, attempt = wire.connection, wire.attempt
        if wire.uploading:
            connection.upload = self.asking
        try:
            # Heads, interim ones too, are read here because httpcore drops interim responses and trailers.
            head = await connection.final_head(wire.request, attempt, self._deadlines, self._on_interim)
            attempt.headers_at, attempt.phase = monotonic(), Phase.BODY
            self.native = native = Response(connection, head, self._on_done)
            if wire.uploading or head.status < 200:
                # httpcore reads no response before it has sent the whole request: the answer goes past it.
                return httpx_response(head, _Past(native))
            wire.hear(native)
            answer = await answered(self.asking, connection)
        except BaseException:
            self.asking.cancel()
            if self.native is not None:
                self.native.abort()
            else:
                connection.stop_upload()
                connection.abort()
                self._on_done(connection, False)
            raise
        return httpx_response(head, _Through(answer))


async def _ask(wire: HttpxWire) -> httpcore.Response | None:
    """Httpcore's answer; None when it failed and whoever waits has been told.

    It hears of no more than the framing: h11 has its own opinion of targets and fields, and wants a Host also of those
    who forward a request without one.
    """
    request = wire.request
    headers = [(b"Host", b"upstream")]
    if request.length == CHUNKED:
        headers.append((b"Transfer-Encoding", b"chunked"))
    elif request.length:
        headers.append((b"Content-Length", b"%d" % request.length))
    body = wire.pieces() if wire.uploading else None
    try:
        connection = httpcore.AsyncHTTP11Connection(_ORIGIN.origin, _Stream(wire))
        return await connection.handle_async_request(httpcore.Request(request.method, _ORIGIN, headers=headers, content=Upload(body)))
    except Exception as error:  # noqa: BLE001 - whatever httpcore raises ends the exchange, not us
        wire.guest_failed(error)
        return None


class HttpxWire(Wire):
    """With what httpcore reads: it asks, and what it has not asked for stays with the peer."""

    def __init__(self, connection: UpstreamConnection, request: OutboundRequest, attempt: Attempt, deadlines: Deadlines) -> None:
        super().__init__(connection, request, attempt, deadlines)
        self._response: asyncio.Future[Response] = connection.loop.create_future()
        self._head_heard = False

    def hear(self, native: Response) -> None:
        """The head has come: httpcore may read."""
        self._response.set_result(native)

    async def read(self) -> bytes:
        """What httpcore takes for the connection's bytes: a head with nothing but framing, then the body."""
        native = await self._response
        if not self._head_heard:
            self._head_heard = True
            return _framing_head(native.head)
        return framed(native, await native.read())


def _framing_head(head: ResponseHead) -> bytes:
    """The status line and the body's framing, all that h11 needs to know."""
    lines = b"HTTP/1.1 %d \r\n" % head.status
    if head.length == CHUNKED:
        lines += b"Transfer-Encoding: chunked\r\n"
    elif head.length != UNTIL_CLOSE:
        lines += b"Content-Length: %d\r\n" % head.length
    return lines + b"\r\n"


class _Stream(httpcore.AsyncNetworkStream):
    """What httpcore takes for the socket. It cannot close the connection: the pool decides."""

    def __init__(self, wire: HttpxWire) -> None:
        self._wire = wire

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002, ASYNC109 - httpcore's signature
        """See httpcore.AsyncNetworkStream."""
        return await self._wire.read()

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109 - httpcore's signature
        """See httpcore.AsyncNetworkStream."""
        self._wire.write(buffer)

    async def aclose(self) -> None:
        """Nothing: see above."""


class _Past(httpx.AsyncByteStream):
    """A response that httpcore does not get to see."""

    def __init__(self, native: Response) -> None:
        self._native = native

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self._native.read():
            yield piece


class _Through(httpx.AsyncByteStream):
    """A response that httpcore reads."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._answer.aiter_stream():
            yield piece


class HttpxBody(GuestBody):
    """What httpx hands on, as it came: not decompressed."""

    def __init__(self, native: Incoming, answer: httpx.Response) -> None:
        super().__init__(native)
        self._pieces = answer.aiter_raw()
        self._begun = False

    async def read(self) -> bytes:
        """The next piece. Raises UpstreamError."""
        self._begun = True
        try:
            return await anext(self._pieces, b"")
        except (httpcore.ProtocolError, httpx.HTTPError) as error:
            raise UpstreamError(Reason.HTTP_PROTOCOL_ERROR, f"httpx: {error}", phase=Phase.BODY) from None

    def unwind(self) -> None:
        """The body is given up, and reading from below fails: let the generators of httpx and httpcore, one in the other, end.

        Left alone they end when they are collected, each in a task of the event loop's that nobody knows.
        """
        if self._begun:
            self._unwinding = create_task(_to_its_end(self._pieces), name="httpx response given up")


async def _to_its_end(pieces: AsyncIterator[bytes]) -> None:
    with contextlib.suppress(OutriderError, httpcore.ProtocolError, httpx.HTTPError):
        while await anext(pieces, b""):
            pass


class HttpxResponse(GuestResponse):
    """A response that httpx hands on."""

    def __init__(self, native: Response, body: HttpxBody, exchange: _Exchange) -> None:
        super().__init__(native, body)
        self._body = body
        self._exchange = exchange
        self._given_up = False

    def _dismiss(self) -> None:
        self._exchange.asking.cancel()  # waits for a response that went past it, or still sends

    def release(self) -> None:
        """See InboundResponse."""
        super().release()
        self._unwind()

    def abort(self) -> None:
        """See InboundResponse."""
        super().abort()
        self._unwind()

    def _unwind(self) -> None:
        connection = self._exchange.wire.connection
        if not self._body.native.done and not self._given_up:
            self._given_up = True
            if connection.failure is None:
                connection.failure = UpstreamError(Reason.CONNECTION_TERMINATED, "given up", phase=Phase.BODY)
            connection.wake()
            self._body.unwind()
