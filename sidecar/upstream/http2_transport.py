"""Http2Transport: `client: Httpx` with `protocol: HTTP2` or `H2C`. A client of httpx over HTTP/2 connections of ours.

httpcore's own HTTP/2 is not used (docs/decisions/0029): it opens one connection per origin, buffers 16 MiB for each stream,
takes a GOAWAY for the end of everything, and drops interim responses and trailers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import Final

import httpx
from msgspec.structs import replace

from sidecar.errors import StaleConnection, UpstreamError
from sidecar.http1.upstream_connection import UpstreamConnection
from sidecar.model.endpoint import Endpoint
from sidecar.model.exchange import Attempt
from sidecar.model.head import ResponseHead
from sidecar.model.outbound import OutboundRequest
from sidecar.model.reason import Phase, Reason
from sidecar.model.snapshot import HttpProtocol, Timeouts, Upstream
from sidecar.model.stream import ByteStream
from sidecar.observe.observer import Observer
from sidecar.policy.deadline import Deadlines
from sidecar.upstream.http2_pool import Http2Pool
from sidecar.upstream.http2_stream import Stream
from sidecar.upstream.httpx_client import HttpxBody, httpx_request, httpx_response, new_client
from sidecar.upstream.native import Addresses, ConnectFailed, NativeTransport, Opener, OwnTransport, Secure, in_the_clear, keep_session
from sidecar.upstream.transport import InboundResponse, PoolCounts

_ALPN: Final = "h2"
_NO_UPGRADE: Final = "H2C has no upgrades, and nothing to agree on HTTP/1.1 with (write protocol: HTTP1, or HTTP2, which asks by ALPN)"


class Http2Transport(OwnTransport):
    """Sends requests to the endpoints of one upstream over HTTP/2."""

    def __init__(
        self, config: Upstream, addresses: Addresses, observer: Observer, connect_failed: ConnectFailed, secure: Secure = in_the_clear
    ) -> None:
        opener = Opener(config, addresses, observer, connect_failed, secure)
        self._pool = Http2Pool(config.pool, Dialer(opener).dial)
        super().__init__(opener, self._pool)
        self._client = new_client()
        self._upgrades: NativeTransport | None = None
        if config.protocol is HttpProtocol.HTTP2:
            self._upgrades = NativeTransport(_in_http1(config), addresses, observer, connect_failed, secure)

    def configure(self, config: Upstream) -> None:
        """See Transport.configure."""
        super().configure(config)
        if self._upgrades is not None:
            self._upgrades.configure(_in_http1(config))

    def renew(self) -> None:
        """See Transport.renew."""
        super().renew()
        if self._upgrades is not None:
            self._upgrades.renew()

    def retire(self, endpoint: Endpoint) -> None:
        """See Transport.retire."""
        super().retire(endpoint)
        if self._upgrades is not None:
            self._upgrades.retire(endpoint)

    def counts(self) -> PoolCounts:
        """See Transport.counts: connections of upgrades are counted with the others."""
        mine = super().counts()
        if self._upgrades is None:
            return mine
        more = self._upgrades.counts()
        return PoolCounts(
            mine.active + more.active,
            mine.open + more.open,
            mine.idle + more.idle,
            mine.connecting + more.connecting,
            mine.pending + more.pending,
        )

    async def aclose(self) -> None:
        """See Transport.aclose."""
        if self._upgrades is not None:
            await self._upgrades.aclose()
        await super().aclose()

    async def send(
        self,
        endpoint: Endpoint,
        request: OutboundRequest,
        attempt: Attempt,
        deadlines: Deadlines,
        on_interim: Callable[[ResponseHead], None],
    ) -> InboundResponse:
        """See Transport.send."""
        attempt.phase, attempt.reused = Phase.POOL, False
        if request.upgrade:
            return await self._upgrade(endpoint, request, attempt, deadlines, on_interim)
        pool = self._pool
        connection = await pool.acquire(endpoint, attempt, deadlines, self._opener.config.connect_timeout)
        attempt.connected_at, attempt.secured = monotonic(), connection.connection.secured
        stream = Stream(connection, request, attempt, deadlines, on_interim)
        head: ResponseHead | None = None

        async def exchange(_request: httpx.Request) -> httpx.Response:
            nonlocal head
            head = await stream.exchange()
            return httpx_response(head, _Body(stream))

        try:
            answer = await self._client.send(httpx_request(endpoint, request, None, exchange), stream=True)
        except BaseException:
            stream.finish()
            pool.release()
            raise
        assert head is not None
        if not attempt.reused and connection.connection.secure:
            keep_session(connection.connection)
        return Http2Response(head, stream, answer, pool.release)

    async def _upgrade(
        self,
        endpoint: Endpoint,
        request: OutboundRequest,
        attempt: Attempt,
        deadlines: Deadlines,
        on_interim: Callable[[ResponseHead], None],
    ) -> InboundResponse:
        """HTTP/2 has no upgrades (RFC 9113 section 8.6): over TLS the server is asked for HTTP/1.1, by ALPN (docs/decisions/0038)."""
        if self._upgrades is None:
            raise UpstreamError(Reason.HTTP_UPGRADE_FAILED, _NO_UPGRADE, phase=Phase.HEADERS)
        try:
            return await self._upgrades.send(endpoint, request, attempt, deadlines, on_interim)
        except UpstreamError as error:
            if not isinstance(error, StaleConnection):
                error.detail += "; for an upgrade, HTTP/1.1 was asked for"
            raise


def _in_http1(config: Upstream) -> Upstream:
    return replace(config, protocol=HttpProtocol.HTTP1)


class Dialer:
    """Opens connections that speak HTTP/2, for whoever wants one: within `connectTimeout`, by a clock of its own."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener

    async def dial(self, endpoint: Endpoint) -> UpstreamConnection:
        """A new connection. Raises UpstreamError."""
        seconds = self._opener.config.connect_timeout
        deadlines = Deadlines(Timeouts())
        try:
            async with asyncio.timeout(seconds or None):
                connection = await self._opener.open(endpoint, Attempt(1, monotonic()), deadlines, tunnel=True)
        except TimeoutError:
            raise UpstreamError(Reason.CONNECTION_TIMEOUT, f"{endpoint.label}: no connection", phase=Phase.CONNECT) from None
        secured = connection.transport.get_extra_info("ssl_object")
        if secured is not None and secured.selected_alpn_protocol() != _ALPN:
            connection.abort()
            raise UpstreamError(Reason.TLS_PROTOCOL_ERROR, f"{endpoint.label} does not agree to HTTP/2 (ALPN)", phase=Phase.CONNECT)
        return connection


make = Http2Transport


class _Body(httpx.AsyncByteStream):
    """A stream's body, for httpx."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self._stream.read():
            yield piece


class Http2Response:
    """Implements InboundResponse."""

    def __init__(self, head: ResponseHead, stream: Stream, answer: httpx.Response, done: Callable[[], None]) -> None:
        self.head = head
        self.body = HttpxBody(stream, answer)
        self._stream = stream
        self._done = done

    def tunnel(self) -> ByteStream:
        """Never: there is no 101 over HTTP/2."""
        raise AssertionError("a 101 never has an Http2Response")

    def release(self) -> None:
        """The connection goes on; a stream that is unfinished is cancelled."""
        whole = self._stream.done
        if self._stream.finish():
            self._done()
            if not whole:
                self.body.unwind()

    def abort(self) -> None:
        """See InboundResponse: the stream is over, the connection serves others."""
        self.release()
