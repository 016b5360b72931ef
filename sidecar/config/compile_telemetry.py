"""The document's `telemetry` to the nouns of `model.telemetry`."""

from __future__ import annotations

from msgspec import UNSET

from sidecar.config import values
from sidecar.model import telemetry as model
from sidecar.model.document import AccessLogDoc, Always, OtlpMetricsDoc, SlowerThanDoc, TelemetryDoc, TracingDoc


def telemetry(doc: TelemetryDoc) -> model.Telemetry:
    """`telemetry` of the document."""
    return model.Telemetry(
        tracing=_tracing(doc.tracing),
        buckets=tuple(map(float, doc.metrics.buckets)),
        otlp_metrics=None if doc.metrics.otlp is None else _otlp_metrics(doc.metrics.otlp),
        access_log=_access_log(doc.access_log),
    )


def _tracing(doc: TracingDoc) -> model.Tracing:
    return model.Tracing(
        exporter=doc.exporter,
        endpoint=doc.endpoint,
        sampler=None if doc.sampler is UNSET else doc.sampler,
        ratio=None if doc.ratio is UNSET else float(doc.ratio),
        propagators=None if doc.propagators is UNSET else tuple(dict.fromkeys(doc.propagators)),
    )


def _otlp_metrics(doc: OtlpMetricsDoc) -> model.OtlpMetrics:
    return model.OtlpMetrics(endpoint=doc.endpoint, interval=values.seconds(doc.interval))


def _access_log(doc: AccessLogDoc) -> model.AccessLog:
    return model.AccessLog(
        format=doc.format,
        sample=float(doc.sample),
        always_error=Always.ERROR in doc.always,
        always_retried=Always.RETRIED in doc.always,
        slower_than=next((values.seconds(rule.slower_than) for rule in doc.always if isinstance(rule, SlowerThanDoc)), None),
        redact_headers=frozenset(name.lower().encode("ascii") for name in doc.redact_headers),
        query=doc.query,
    )
