"""The data plane in this process: real sockets, real engine, no configuration file. For byte-level tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from sidecar.http1.connection import as_protocol
from sidecar.http1.idle import IdleQueue
from sidecar.http1.server_connection import Owner, ServerConnection, ServerSettings
from sidecar.model.exchange import Attempt, Exchange
from sidecar.model.reason import Rejection
from sidecar.model.snapshot import Backend, Listener, Mode, Route, Snapshot, Target, Upstream
from sidecar.model.tls import Handshake
from sidecar.observe.fanout import Fanout
from sidecar.observe.tracing.service import Tracing
from sidecar.protocol.head import HeadLimits
from sidecar.proxy.pipeline import Proxy
from sidecar.proxy.plan import make_plan
from sidecar.proxy.timekeeper import Timekeeper
from sidecar.upstream.registry import Registry


class Recorder:
    """An Observer that keeps everything."""

    def __init__(self) -> None:
        self.started: list[Exchange] = []
        self.finished: list[Exchange] = []
        self.attempts: list[Attempt] = []
        self.rejected: list[Rejection] = []
        self.handshakes: list[Handshake] = []
        self.tunnels: list[Exchange] = []
        self.connects: list[tuple[str, str]] = []
        self.changed = asyncio.Event()

    def exchange_started(self, exchange: Exchange) -> None:
        self.started.append(exchange)

    def attempt_finished(self, _exchange: Exchange, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    def exchange_finished(self, exchange: Exchange) -> None:
        self.finished.append(exchange)
        self.changed.set()

    def message_rejected(self, _listener: str, kind: Rejection) -> None:
        self.rejected.append(kind)

    def connection_opened(self, listener: str) -> None: ...

    def connection_closed(self, listener: str) -> None: ...

    def handshake_finished(self, _listener: str, result: Handshake) -> None:
        self.handshakes.append(result)

    def tunnel_started(self, exchange: Exchange) -> None:
        self.tunnels.append(exchange)

    def config_applied(self, snapshot: Snapshot) -> None: ...

    def upstream_connected(self, upstream: str, result: str, _seconds: float) -> None:
        self.connects.append((upstream, result))

    async def last(self, count: int = 1, timeout: float = 20.0) -> Exchange:
        """The newest finished exchange, once `count` have finished."""
        async with asyncio.timeout(timeout):
            while len(self.finished) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.finished[-1]


def upstream(port: int | Sequence[int], name: str = "app", **more: Any) -> Upstream:
    """An upstream of loopback endpoints."""
    ports = [port] if isinstance(port, int) else port
    return Upstream(name=name, targets=tuple(Target(host="127.0.0.1", port=number) for number in ports), **more)


class Engine:
    """`async with Engine(upstream(port)) as engine:`: one Reverse listener `inbound`, one Forward listener `outbound`.

    Without `routes` everything that comes in goes to the first upstream. `listener` are fields of the Reverse
    listener, `outbound` of the Forward one, `route` of the single default route; `tracing` makes spans when the
    snapshot's `telemetry` asks for them.
    """

    def __init__(
        self,
        *upstreams: Upstream,
        routes: Sequence[Route] | None = None,
        route: dict[str, Any] | None = None,
        listener: dict[str, Any] | None = None,
        outbound: dict[str, Any] | None = None,
        tracing: Tracing | None = None,
        **snapshot: Any,
    ) -> None:
        self._upstreams = upstreams
        self._routes = routes
        self._route = route or {}
        self._listeners = {"inbound": listener or {}, "outbound": outbound or {}}
        self._snapshot = snapshot
        self.seen = Recorder()
        self.tracing = Tracing({}) if tracing is None else tracing
        self._servers: list[asyncio.Server] = []
        self._owners: list[Owner] = []
        self._ports: dict[str, int] = {}

    def port(self, listener: str = "inbound") -> int:
        """Where a listener listens."""
        return self._ports[listener]

    def snapshot(self) -> Snapshot:
        """The configuration that it runs."""
        modes = {"inbound": Mode.REVERSE, "outbound": Mode.FORWARD}
        listeners = tuple(Listener(name=name, port=0, bind="127.0.0.1", mode=modes[name], **more) for name, more in self._listeners.items())
        routes = self._routes
        if routes is None and self._upstreams:
            routes = [
                Route(name="all", index=0, **{"listener": "inbound", "backends": (Backend(name=self._upstreams[0].name),), **self._route})
            ]
        return Snapshot(
            revision="1",
            hash="",
            listeners=listeners,
            upstreams={one.name: one for one in self._upstreams},
            routes=tuple(routes or ()),
            **self._snapshot,
        )

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        snapshot = self.snapshot()
        self.registry = Registry(self.seen)
        await self.registry.reconcile(snapshot)
        self.timekeeper = Timekeeper(loop)
        prepared = await self.tracing.prepare(snapshot.telemetry.tracing)
        self.tracing.commit(prepared)
        observers = Fanout((self.seen, self.tracing))
        self.proxy = Proxy(make_plan(snapshot, self.registry, prepared.tracer), self.registry, observers, self.timekeeper)
        for listener in snapshot.listeners:
            limits = HeadLimits(listener.max_header_bytes, listener.max_header_count, listener.max_target_bytes)
            idle = IdleQueue(loop, listener.idle_timeout)
            settings = ServerSettings(limits, listener.header_timeout, listener.max_request_body, idle)
            owner = Owner(listener.name, settings, self.proxy.handler(listener.name), _ignore, _ignore)
            server = await loop.create_server(_factory(owner), "127.0.0.1", 0)
            self._owners.append(owner)
            self._servers.append(server)
            self._ports[listener.name] = server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for server in self._servers:
            server.close()
        tasks = [connection.task for owner in self._owners for connection in owner.connections]
        for owner in self._owners:
            for connection in list(owner.connections):
                connection.task.cancel()
                connection.abort()
            owner.settings.idle.close()
        if tasks:
            await asyncio.wait(tasks)
        self.timekeeper.close()
        await self.registry.aclose()
        await self.tracing.aclose(5.0)
        await asyncio.sleep(0)
        if error is None:
            assert len(self.seen.started) == len(self.seen.finished), "every started exchange is recorded exactly once"


def _factory(owner: Owner) -> Callable[[], asyncio.BufferedProtocol]:
    return lambda: as_protocol(ServerConnection(owner))


def _ignore(_connection: ServerConnection) -> None: ...
