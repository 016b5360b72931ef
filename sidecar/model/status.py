"""What the registry tells about an upstream, for metrics, the admin surface and `outrider status`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatus:
    """One endpoint now."""

    address: str
    state: str
    weight: int
    active: int
    requests: int
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamStatus:
    """One upstream now. `problem`: why it has no endpoints, or why they may be old ("" when all is well)."""

    name: str
    source: str
    """`static` or `dns`."""
    endpoints: tuple[EndpointStatus, ...]
    connections_active: int
    connections_idle: int
    connections_connecting: int
    pending: int
    learned_idle_timeout: float | None
    """Seconds after which this server was seen to close idle connections."""
    budget_available: float
    """Retries that the budget would allow now."""
    problem: str = ""
