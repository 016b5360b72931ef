"""What the page shows of a moment, however large the configuration is: the busiest routes, or those that a filter finds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import islice
from typing import Any, Final

from sidecar import __version__
from sidecar.admin import views
from sidecar.admin.context import AdminContext
from sidecar.admin.history import EVERYTHING, Figures, History, LineKey, Plot
from sidecar.model.snapshot import Route, Snapshot
from sidecar.model.status import EndpointStatus, UpstreamStatus

Json = dict[str, Any]

MAX_ROUTES: Final = 40
MAX_UPSTREAMS: Final = 20
MAX_ENDPOINTS: Final = 8
"""Of each upstream, those that are not healthy first."""
MAX_PROBLEMS: Final = 30
MAX_LISTENERS: Final = 30
MAX_FILTER: Final = 200
SLICE: Final = 256
"""Routes that are looked through between two chances for other work: below a millisecond."""


class Board:
    """Looks at everything that the page shows. `history` measures while somebody looks."""

    def __init__(self, context: AdminContext, history: History) -> None:
        self._context = context
        self._history = history

    async def look(self, wanted: str) -> Json:
        """This moment; only routes and upstreams that have the text `wanted` somewhere, when it is not empty."""
        context, history = self._context, self._history
        await history.look()
        active = context.config()
        snapshot = None if active is None else active.snapshot
        wanted = wanted[:MAX_FILTER].strip()
        routes, found = await self._routes(snapshot, wanted.casefold())
        runtime = context.runtime()
        lifetime = float(runtime.get("uptimeSeconds", 0))
        upstreams = context.upstreams()
        await asyncio.sleep(0)
        return {
            "version": __version__,
            "state": context.state(),
            "readiness": views.readiness(context),
            "config": views.config_head(active),
            "problems": views.problems(context),
            "sources": views.sources(context),
            "warnings": () if snapshot is None else snapshot.warnings,
            "listeners": views.listeners(context),
            "runtime": runtime,
            "logLevel": context.get_log_level(),
            "steps": history.steps,
            "all": self._line(EVERYTHING, lifetime),
            "inFlight": sum(endpoint.active for upstream in upstreams for endpoint in upstream.endpoints),
            "pending": sum(upstream.pending for upstream in upstreams),
            "filter": wanted,
            "routes": [{**_route(route), **self._line(("route", "" if route is None else route.name), lifetime)} for route in routes],
            "routesFound": found,
            "routesTotal": 0 if snapshot is None else len(snapshot.routes),
            "upstreams": [{**_upstream(one), **self._line(("upstream", one.name), lifetime)} for one in self._chosen(upstreams, wanted)],
            "upstreamsTotal": len(upstreams),
            "failures": context.failures(views.MAX_FAILURES),
        }

    def _line(self, key: LineKey, lifetime: float) -> Json:
        figures: Figures = self._history.figures(key, lifetime)
        plot: Plot | None = self._history.plot(key)
        return {"figures": figures, "plot": plot, "steps": self._history.steps}

    async def _routes(self, snapshot: Snapshot | None, wanted: str) -> tuple[list[Route | None], int]:
        """The routes to show and how many there are to choose from; None stands for requests that no route got."""
        routes = () if snapshot is None else snapshot.routes
        found = [route async for route in _matching(routes, wanted)] if wanted else list(routes)
        busiest = self._history.busiest("route")
        lost: list[Route | None] = [None] if "" in busiest and not wanted else []
        if len(found) <= MAX_ROUTES:  # in the document's order: rows that stay where they are can be read
            return [*found, *lost], len(found)
        by_name = {route.name: route for route in found}
        first = list(islice((by_name.pop(name) for name in busiest if name in by_name), MAX_ROUTES))
        return [*first, *islice(by_name.values(), MAX_ROUTES - len(first)), *lost], len(found)

    def _chosen(self, upstreams: Sequence[UpstreamStatus], wanted: str) -> list[UpstreamStatus]:
        """The upstreams to show: with a problem first, then the busiest."""
        found = [one for one in upstreams if wanted.casefold() in one.name.casefold()] if wanted else list(upstreams)
        if len(found) > MAX_UPSTREAMS:
            rank = {name: number for number, name in enumerate(self._history.busiest("upstream"))}
            found.sort(key=lambda one: (not one.problem, rank.get(one.name, len(rank))))
        return found[:MAX_UPSTREAMS]


async def _matching(routes: Sequence[Route], wanted: str) -> AsyncIterator[Route]:
    for number, route in enumerate(routes, 1):
        if wanted in _words(route):
            yield route
        if number % SLICE == 0:
            await asyncio.sleep(0)


def _words(route: Route) -> str:
    """Everything by which a route can be looked for."""
    names = [route.name, route.listener or "", *route.hostnames, *(backend.name for backend in route.backends)]
    return "\n".join([*names, *map(views.match_text, route.matches)]).casefold()


def _route(route: Route | None) -> Json:
    if route is None:
        return {"name": None, "listener": None, "hostnames": [], "matches": [], "upstreams": None}
    return views.route(route)


def _upstream(upstream: UpstreamStatus) -> Json:
    """Like `views.upstream`, with a few of its endpoints."""
    endpoints = sorted(upstream.endpoints, key=_health)[:MAX_ENDPOINTS]
    states: dict[str, int] = {}
    for endpoint in upstream.endpoints:
        states[endpoint.state] = states.get(endpoint.state, 0) + 1
    shown = views.upstream(upstream, endpoints)
    return {**shown, "states": states, "endpointsTotal": len(upstream.endpoints), "inFlight": sum(one.active for one in upstream.endpoints)}


def _health(endpoint: EndpointStatus) -> bool:
    return endpoint.state == "healthy"
