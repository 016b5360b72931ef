"""How the health of an upstream's endpoints is judged, as the document asks for it. Durations are seconds."""

from __future__ import annotations

from msgspec import Struct


class SuccessRate(Struct, frozen=True, kw_only=True):
    """`successRate`: the least share of successes among `min_requests` or more in `window`."""

    threshold: float = 0.8
    window: float = 10.0
    min_requests: int = 20


class OutlierDetection(Struct, frozen=True, kw_only=True):
    """`outlierDetection` of an upstream. `max_ejection` is a share from 0 to 1."""

    consecutive_failures: int = 7
    min_penalty: float = 1.0
    max_penalty: float = 60.0
    max_ejection: float = 0.5
    success_rate: SuccessRate | None = None


class CircuitBreaking(Struct, frozen=True, kw_only=True):
    """`circuitBreaker` of an upstream."""

    consecutive_failures: int = 10
    open_for: float = 10.0
    half_open_requests: int = 1


class HealthCheck(Struct, frozen=True, kw_only=True):
    """`healthCheck` of an upstream: a GET for `path` at every endpoint, every `interval`."""

    path: bytes = b"/healthz"
    interval: float = 10.0
    timeout: float = 2.0
    unhealthy_threshold: int = 3
    healthy_threshold: int = 2
