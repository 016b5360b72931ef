"""Exports: everything that the sidecar sends to a collector, spans and metrics, following the document as one."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from sidecar.errors import OutriderError
from sidecar.model.telemetry import Telemetry
from sidecar.observe.metrics_export.service import ExportUnavailable, MetricsExport
from sidecar.observe.metrics_export.service import Prepared as PreparedMetrics
from sidecar.observe.tracing.exporters import TracingUnavailable
from sidecar.observe.tracing.service import Prepared as PreparedTracing
from sidecar.observe.tracing.service import Tracing


class ExportRefused(OutriderError):
    """The document asks for what cannot be had. `path`: where; the text: a sentence for its author."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


class Prepared(NamedTuple):
    """What one configuration wants. Nothing runs before `commit`."""

    tracing: PreparedTracing
    metrics: PreparedMetrics


class Exports:
    """`prepare` a configuration, then `commit` it or `discard` it; one at a time. `aclose` at the end."""

    def __init__(self, tracing: Tracing, metrics: MetricsExport) -> None:
        self._tracing = tracing
        self._metrics = metrics

    async def prepare(self, telemetry: Telemetry) -> Prepared:
        """Raises ExportRefused."""
        try:
            metrics = await self._metrics.prepare(telemetry.otlp_metrics)
        except ExportUnavailable as error:
            raise ExportRefused("telemetry.metrics.otlp", str(error)) from error
        try:
            return Prepared(await self._tracing.prepare(telemetry.tracing), metrics)
        except BaseException as error:
            self._metrics.discard(metrics)
            if isinstance(error, TracingUnavailable):
                raise ExportRefused("telemetry.tracing.exporter", str(error)) from error
            raise

    def commit(self, prepared: Prepared) -> None:
        """Make it effective."""
        self._tracing.commit(prepared.tracing)
        self._metrics.commit(prepared.metrics)

    def discard(self, prepared: Prepared) -> None:
        """The configuration was refused by somebody else."""
        self._tracing.discard(prepared.tracing)
        self._metrics.discard(prepared.metrics)

    async def aclose(self, seconds: float) -> None:
        """Send what is left, for at most `seconds`."""
        await asyncio.gather(self._tracing.aclose(seconds), self._metrics.aclose(seconds))
