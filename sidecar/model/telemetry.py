"""The nouns of `telemetry` in the document: where traces, metrics and the access log go, and what is in them."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct, field


class Exporter(StrEnum):
    """Where spans go."""

    NONE = "None"
    OTLP = "OTLP"
    OTLP_GRPC = "OTLPGRPC"


class Sampler(StrEnum):
    """Which traces are kept."""

    ALWAYS_ON = "AlwaysOn"
    ALWAYS_OFF = "AlwaysOff"
    RATIO = "TraceIdRatio"
    PARENT_RATIO = "ParentBasedTraceIdRatio"


class Propagator(StrEnum):
    """Formats in which a trace travels, by the names of OTEL_PROPAGATORS."""

    TRACE_CONTEXT = "tracecontext"
    BAGGAGE = "baggage"
    B3 = "b3"
    B3_MULTI = "b3multi"
    JAEGER = "jaeger"


class Tracing(Struct, frozen=True, kw_only=True):
    """`telemetry.tracing`. None: the document is silent, and the environment may speak (observe/tracing/settings.py)."""

    exporter: Exporter = Exporter.NONE
    endpoint: str | None = None
    sampler: Sampler | None = None
    ratio: float | None = None
    propagators: tuple[Propagator, ...] | None = None


class LogFormat(StrEnum):
    """`telemetry.accessLog.format`."""

    JSON = "JSON"
    NONE = "None"


class LogQuery(StrEnum):
    """What the access log shows of the query string."""

    DROP = "Drop"
    KEEP = "Keep"


class AccessLog(Struct, frozen=True, kw_only=True):
    """`telemetry.accessLog`. `always_*`: written whatever `sample` says; `slower_than` None: no such rule."""

    format: LogFormat = LogFormat.JSON
    sample: float = 1.0
    always_error: bool = True
    always_retried: bool = True
    slower_than: float | None = 1.0
    redact_headers: frozenset[bytes] = frozenset({b"authorization", b"cookie", b"set-cookie"})
    query: LogQuery = LogQuery.DROP


DEFAULT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


class OtlpMetrics(Struct, frozen=True, kw_only=True):
    """`telemetry.metrics.otlp`: the collector's base URL, and seconds between two exports."""

    endpoint: str
    interval: float = 60.0


class Telemetry(Struct, frozen=True, kw_only=True):
    """`telemetry`; `buckets` are histogram bounds in seconds, ascending. `otlp_metrics` None: metrics are only scraped."""

    tracing: Tracing = field(default_factory=Tracing)
    buckets: tuple[float, ...] = DEFAULT_BUCKETS
    otlp_metrics: OtlpMetrics | None = None
    access_log: AccessLog = field(default_factory=AccessLog)
