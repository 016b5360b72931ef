"""The Transport seam over our own connections: what all clients share, what those over HTTP/1.1 do, and NativeTransport, which needs nothing else."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Final, Protocol

from sidecar.errors import StaleConnection, UpstreamError
from sidecar.http1.stream import RawStream
from sidecar.http1.upstream_connection import Done, UpstreamConnection
from sidecar.model.compiler import mypyc_attr
from sidecar.model.endpoint import Endpoint
from sidecar.model.exchange import Attempt
from sidecar.model.head import ResponseHead
from sidecar.model.outbound import OutboundRequest
from sidecar.model.reason import Clock, Phase, Reason
from sidecar.model.snapshot import PoolLimits, Upstream
from sidecar.model.stream import ByteStream
from sidecar.observe.observer import Observer
from sidecar.policy.deadline import Deadlines
from sidecar.tls.contexts import ClientContext
from sidecar.tls.store import Security
from sidecar.upstream.connect import open_connection
from sidecar.upstream.keepalive import announced_timeout
from sidecar.upstream.pool import Pool
from sidecar.upstream.transport import InboundResponse, PoolCounts

Addresses = Callable[[Endpoint], Awaitable[Sequence[str]]]
"""The IP addresses to connect to for an endpoint, the best first; may ask DNS. Raises UpstreamError."""
ConnectFailed = Callable[[Endpoint], None]

Secure = Callable[[Upstream, Endpoint], Security | None]
"""How to secure a new connection (tls/store.py). Raises UpstreamError when something for it is missing."""

SUCCESS: Final = "success"
_POOL: Final = Phase.POOL
_INTERRUPTED: Final = {
    Clock.CONNECT: Reason.CONNECTION_TIMEOUT,
    Clock.REQUEST: Reason.REQUEST_TIMEOUT,
    Clock.BACKEND_REQUEST: Reason.HTTP_RESPONSE_TIMEOUT,
}


def in_the_clear(config: Upstream, endpoint: Endpoint) -> Security | None:
    """For upstreams that have no TLS."""
    assert not endpoint.tls, f"{config.name} has TLS, and nobody who knows its certificates"
    return None


class Connections(Protocol):
    """A pool of either version of HTTP, as far as a transport asks both the same."""

    def counts(self) -> PoolCounts:
        """See Transport.counts."""
        ...

    def configure(self, limits: PoolLimits) -> None:
        """Take on new limits."""
        ...

    def retire(self, endpoint: Endpoint) -> None:
        """See Transport.retire."""
        ...

    def renew(self) -> None:
        """See Transport.renew."""
        ...

    async def aclose(self) -> None:
        """See Transport.aclose."""
        ...


@mypyc_attr(allow_interpreted_subclasses=True)  # those of other clients are never compiled
class OwnTransport:
    """What every client has in common: connections that we open, kept in a pool of ours. A subclass says what a request is."""

    __slots__ = ("_connections", "_opener")

    def __init__(self, opener: Opener, connections: Connections) -> None:
        self._opener = opener
        self._connections = connections

    @abstractmethod
    async def send(
        self,
        endpoint: Endpoint,
        request: OutboundRequest,
        attempt: Attempt,
        deadlines: Deadlines,
        on_interim: Callable[[ResponseHead], None],
    ) -> InboundResponse:
        """See Transport.send."""

    async def connect(self, endpoint: Endpoint, attempt: Attempt, deadlines: Deadlines) -> ByteStream:
        """See Transport.connect: a connection of its own, which no pool limit counts and no pool ever sees."""
        return RawStream(await self._opener.open(endpoint, attempt, deadlines, tunnel=True))

    def configure(self, config: Upstream) -> None:
        """See Transport.configure."""
        before, self._opener.config = self._opener.config, config
        self._connections.configure(config.pool)
        if (before.tls, before.proxy) != (config.tls, config.proxy):
            self._connections.renew()

    def renew(self) -> None:
        """See Transport.renew."""
        self._connections.renew()

    def retire(self, endpoint: Endpoint) -> None:
        """See Transport.retire."""
        self._connections.retire(endpoint)

    def counts(self) -> PoolCounts:
        """See Transport.counts."""
        return self._connections.counts()

    async def aclose(self) -> None:
        """Close idle connections now; the others are closed when their exchanges end."""
        await self._connections.aclose()


@mypyc_attr(allow_interpreted_subclasses=True)
class PooledTransport(OwnTransport):
    """What every client over HTTP/1.1 has in common. A subclass says what an exchange is."""

    __slots__ = ("pool",)

    def __init__(
        self, config: Upstream, addresses: Addresses, observer: Observer, connect_failed: ConnectFailed, secure: Secure = in_the_clear
    ) -> None:
        opener = Opener(config, addresses, observer, connect_failed, secure)
        self.pool = Pool(config.pool, opener.open)
        super().__init__(opener, self.pool)

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
        if request.upgrade and self._opener.config.proxy is not None and not endpoint.tls:
            return await self._through_tunnel(endpoint, request, attempt, deadlines, on_interim)
        now = monotonic()
        attempt.phase, attempt.reused = _POOL, False
        connection = pool.try_take(endpoint, now)
        if connection is None:
            connection = await pool.acquire(endpoint, attempt, deadlines)
            now = monotonic()
        else:
            attempt.reused = True
        attempt.connected_at, attempt.secured = now, connection.secured
        idle_since = connection.idle_since
        try:
            response = await self._exchange(connection, request, attempt, deadlines, on_interim, pool.release)
        except StaleConnection:
            pool.went_stale(endpoint, now - idle_since)
            raise
        if not attempt.reused:  # what a server says once it says always
            self._hear_keep_alive(response.head)
            if connection.secure:
                keep_session(connection)
        return response

    @abstractmethod
    def _exchange(
        self,
        connection: UpstreamConnection,
        request: OutboundRequest,
        attempt: Attempt,
        deadlines: Deadlines,
        on_interim: Callable[[ResponseHead], None],
        done: Done,
    ) -> Awaitable[InboundResponse]:
        """One exchange on `connection`; `done` is called as UpstreamConnection.exchange calls it. Raises as Transport.send."""

    async def _through_tunnel(
        self,
        endpoint: Endpoint,
        request: OutboundRequest,
        attempt: Attempt,
        deadlines: Deadlines,
        on_interim: Callable[[ResponseHead], None],
    ) -> InboundResponse:
        """An upgrade gets a tunnel of its own through the proxy, which may not know what it upgrades to; the pool never sees it."""
        attempt.reused = False
        connection = await self._opener.open(endpoint, attempt, deadlines, tunnel=True)
        return await self._exchange(connection, request, attempt, deadlines, on_interim, _ended)

    def _hear_keep_alive(self, head: ResponseHead) -> None:
        for _, name, value in head.fields:
            if name == b"keep-alive" and (seconds := announced_timeout(value)) is not None:
                self.pool.announced(seconds)


class NativeTransport(PooledTransport):
    """Sends requests to the endpoints of one upstream with our own HTTP/1.1 engine."""

    __slots__ = ()

    def _exchange(
        self,
        connection: UpstreamConnection,
        request: OutboundRequest,
        attempt: Attempt,
        deadlines: Deadlines,
        on_interim: Callable[[ResponseHead], None],
        done: Done,
    ) -> Awaitable[InboundResponse]:
        return connection.exchange(request, attempt, deadlines, on_interim, done)


class Opener:
    """Opens the connections of one upstream. It knows neither pool nor transport, so that nothing goes round in a circle."""

    __slots__ = ("_addresses", "_connect_failed", "_observer", "_secure", "config")

    def __init__(self, config: Upstream, addresses: Addresses, observer: Observer, connect_failed: ConnectFailed, secure: Secure) -> None:
        self.config = config
        self._addresses = addresses
        self._observer = observer
        self._connect_failed = connect_failed
        self._secure = secure

    async def open(self, endpoint: Endpoint, attempt: Attempt, deadlines: Deadlines, *, tunnel: bool = False) -> UpstreamConnection:
        """Look up, connect, hand over, shake hands: all of it on the `connect` clock. `tunnel`: see open_connection."""
        config = self.config
        security = self._secure(config, endpoint) if endpoint.tls else None
        started = monotonic()
        attempt.phase = Phase.CONNECT
        deadlines.arm_phase(Clock.CONNECT, started, self.config.connect_timeout)
        try:
            addresses = () if endpoint.unix_path else await self._addresses(endpoint)
            connection = await open_connection(endpoint, addresses, security, config.proxy, tunnel=tunnel)
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


def keep_session(connection: UpstreamConnection) -> None:
    """The session of a new connection that has had its first answer, for the next handshake with this endpoint."""
    secured = connection.transport.get_extra_info("ssl_object")
    if isinstance(secured.context, ClientContext):
        secured.context.keep_session(connection.endpoint.label, secured)


def _ended(connection: UpstreamConnection, _keep: bool) -> None:  # noqa: FBT001  # the engine's callback
    connection.close()
