"""Spans of aiohttp sessions that are not on the hot path, by opentelemetry-instrumentation-aiohttp-client.

Its `instrument()` would patch every session of the process and cost each request 70 to 110 µs; a TraceConfig is given to
those who want it. `create_trace_config` does not read OTEL_SEMCONV_STABILITY_OPT_IN: without the mode that we give it,
spans would have the names of before 2023.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.instrumentation._semconv import _StabilityMode
from opentelemetry.instrumentation.aiohttp_client import create_trace_config
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from sidecar.observe.tracing.settings import Settings

if TYPE_CHECKING:
    import aiohttp
    from opentelemetry.sdk.resources import Resource

    from sidecar.observe.tracing.pipeline import Pipeline


class ClientSpans:
    """Where the spans of one configuration go: into the same pipeline, by the same ratio."""

    def __init__(self, resource: Resource, settings: Settings, pipeline: Pipeline) -> None:
        ratio = TraceIdRatioBased(settings.ratio)
        self._provider = TracerProvider(
            resource=resource, sampler=ParentBased(ratio) if settings.parent_based else ratio, shutdown_on_exit=False
        )
        self._provider.add_span_processor(_Into(pipeline))
        self.config: aiohttp.TraceConfig = create_trace_config(tracer_provider=self._provider, sem_conv_opt_in_mode=_StabilityMode.HTTP)
        """The instrumentation's own hooks."""
        self.config.freeze()


class _Into(SpanProcessor):
    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._pipeline.put_span(span)
