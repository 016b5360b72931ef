"""Every clock, retry field and limit that a request is subject to, with its value and the place that set it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sidecar.model.quantity import format_duration
from sidecar.model.snapshot import Backend, Listener, RetryPolicy, Snapshot, Timeouts, Upstream
from sidecar.model.status import UpstreamStatus

Json = dict[str, Any]
Origin = Callable[[str], str]

_CLOCKS: Final = (
    ("request", "request", "the whole transaction, retries included"),
    ("backendRequest", "backend_request", "one attempt"),
    ("queue", "queue", "waiting for a connection of the pool"),
    ("responseHeader", "response_header", "from the request sent to the response's head"),
    ("streamIdle", "stream_idle", "no byte in either direction"),
    ("tunnelIdle", "tunnel_idle", "the same in a tunnel"),
    ("upgradeHandshake", "upgrade_handshake", "waiting for 101"),
)
_LISTENER_CLOCKS: Final = (("headerTimeout", "header_timeout"), ("bodyIdleTimeout", "body_idle_timeout"), ("idleTimeout", "idle_timeout"))
_UNITS: Final = ((1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki"))


def setting(name: str, value: str, origin: str, **more: Any) -> Json:
    """One row of an explanation."""
    return {"name": name, "value": value, "origin": origin, **more}


def duration(seconds: float) -> str:
    """GEP-2257, or `off`."""
    return format_duration(seconds) if seconds else "off"


def size(count: int) -> str:
    """Bytes in the document's own spelling."""
    for factor, unit in _UNITS:
        if count and count % factor == 0:
            return f"{count // factor}{unit}"
    return str(count)


def _limit(count: int) -> str:
    return str(count) if count else "unlimited"


def clocks(timeouts: Timeouts, path: str, names: Sequence[str], snapshot: Snapshot, origin: Origin) -> list[Json]:
    """The route's clocks and the `connect` clock of each upstream that it may choose."""
    rows = [
        setting(name, duration(getattr(timeouts, attribute)), origin(f"{path}.{name}"), seconds=getattr(timeouts, attribute), means=means)
        for name, attribute, means in _CLOCKS
    ]
    for place, upstream in _places(names, snapshot):
        seconds = upstream.connect_timeout
        row = setting(
            "connect", duration(seconds), origin(f"{place}.connectTimeout"), seconds=seconds, means="DNS and TCP", upstream=upstream.name
        )
        rows.append(row)
    return rows


def retry(policy: RetryPolicy | None, path: str, origin: Origin) -> Json:
    """The retry stanza; without one, what is done all the same (product.md 3.3)."""
    where = origin(path)
    if policy is None:
        return {
            "enabled": False,
            "origin": where,
            "settings": [],
            "note": "no stanza: only one replay when the connection could not be made",
        }
    values = {
        "attempts": str(policy.attempts),
        "codes": " ".join(map(str, sorted(policy.codes))) or "none",
        "conditions": " ".join(sorted(policy.conditions)) or "none",
        "methods": policy.methods.value,
        "backoff": duration(policy.backoff),
        "maxBackoff": duration(policy.max_backoff),
        "maxBufferedBody": size(policy.max_buffered_body),
    }
    rows = [setting(name, value, origin(f"{path}.{name}")) for name, value in values.items()]
    return {
        "enabled": policy.attempts > 0,
        "origin": where,
        "settings": rows,
        "note": f"at most {1 + policy.attempts} tries, within the upstream's budget",
    }


def limits(listener: Listener, index: int, origin: Origin) -> list[Json]:
    """What the listener bounds."""
    path = f"listeners[{index}]"
    values = {name: duration(getattr(listener, attribute)) for name, attribute in _LISTENER_CLOCKS}
    trusted = listener.trusted_proxies
    values |= {
        "maxHeaderBytes": size(listener.max_header_bytes),
        "maxHeaderCount": str(listener.max_header_count),
        "maxTargetBytes": size(listener.max_target_bytes),
        "maxRequestBody": size(listener.max_request_body) if listener.max_request_body else "unlimited",
        "maxConnections": _limit(listener.max_connections),
        "forwarded": listener.forwarded.value,
        "trustedProxies": "every peer" if trusted is None else " ".join(map(str, trusted)) or "nobody",
    }
    return [setting(name, value, origin(f"{path}.{name}")) for name, value in values.items()]


def upstreams(backends: Sequence[Backend], snapshot: Snapshot, live: Mapping[str, UpstreamStatus], origin: Origin) -> list[Json]:
    """Each upstream that may be chosen: its share, how it balances, its endpoints now (offline: as configured), its limits."""
    total = sum(backend.weight for backend in backends) or 1
    places = {upstream.name: (place, upstream) for place, upstream in _places([backend.name for backend in backends], snapshot)}
    rows = []
    for backend in backends:
        place, upstream = places[backend.name]
        status = live.get(backend.name)
        rows.append(
            {
                "name": backend.name,
                "weight": backend.weight,
                "share": round(100 * backend.weight / total, 2),
                "origin": origin(place),
                "balancing": _balancing(upstream),
                "problem": "" if status is None else status.problem,
                "endpoints": _configured(upstream) if status is None else _live(status),
                "limits": _upstream_limits(upstream, place, origin),
            }
        )
    return rows


def _places(names: Sequence[str], snapshot: Snapshot) -> list[tuple[str, Upstream]]:
    """(path in the document, upstream) of those named, each once, in the document's order."""
    wanted = set(names)
    return [(f"upstreams[{index}]", upstream) for index, upstream in enumerate(snapshot.upstreams.values()) if upstream.name in wanted]


def _balancing(upstream: Upstream) -> str:
    balancer = upstream.load_balancer
    if balancer.hash_on is None:
        return balancer.policy.value
    return f"{balancer.policy.value} on {balancer.hash_on.value} {balancer.hash_name}".rstrip()


def _configured(upstream: Upstream) -> list[Json]:
    if upstream.service is not None:
        return [{"address": str(upstream.service), "state": None, "weight": 1, "inFlight": None}]
    if upstream.dns is not None:
        return [{"address": f"dns:{upstream.dns.host}:{upstream.dns.port}", "state": None, "weight": 1, "inFlight": None}]
    return [
        {"address": _address(target.unix_path, target.host, target.port), "state": None, "weight": target.weight, "inFlight": None}
        for target in upstream.targets
    ]


def _address(unix_path: str | None, host: str, port: int) -> str:
    if unix_path is not None:
        return f"unix:{unix_path}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _live(status: UpstreamStatus) -> list[Json]:
    return [{"address": one.address, "state": one.state, "weight": one.weight, "inFlight": one.active} for one in status.endpoints]


def _upstream_limits(upstream: Upstream, place: str, origin: Origin) -> list[Json]:
    pool, budget = upstream.pool, upstream.retry_budget
    values = {
        "connectionPool.maxConnections": _limit(pool.max_connections),
        "connectionPool.maxPendingRequests": _limit(pool.max_pending_requests),
        "connectionPool.maxRequests": _limit(pool.max_requests),
        "connectionPool.idleTimeout": duration(pool.idle_timeout),
        "connectionPool.learnKeepAlive": "true" if pool.learn_keep_alive else "false",
        "connectionPool.maxConnectionAge": duration(pool.max_connection_age),
        "connectionPool.maxRequestsPerConnection": _limit(pool.max_requests_per_connection),
        "retryBudget.percent": f"{budget.percent:g}",
        "retryBudget.interval": duration(budget.interval),
        "retryBudget.minRetryRate": f"{budget.min_retries} per {duration(budget.min_interval)}",
    }
    return [setting(name, value, origin(f"{place}.{name}")) for name, value in values.items()]
