"""What the registry tells about an upstream, for metrics, the admin surface and `outrider status`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigStatus:
    """Where the configuration comes from and how it is, for metrics and the admin surface.

    `source`, `revision` and `hash` are of the active document, "" while there is none. `rejected`: the newest document
    is not the active one. `updates` counts by (source, result), result one of `applied unchanged rejected`.
    """

    source: str = ""
    revision: str = ""
    hash: str = ""
    last_applied_timestamp: float = 0.0
    """Unix seconds; 0.0 = never."""
    rejected: bool = False
    source_connected: Mapping[str, bool] = field(default_factory=dict)
    updates: Mapping[tuple[str, str], int] = field(default_factory=dict)
