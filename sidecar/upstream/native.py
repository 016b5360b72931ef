"""NativeTransport: the Transport seam over our own HTTP/1.1 engine and pool."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Final

from sidecar.errors import StaleConnection, UpstreamError
from sidecar.http1.stream import RawStream
from sidecar.http1.upstream_connection import UpstreamConnection
from sidecar.model.endpoint import Endpoint
from sidecar.model.exchange import Attempt
from sidecar.model.head import ResponseHead
from sidecar.model.outbound import OutboundRequest
from sidecar.model.reason import Clock, Phase, Reason
from sidecar.model.snapshot import Upstream
from sidecar.model.stream import ByteStream
from sidecar.observe.observer import Observer
from sidecar.policy.deadline import Deadlines
from sidecar.upstream.connect import open_connection
from sidecar.upstream.keepalive import announced_timeout
from sidecar.upstream.pool import Pool
from sidecar.upstream.transport import InboundResponse
from sidecar.upstream.weak import weakly

Addresses = Callable[[Endpoint], Awaitable[Sequence[str]]]
"""The IP addresses to connect to for an endpoint, the best first; may ask DNS. Raises UpstreamError."""
ConnectFailed = Callable[[Endpoint], None]

SUCCESS: Final = "success"
_INTERRUPTED: Final = {
    Clock.CONNECT: Reason.CONNECTION_TIMEOUT,
    Clock.REQUEST: Reason.REQUEST_TIMEOUT,
    Clock.BACKEND_REQUEST: Reason.HTTP_RESPONSE_TIMEOUT,
}


class NativeTransport:
    """Sends requests to the endpoints of one upstream, over pooled HTTP/1.1 connections."""

    __slots__ = ("__weakref__", "_addresses", "_connect_failed", "_observer", "config", "pool")

    def __init__(self, config: Upstream, addresses: Addresses, observer: Observer, connect_failed: ConnectFailed) -> None:
        self._addresses = addresses
        self._observer = observer
        self._connect_failed = connect_failed
        self.config = config
        self.pool = Pool(config.pool, weakly(self._open))

    def configure(self, config: Upstream) -> None:
        """Take on a reload's limits and clocks; open connections stay."""
        self.config = config
        self.pool.configure(config.pool)

    async def send(
        self,
        endpoint: Endpoint,
        request: OutboundRequest,
        attempt: Attempt,
        deadlines: Deadlines,
        on_interim: Callable[[ResponseHead], None],
    ) -> InboundResponse:
        """See Transport.send. With an idle connection at hand it first suspends where the response is awaited."""
        pool = self.pool
        now = monotonic()
        attempt.phase, attempt.reused = Phase.POOL, False
        connection = pool.try_take(endpoint, now)
        if connection is None:
            connection = await pool.acquire(endpoint, attempt, deadlines)
            now = monotonic()
        else:
            attempt.reused = True
        attempt.connected_at = now
        idle_since = connection.idle_since
        try:
            response = await connection.exchange(request, attempt, deadlines, on_interim, pool.release)
        except StaleConnection:
            pool.went_stale(endpoint, now - idle_since)
            raise
        if not attempt.reused:  # what a server says once it says always
            self._hear_keep_alive(response.head)
        return response

    async def connect(self, endpoint: Endpoint, attempt: Attempt, deadlines: Deadlines) -> ByteStream:
        """See Transport.connect: a connection of its own, which no pool limit counts and no pool ever sees."""
        return RawStream(await self._open(endpoint, attempt, deadlines))

    async def aclose(self) -> None:
        """Close idle connections now; the others are closed when their exchanges end."""
        await self.pool.aclose()

    def _hear_keep_alive(self, head: ResponseHead) -> None:
        for _, name, value in head.fields:
            if name == b"keep-alive" and (seconds := announced_timeout(value)) is not None:
                self.pool.announced(seconds)

    async def _open(self, endpoint: Endpoint, attempt: Attempt, deadlines: Deadlines) -> UpstreamConnection:
        """Look up, connect, hand over: all of it on the `connect` clock."""
        started = monotonic()
        attempt.phase = Phase.CONNECT
        deadlines.arm_phase(Clock.CONNECT, started, self.config.connect_timeout)
        try:
            addresses = () if endpoint.unix_path else await self._addresses(endpoint)
            connection = await open_connection(endpoint, addresses)
        except UpstreamError as error:
            deadlines.disarm_phase()
            self._failed(endpoint, error.reason, started)
            raise
        except asyncio.CancelledError:
            fired = deadlines.fired(monotonic())  # the clock stays armed: whoever cancelled us may still ask it
            self._failed(endpoint, _INTERRUPTED.get(fired, Reason.CLIENT_CLOSED) if fired else Reason.CLIENT_CLOSED, started)
            raise
        deadlines.disarm_phase()
        attempt.connected_at = monotonic()
        self._observer.upstream_connected(self.config.name, SUCCESS, attempt.connected_at - started)
        return connection

    def _failed(self, endpoint: Endpoint, reason: Reason, started: float) -> None:
        self._observer.upstream_connected(self.config.name, reason.value, monotonic() - started)
        if reason is not Reason.CLIENT_CLOSED and reason is not Reason.CONNECTION_LIMIT_REACHED:
            self._connect_failed(endpoint)
