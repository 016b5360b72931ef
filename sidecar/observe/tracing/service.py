"""Tracing as a whole: follows the document, owns the pipeline, hears of finished exchanges."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sidecar.model.exchange import Exchange
from sidecar.model.telemetry import Tracing as Document
from sidecar.observe.base import SilentObserver
from sidecar.observe.tracer import Tracer
from sidecar.observe.tracing.context import ExchangeTrace, ExchangeTracer, Sampling
from sidecar.observe.tracing.exporters import TracingUnavailable, make_exporter, unavailable
from sidecar.observe.tracing.pipeline import Counts, Pipeline
from sidecar.observe.tracing.propagation import Formats
from sidecar.observe.tracing.record import record
from sidecar.observe.tracing.settings import Settings, resolve, shown

if TYPE_CHECKING:
    from aiohttp import TraceConfig
    from opentelemetry.sdk.resources import Resource

    from sidecar.observe.tracing.aiohttp_client import ClientSpans

log = logging.getLogger("outrider")
_POLL: Final = 0.01
"""Seconds between two looks at a thread that is about to end."""


class Prepared:
    """Tracing as one configuration wants it. Nothing runs before `Tracing.commit`."""

    __slots__ = ("client_spans", "pipeline", "resource", "settings", "tracer")

    def __init__(
        self,
        settings: Settings | None = None,
        tracer: Tracer | None = None,
        pipeline: Pipeline | None = None,
        resource: Resource | None = None,
    ) -> None:
        self.settings = settings
        self.tracer = tracer
        """None: tracing is off."""
        self.pipeline = pipeline
        self.resource = resource
        self.client_spans: ClientSpans | None = None
        """Made when the first session asks."""

    def make_client_spans(self) -> None:
        """For sessions of aiohttp. Imports the instrumentation: call it in a thread."""
        if self.client_spans is None and self.settings is not None and self.resource is not None and self.pipeline is not None:
            from sidecar.observe.tracing.aiohttp_client import ClientSpans  # noqa: PLC0415 - aiohttp is heavy

            self.client_spans = ClientSpans(self.resource, self.settings, self.pipeline)


class Tracing(SilentObserver):
    """`prepare` a configuration, then `commit` it or `discard` it; one at a time. `aclose` at the end."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        self._active = Prepared()
        self._pipeline: Pipeline | None = None
        self._replaced: list[Pipeline] = []
        """Pipelines of earlier configurations that still send what they have."""
        self._warned: set[str] = set()
        self.counts = Counts()

    # -- configuration

    async def prepare(self, document: Document) -> Prepared:
        """What `document` and the environment ask for. Raises TracingUnavailable when the document asks for what cannot be had.

        The libraries are imported in a thread (0.3 s of CPU), so that no request waits for them.
        """
        settings = resolve(document, self._environment, self._warn)
        if settings == self._active.settings:
            return self._active
        if settings is None:
            return Prepared()
        try:
            return await asyncio.to_thread(self._build, settings)
        except TracingUnavailable as error:
            if settings.from_document:
                raise
            self._warn(f"tracing is off: {error}")
            return Prepared()

    def commit(self, prepared: Prepared) -> None:
        """Make it effective. What the pipeline before has queued it sends by itself, in bounded time."""
        if prepared is self._active:
            return
        before, self._active, self._pipeline = self._pipeline, prepared, prepared.pipeline
        if self._pipeline is not None:
            try:
                self._pipeline.start()
            except RuntimeError as error:  # the configuration is in force already
                self._pipeline = None
                self._warn(f"no spans are exported: {error} (the sidecar needs more pids)")
        if before is not None:
            before.close()
            self._replaced = [*(pipeline for pipeline in self._replaced if pipeline.alive), before]

    def discard(self, prepared: Prepared) -> None:
        """The configuration was refused by somebody else."""
        if prepared is not self._active and prepared.pipeline is not None:
            prepared.pipeline.abandon()

    def shown(self, document: dict[str, Any]) -> dict[str, Any]:
        """The effective document with `telemetry.tracing` as the environment has completed it."""
        document["telemetry"]["tracing"].update(shown(self._active.settings))
        return document

    # -- traffic

    def exchange_finished(self, exchange: Exchange) -> None:
        """See Observer."""
        trace = exchange.trace
        if trace is not None and trace.sampled and self._pipeline is not None:
            assert isinstance(trace, ExchangeTrace)
            self._pipeline.put(record(exchange, trace))

    # -- what others want

    def dropped(self) -> Mapping[str, int]:
        """Spans that were lost, by why."""
        return self.counts.dropped

    def client_trace_configs(self) -> list[TraceConfig]:
        """For aiohttp sessions that are not on the hot path: a span for each request while tracing is on, none for watches.

        Imports aiohttp. What is on is looked at per request, so a session may be older than the configuration.
        """
        from sidecar.observe.tracing.aiohttp_hooks import trace_config  # noqa: PLC0415 - aiohttp is heavy

        return [trace_config(self._client_spans)]

    async def _client_spans(self) -> ClientSpans | None:
        active = self._active
        if active.client_spans is None and active.pipeline is not None:
            await asyncio.to_thread(active.make_client_spans)
        return active.client_spans

    async def aclose(self, seconds: float) -> None:
        """Send what is queued, for at most `seconds`; what is left then is lost."""
        pipelines = [*self._replaced, *([] if self._pipeline is None else [self._pipeline])]
        self._active, self._pipeline = Prepared(), None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        for pipeline in pipelines:
            pipeline.close(seconds)
        while (left := [pipeline for pipeline in pipelines if pipeline.alive]) and loop.time() < deadline:  # noqa: ASYNC110 - no event can be awaited across threads without an executor, whose threads would hold up the exit
            await asyncio.sleep(_POLL)
        for pipeline in left:
            pipeline.abandon()

    # -- inside

    def _warn(self, message: str) -> None:
        """Once each: every reload reads the environment again."""
        if message not in self._warned:
            self._warned.add(message)
            log.warning("%s", message, extra={"event": "tracing_warning"})

    def _build(self, settings: Settings) -> Prepared:
        try:
            return self._assemble(settings)
        except (ImportError, ValueError, OSError, RuntimeError) as error:  # the last: a plug-in that is not there
            raise unavailable(settings.kind, error) from error

    def _assemble(self, settings: Settings) -> Prepared:
        from sidecar.observe.tracing.resource import make_resource  # noqa: PLC0415 - OpenTelemetry is imported when it is used

        formats = Formats(settings.propagators)
        resource = make_resource(self._environment)
        exporter = make_exporter(settings, resource, self._warn)
        pipeline = Pipeline(exporter, self.counts, queue=settings.queue, batch=settings.batch, delay=settings.delay)
        sampling = Sampling(settings.ratio, parent_based=settings.parent_based)
        excluded = re.compile(settings.excluded.encode()) if settings.excluded else None
        return Prepared(settings, ExchangeTracer(formats, sampling, excluded), pipeline, resource)
