"""A small real context for the admin surface, and the server that serves it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import uvloop
from aiohttp import web
from msgspec.structs import replace

from sidecar.admin.app import make_app
from sidecar.admin.context import ActiveConfig, AdminContext, DrainStatus, ListenerStatus, RejectedConfig
from sidecar.model.snapshot import (
    AllowEntry,
    Backend,
    DnsName,
    Filters,
    HeaderModifier,
    Listener,
    Match,
    Mode,
    PathMatch,
    Redirect,
    RetryPolicy,
    Route,
    Snapshot,
    Target,
    Upstream,
    UrlRewrite,
    ValueMatch,
)
from sidecar.model.status import EndpointStatus, UpstreamStatus
from sidecar.observe.traffic import TrafficCount
from sidecar.proxy.explain import offline_routers

T = TypeVar("T")


def shop() -> Snapshot:
    """Two listeners, two upstreams, a few routes."""
    return Snapshot(
        revision="7",
        hash="0123abcd",
        listeners=(
            Listener(name="inbound", port=15001, bind="0.0.0.0", mode=Mode.REVERSE),
            Listener(
                name="outbound",
                port=15002,
                bind="127.0.0.1",
                mode=Mode.FORWARD,
                allow=(AllowEntry(host="*.example.com", network=None, ports=frozenset((443, 80))),),
            ),
        ),
        upstreams={
            "app": Upstream(name="app", targets=(Target(host="127.0.0.1", port=8000),)),
            "canary": Upstream(name="canary", dns=DnsName(host="canary.svc", port=80)),
        },
        routes=(
            Route(
                name="orders",
                index=0,
                hostnames=("orders.shop.svc",),
                matches=(Match(path=PathMatch(value="/v1"), headers=(ValueMatch(name="x-tenant", value="a"),)),),
                backends=(Backend(name="app", weight=9), Backend(name="canary")),
                filters=Filters(
                    rewrite=UrlRewrite(hostname="orders.internal", replace_prefix_match="/"),
                    request_headers=(HeaderModifier(set=((b"X-Stage", b"prod"),), remove=frozenset((b"x-debug",))),),
                ),
                retry=RetryPolicy(),
            ),
            Route(
                name="old",
                index=1,
                listener="inbound",
                matches=(Match(path=PathMatch(value="/old")),),
                filters=Filters(redirect=Redirect(hostname="new.example")),
            ),
            Route(name="all", index=2, listener="inbound", backends=(Backend(name="app"),)),
        ),
        warnings=("routes[1] is shadowed",),
    )


def active(snapshot: Snapshot, document: object = None) -> ActiveConfig:
    """`snapshot` as the store would hand it over."""
    return ActiveConfig(
        source="file",
        revision="7",
        loaded_at=1_700_000_000.5,
        snapshot=snapshot,
        routers=offline_routers(snapshot),
        origin=lambda path: "line 14" if path == "routes[0].retry.attempts" else "built-in",
        document=lambda: {"kind": "SidecarConfig"} if document is None else document,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A condition of readiness."""

    name: str
    ok: bool
    detail: str = ""


class World:
    """What the context is made of; tests change it."""

    def __init__(self) -> None:
        self.config: ActiveConfig | None = active(shop())
        self.rejected: RejectedConfig | None = None
        self.sources = {"file": ""}
        self.checks = [Check(name="config", ok=True, detail="no valid document yet")]
        self.state = "ready"
        self.level = "info"
        self.in_flight = [2, 0]
        """What each call of `drain` finds; the last one is repeated. 0 = drained."""
        self.drains = 0
        self.quits = 0
        self.metrics_text = b"# HELP\n"
        self.recent: Any = {"failures": [], "slowest": []}
        self.records: list[dict[str, Any]] = []
        """What is known of `req-1`, and of the last failure."""
        self.problem = ""
        self.traffic: Callable[[], Iterator[TrafficCount]] = lambda: iter(())

    def context(self) -> AdminContext:
        """The seam that the surface sees."""
        return AdminContext(
            readiness=lambda: self.checks,
            state=lambda: self.state,
            config=lambda: self.config,
            rejected=lambda: self.rejected,
            sources=lambda: self.sources,
            listeners=lambda: [
                ListenerStatus(name="inbound", mode="Reverse", address="0.0.0.0", port=15001, protocol="HTTP/1.1", state="listening")
            ],
            upstreams=self._upstreams,
            connections=lambda: {"inbound": {"open": 1}},
            failures=lambda limit: list(self.recent["failures"])[:limit],
            recent=lambda: self.recent,
            why=lambda request_id: self.records if request_id in ("", "req-1") else [],
            runtime=lambda: {"pid": 1, "uptimeSeconds": 75.25},
            traffic=self.traffic,
            metrics=self._metrics,
            get_log_level=lambda: self.level,
            set_log_level=self._set_level,
            drain=self._drain,
            quit=self._quit,
        )

    def _upstreams(self) -> list[UpstreamStatus]:
        endpoint = EndpointStatus(address="127.0.0.1:8000", state="healthy", weight=1, active=3, requests=12, failures=1)
        status = UpstreamStatus(
            name="app",
            source="static",
            endpoints=(endpoint,),
            connections_active=3,
            connections_idle=1,
            connections_connecting=0,
            pending=0,
            learned_idle_timeout=None,
            budget_available=10.0,
            problem=self.problem,
        )
        return [status]

    async def _metrics(self) -> bytes:
        return self.metrics_text

    def _set_level(self, level: str) -> None:
        self.level = level

    def _drain(self) -> DrainStatus:
        left = self.in_flight[min(self.drains, len(self.in_flight) - 1)]
        self.drains += 1
        return DrainStatus(drained=left == 0, in_flight=left)

    def _quit(self) -> None:
        self.quits += 1


class Caller:
    """Sends requests to the surface."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self.session = session
        self.base = base
        self.port = int(base.rpartition(":")[2])

    async def send(self, method: str, path: str, **more: Any) -> tuple[int, Any, aiohttp.ClientResponse]:
        """Status, decoded body (text when it is not JSON) and the response."""
        async with self.session.request(method, self.base + path, allow_redirects=False, **more) as response:
            text = await response.text()
            body = await response.json() if response.content_type.endswith("json") and text else text
            return response.status, body, response

    async def get(self, path: str, **more: Any) -> Any:
        """The body of a GET that must succeed."""
        status, body, _ = await self.send("GET", path, **more)
        assert status == 200, body
        return body


async def served(world: World, use: Callable[[Caller], Awaitable[T]], *, host: str = "127.0.0.1") -> T:
    """Serve `world` on a free loopback port while `use` runs."""
    runner = web.AppRunner(make_app(world.context()), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, 0)
        await site.start()
        port = runner.addresses[0][1]
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=aiohttp.ThreadedResolver())) as session:
            return await use(Caller(session, f"http://{'[::1]' if ':' in host else host}:{port}"))
    finally:
        await runner.cleanup()


def ask(world: World, use: Callable[[Caller], Awaitable[T]]) -> T:
    """`served` as a whole run."""
    return uvloop.run(served(world, use))


def with_routes(count: int) -> Snapshot:
    """A snapshot of so many routes."""
    routes = tuple(
        Route(name=f"r{n}", index=n, matches=(Match(path=PathMatch(value=f"/r/{n}")),), backends=(Backend(name="app"),))
        for n in range(count)
    )
    return replace(shop(), routes=routes)


async def served_unix(world: World, path: Path, use: Callable[[aiohttp.ClientSession], Awaitable[T]]) -> T:
    """The same on a unix socket."""
    runner = web.AppRunner(make_app(world.context()), access_log=None)
    await runner.setup()
    try:
        await web.UnixSite(runner, path).start()
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            return await use(session)
    finally:
        await runner.cleanup()
