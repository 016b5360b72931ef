"""What the admin surface shows, as JSON-ready values: camelCase names, times in RFC 3339, addresses as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from sidecar.admin.context import ActiveConfig, AdminContext, ListenerStatus
from sidecar.admin.versions import versions
from sidecar.model.snapshot import Match, Route
from sidecar.model.status import EndpointStatus, HealthStatus, UpstreamStatus
from sidecar.observe.text import utc

Json = dict[str, Any]

MAX_ROUTES: Final = 200
"""Routes of an overview; thousands would hold the loop while they are rendered, and nobody reads them."""
MAX_FAILURES: Final = 10
"""Failures of an overview; `/recent` has the others, and takes its time for them."""


def config_head(active: ActiveConfig | None) -> Json:
    """`GET /config` without its document; all null while no valid document has come."""
    if active is None:
        return {"source": None, "revision": None, "hash": None, "loadedAt": None}
    return {"source": active.source, "revision": active.revision, "hash": active.snapshot.hash, "loadedAt": utc(active.loaded_at)}


def problems(context: AdminContext) -> Json:
    """`GET /config/problems`: of the newest rejected document; an empty list when the newest is active."""
    rejected = context.rejected()
    if rejected is None:
        return {"source": None, "revision": None, "rejectedAt": None, "problems": []}
    told = [{"path": one.path, "line": one.line, "column": one.column, "message": one.message} for one in rejected.problems]
    return {"source": rejected.source, "revision": rejected.revision, "rejectedAt": utc(rejected.rejected_at), "problems": told}


def readiness(context: AdminContext) -> Json:
    """`GET /readiness`: what `/readyz` says, with the reasons, for `outrider wait` and `status`."""
    checks = [{"name": check.name, "ok": check.ok, "detail": "" if check.ok else check.detail} for check in context.readiness()]
    return {"ready": all(check["ok"] for check in checks), "state": context.state(), "checks": checks}


def sources(context: AdminContext) -> list[Json]:
    """Where documents come from, and why one cannot be read now."""
    return [{"name": name, "connected": not problem, "problem": problem} for name, problem in context.sources().items()]


def listeners(context: AdminContext) -> list[Json]:
    """`GET /listeners`."""
    return [_listener(listener) for listener in context.listeners()]


def _listener(listener: ListenerStatus) -> Json:
    return {
        "name": listener.name,
        "mode": listener.mode,
        "address": listener.address,
        "port": listener.port,
        "protocol": listener.protocol,
        "state": listener.state,
        "tls": listener.tls,
        "problem": listener.problem,
    }


def upstreams(context: AdminContext) -> list[Json]:
    """`GET /upstreams`."""
    return [upstream(one, one.endpoints) for one in context.upstreams()]


def upstream(upstream: UpstreamStatus, endpoints: Iterable[EndpointStatus]) -> Json:
    """An upstream with these of its endpoints."""
    return {
        "name": upstream.name,
        "source": upstream.source,
        "problem": upstream.problem,
        "endpoints": [_endpoint(endpoint) for endpoint in endpoints],
        "inFlight": sum(endpoint.active for endpoint in upstream.endpoints),
        "breaker": _breaker(upstream.health),
        "ejections": None if upstream.health is None else dict(upstream.health.ejections),
        "healthChecks": None if upstream.health is None else dict(upstream.health.checks),
        "pool": {
            "active": upstream.connections_active,
            "idle": upstream.connections_idle,
            "connecting": upstream.connections_connecting,
            "pending": upstream.pending,
            "learnedIdleTimeoutSeconds": upstream.learned_idle_timeout,
        },
        "retryBudget": {"available": upstream.budget_available},
    }


def _breaker(health: HealthStatus | None) -> Json | None:
    """None without a circuit breaker."""
    return None if health is None or not health.circuit else {"state": health.circuit, "opened": health.circuit_opened}


def _endpoint(endpoint: EndpointStatus) -> Json:
    return {
        "address": endpoint.address,
        "state": endpoint.state,
        "weight": endpoint.weight,
        "inFlight": endpoint.active,
        "requests": endpoint.requests,
        "failures": endpoint.failures,
    }


def overview(context: AdminContext) -> Json:
    """`GET /overview`: what `outrider status` shows, from one instant."""
    active = context.config()
    snapshot = None if active is None else active.snapshot
    routes = () if snapshot is None else snapshot.routes
    return {
        "version": versions()["outrider"],
        "state": context.state(),
        "readiness": readiness(context),
        "config": config_head(active),
        "problems": problems(context),
        "sources": sources(context),
        "warnings": () if snapshot is None else snapshot.warnings,
        "listeners": listeners(context),
        "upstreams": upstreams(context),
        "routes": [route(one) for one in routes[:MAX_ROUTES]],
        "routesTotal": len(routes),
        "uptimeSeconds": context.runtime().get("uptimeSeconds", 0),
        "failures": context.failures(MAX_FAILURES),
    }


def route(route: Route) -> Json:
    """A route in one row."""
    redirect = route.filters.redirect
    to = [f"{backend.name} ({backend.weight})" if len(route.backends) > 1 else backend.name for backend in route.backends]
    return {
        "name": route.name,
        "listener": route.listener or "every",
        "hostnames": route.hostnames or "every",
        "matches": [match_text(match) for match in route.matches],
        "upstreams": to if redirect is None else f"redirect {redirect.status}",
    }


def match_text(match: Match) -> str:
    """`GET PathPrefix /v1 x-tenant: a`."""
    words = [match.method or "", f"{match.path.type.value} {match.path.value}"]
    words += [f"{header.name}: {header.value}" for header in match.headers]
    words += [f"?{query.name}={query.value}" for query in match.query_params]
    return " ".join(word for word in words if word)


VIEWS: Final[dict[str, Callable[[AdminContext], object]]] = {
    "/overview": overview,
    "/version": lambda _context: versions(),
    "/config/problems": problems,
    "/readiness": readiness,
    "/listeners": listeners,
    "/upstreams": upstreams,
    "/connections": lambda context: context.connections(),
    "/recent": lambda context: context.recent(),
    "/runtime": lambda context: context.runtime(),
    "/log-level": lambda context: {"level": context.get_log_level()},
}
"""What a plain GET answers, by path."""
