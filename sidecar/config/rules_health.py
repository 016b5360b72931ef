"""Rules for how an upstream's health is judged: outlier detection, circuit breaker, health checks."""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.config import values
from sidecar.config.problem import Path
from sidecar.config.rules_values import Finding, attempt
from sidecar.model.document_ends import HealthCheckDoc, OutlierDetectionDoc, UpstreamDoc


def check_health(path: Path, upstream: UpstreamDoc) -> Iterator[Finding]:
    """Durations that must not be nothing, and bounds in their order."""
    if upstream.outlier_detection is not None:
        yield from _check_outlier((*path, "outlierDetection"), upstream.outlier_detection)
    if upstream.circuit_breaker is not None:
        yield from _positive((*path, "circuitBreaker", "openFor"), upstream.circuit_breaker.open_for)
    if upstream.health_check is not None:
        yield from _check_check((*path, "healthCheck"), upstream.health_check)


def _positive(path: Path, text: str) -> Iterator[Finding]:
    if not values.seconds(text):
        yield path, "this duration cannot be 0s (write for example 10s)"


def _check_outlier(path: Path, doc: OutlierDetectionDoc) -> Iterator[Finding]:
    yield from _positive((*path, "minPenalty"), doc.min_penalty)
    if values.seconds(doc.max_penalty) < values.seconds(doc.min_penalty):
        yield (*path, "maxPenalty"), f"{doc.max_penalty} is shorter than minPenalty, {doc.min_penalty} (write a longer one)"
    if doc.success_rate is not None:
        yield from _positive((*path, "successRate", "window"), doc.success_rate.window)


def _check_check(path: Path, doc: HealthCheckDoc) -> Iterator[Finding]:
    yield from attempt((*path, "path"), values.check_target, doc.path)
    yield from _positive((*path, "interval"), doc.interval)
    yield from _positive((*path, "timeout"), doc.timeout)
