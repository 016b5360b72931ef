"""Exporters of OpenTelemetry's SDK, which want objects: the console, and HTTP with a session of somebody's own."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter

from sidecar.observe.tracing.exporters import last_words
from sidecar.observe.tracing.record import Record
from sidecar.observe.tracing.spans import SpanBuilder


class SdkExporter:
    """Implements Exporter (exporters.py)."""

    def __init__(self, exporter: SpanExporter, resource: Resource, methods: frozenset[str]) -> None:
        self._exporter = exporter
        self._builder = SpanBuilder(resource, methods)

    def encode(self, item: Record | ReadableSpan) -> Sequence[ReadableSpan]:
        """See Exporter."""
        return self._builder.spans(item) if isinstance(item, Record) else [item]

    def export(self, spans: Sequence[ReadableSpan]) -> str:
        """See Exporter."""
        last_words.text = ""
        try:
            if self._exporter.export(spans).name == "SUCCESS":
                return ""
        except Exception as error:  # noqa: BLE001 - a library's; whatever it is, these spans are gone and the next may fare better
            return f"{type(error).__name__}: {error}"
        return last_words.text or "no reason given"

    def abandon(self) -> None:
        """See Exporter."""
        self._exporter.shutdown()

    def shutdown(self) -> None:
        """See Exporter."""
        self._exporter.shutdown()
