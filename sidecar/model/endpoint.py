"""Endpoint: one address of an upstream, with the counters that balancing needs. Mutable, owned by the registry."""

from __future__ import annotations

from enum import StrEnum

from sidecar.model.compiler import mypyc_attr


class EndpointState(StrEnum):
    """Label `state` of `outrider_upstream_endpoints`."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    EJECTED = "ejected"
    DRAINING = "draining"


@mypyc_attr(allow_interpreted_subclasses=True)  # upstream/forward.py is never compiled
class Endpoint:
    """`host:port` or a unix socket path. Lives as long as its address is in the upstream's set or has requests."""

    __slots__ = ("active", "ewma", "ewma_at", "failures", "host", "label", "port", "requests", "state", "tls", "unix_path", "weight")

    def __init__(self, host: str, port: int, *, weight: int = 1, unix_path: str | None = None, tls: bool = False) -> None:
        self.host = host
        self.port = port
        self.tls = tls
        """Connections to it begin with a TLS handshake."""
        self.unix_path = unix_path
        self.weight = weight
        self.label = unix_path or (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        self.state = EndpointState.HEALTHY
        self.active = 0
        """Requests in flight."""
        self.requests = 0
        self.failures = 0
        self.ewma = 0.0
        """Peak-sensitive moving average of response time, seconds (policy/balancer.py)."""
        self.ewma_at = 0.0
