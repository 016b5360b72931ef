"""What the registry tells about an upstream, for metrics, the admin surface and `outrider status`."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field


class EndpointStatus(Struct, frozen=True, kw_only=True):
    """One endpoint now."""

    address: str
    state: str
    weight: int
    active: int
    requests: int
    failures: int


class HealthStatus(Struct, frozen=True, kw_only=True):
    """How an upstream's health is judged now; empty where the document does not ask for it."""

    circuit: str = ""
    """`closed`, `open` or `half-open`; "" without a circuit breaker."""
    circuit_opened: int = 0
    ejections: Mapping[str, int] = field(default_factory=dict)
    """By criterion."""
    checks: Mapping[str, int] = field(default_factory=dict)
    """By result, `success` or `failure`."""


class UpstreamStatus(Struct, frozen=True, kw_only=True):
    """One upstream now. `problem`: why it has no endpoints, or why they may be old ("" when all is well)."""

    name: str
    source: str
    """`static`, `service` or `dns`."""
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
    copies: Mapping[str, int] = field(default_factory=dict)
    """Mirrored requests to it, by what became of them."""
    health: HealthStatus | None = None
    """None: nothing watches it."""


class ConfigStatus(Struct, frozen=True, kw_only=True):
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


class KubeStatus(Struct, frozen=True, kw_only=True):
    """What the sidecar has to do with the API server, for metrics. All empty when it has nothing to do with it.

    `requests` counts lists and watches that have ended by (resource, verb, outcome), `watches` those that are wanted now
    by (resource, state), state one of `connected lost`; `events` counts Events about documents by what became of them.
    """

    requests: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    watches: Mapping[tuple[str, str], int] = field(default_factory=dict)
    events: Mapping[str, int] = field(default_factory=dict)


class CertificateStatus(Struct, frozen=True, kw_only=True):
    """A certificate with a key that the document names. `not_after`: Unix seconds, None while there is none.

    `problem`: why there is none, or why it may be old ("" when all is well).
    """

    source: str
    """A path, or `Secret shop/orders-tls`."""
    not_after: float | None
    problem: str


class WorkersStatus(Struct, frozen=True, kw_only=True):
    """The processes that serve traffic, for metrics. `exits`: those that have ended without being told to."""

    serving: int = 1
    exits: int = 0
