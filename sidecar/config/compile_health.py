"""How an upstream's health is judged, in numbers."""

from __future__ import annotations

from sidecar.config import values
from sidecar.model import health as model
from sidecar.model.document_ends import CircuitBreakerDoc, HealthCheckDoc, OutlierDetectionDoc, SuccessRateDoc


def outlier_detection(doc: OutlierDetectionDoc) -> model.OutlierDetection:
    """Durations in seconds, percents as shares."""
    return model.OutlierDetection(
        consecutive_failures=doc.consecutive_failures,
        min_penalty=values.seconds(doc.min_penalty),
        max_penalty=values.seconds(doc.max_penalty),
        max_ejection=doc.max_ejection_percent / 100,
        success_rate=None if doc.success_rate is None else _success_rate(doc.success_rate),
    )


def _success_rate(doc: SuccessRateDoc) -> model.SuccessRate:
    return model.SuccessRate(threshold=float(doc.threshold), window=values.seconds(doc.window), min_requests=doc.min_requests)


def circuit_breaking(doc: CircuitBreakerDoc) -> model.CircuitBreaking:
    """Durations in seconds."""
    return model.CircuitBreaking(
        consecutive_failures=doc.consecutive_failures, open_for=values.seconds(doc.open_for), half_open_requests=doc.half_open_requests
    )


def health_check(doc: HealthCheckDoc) -> model.HealthCheck:
    """Durations in seconds, the target as it goes on the wire."""
    return model.HealthCheck(
        path=values.check_target(doc.path),
        interval=values.seconds(doc.interval),
        timeout=values.seconds(doc.timeout),
        unhealthy_threshold=doc.unhealthy_threshold,
        healthy_threshold=doc.healthy_threshold,
    )
