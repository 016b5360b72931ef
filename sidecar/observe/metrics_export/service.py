"""MetricsExport as a whole: follows the document, reads the counters off on the event loop, and has a thread send them.

The sums are cumulative, so nothing is lost when a round fails or is skipped: the next one has it all. That is why at
most one round waits while the collector is slow, and why nothing is ever queued up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Final

from sidecar.errors import OutriderError
from sidecar.model.telemetry import OtlpMetrics
from sidecar.observe.series import Family, Histogram, Point
from sidecar.tasks import cancel_and_wait, create_task

if TYPE_CHECKING:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    from sidecar.observe.metrics_export.data import Encoder, Taken

log = logging.getLogger("outrider")

PATH: Final = "/v1/metrics"
SLICE: Final = 500
"""Points that are read off at a stretch, below a millisecond."""
_POLL: Final = 0.01
"""Seconds between two looks at a thread that is about to end."""
_SAY_AGAIN: Final = 60.0
"""Seconds between two warnings about a collector that comes and goes."""


class ExportUnavailable(OutriderError):
    """The document asks for an export that cannot be had; the text is a sentence for its author."""


class Sender:
    """A thread that sends what it is handed; `start` it once, `close` it once."""

    def __init__(self, exporter: OTLPMetricExporter, encoder: Encoder, results: Counter[str]) -> None:
        self._exporter = exporter
        self._encoder = encoder
        self._results = results
        self._changed = threading.Condition()
        self._waiting: list[Taken] | None = None
        self._closing_at: float | None = None
        """When it is to end, sent or not."""
        self._failing = False
        self._said_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="metrics export", daemon=True)

    def start(self) -> None:
        """From now on what is handed over is sent."""
        self._thread.start()

    def hand_over(self, taken: list[Taken]) -> None:
        """Send this; it takes the place of what still waits."""
        with self._changed:
            self._waiting = taken
            self._changed.notify_all()

    def close(self, seconds: float) -> None:
        """Send what waits within `seconds`, then end; does not wait for it."""
        with self._changed:
            self._closing_at = monotonic() + seconds
            self._changed.notify_all()

    def abandon(self) -> None:
        """Whatever it waits for: give up now. A thread that waits for an answer ends with the exporter's own time-out."""
        self.close(0.0)
        self._exporter.shutdown()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            self._send(taken)
        self._exporter.shutdown()

    def _next(self) -> list[Taken] | None:
        with self._changed:
            while self._waiting is None and self._closing_at is None:
                self._changed.wait()
            taken, self._waiting = self._waiting, None
            return taken

    def _send(self, taken: list[Taken]) -> None:
        from sidecar.observe.tracing.exporters import last_words  # noqa: PLC0415 - OpenTelemetry has been imported by now

        last_words.text = ""
        sent = True
        try:
            for data in self._encoder.batches(taken):
                if self._closing_at is not None and monotonic() >= self._closing_at:
                    sent, last_words.text = False, "there was no time left"
                else:
                    sent = self._exporter.export(data).name == "SUCCESS"
                if not sent:
                    break
        except Exception as error:  # noqa: BLE001 - a library's; the next round has these numbers too
            sent, last_words.text = False, f"{type(error).__name__}: {error}"
        self._results["success" if sent else "failed"] += 1
        if sent:
            self._worked()
        else:
            self._failed(last_words.text)

    def _failed(self, why: str) -> None:
        now = monotonic()
        if self._closing_at is not None and now >= self._closing_at:
            return  # given up on purpose: what the library says about that is no news
        if not self._failing and now - self._said_at >= _SAY_AGAIN:
            self._said_at = now
            log.warning("metrics cannot be sent to the collector: %s", why or "no reason given", extra={"event": "metrics_export_failed"})
        self._failing = True

    def _worked(self) -> None:
        if self._failing:
            self._failing = False
            log.info("metrics are sent to the collector again", extra={"event": "metrics_export_back"})


class Prepared:
    """An export as one configuration wants it. Nothing runs before `MetricsExport.commit`."""

    __slots__ = ("sender", "settings")

    def __init__(self, settings: OtlpMetrics | None = None, sender: Sender | None = None) -> None:
        self.settings = settings
        self.sender = sender


class MetricsExport:
    """`prepare` a configuration, then `commit` it or `discard` it; one at a time. `aclose` at the end."""

    def __init__(
        self,
        collect: Callable[[], Iterable[Family]],
        environment: Mapping[str, str] | None = None,
        *,
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`collect` is called on the event loop. `refresh`: awaited before, where the counters are not all in this process."""
        self._collect = collect
        self._refresh = refresh
        self._environment = os.environ if environment is None else environment
        self._since = time.time_ns()
        self._active = Prepared()
        self._task: asyncio.Task[None] | None = None
        self._replaced: list[Sender] = []
        """Senders of earlier configurations that still send what they have."""
        self.results: Counter[str] = Counter()
        """Rounds by result: `success`, `failed`."""

    async def prepare(self, settings: OtlpMetrics | None) -> Prepared:
        """What the document asks for; OTEL_SDK_DISABLED turns it off. Raises ExportUnavailable.

        The libraries are imported in a thread (0.3 s of CPU), so that no request waits for them.
        """
        if self._environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            settings = None
        if settings == self._active.settings:
            return self._active
        return Prepared() if settings is None else await asyncio.to_thread(self._build, settings)

    def commit(self, prepared: Prepared) -> None:
        """Make it effective. What the sender before has it sends by itself, in bounded time."""
        if prepared is self._active:
            return
        before, self._active = self._active, prepared
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if before.sender is not None:
            before.sender.close(0.0)
            self._replaced = [*(sender for sender in self._replaced if sender.alive), before.sender]
        if prepared.sender is not None and prepared.settings is not None:
            prepared.sender.start()
            self._task = create_task(self._rounds(prepared.sender, prepared.settings.interval), name="metrics export")

    def discard(self, prepared: Prepared) -> None:
        """The configuration was refused by somebody else."""
        if prepared is not self._active and prepared.sender is not None:
            prepared.sender.abandon()

    async def aclose(self, seconds: float) -> None:
        """Send the last state of things, for at most `seconds`."""
        if self._task is not None:
            await cancel_and_wait([self._task])
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        senders = [*self._replaced, *([] if self._active.sender is None else [self._active.sender])]
        if self._active.sender is not None:
            self._active.sender.hand_over(await self._take())
        self._active, self._task = Prepared(), None
        for sender in senders:
            sender.close(seconds)
        while (left := [sender for sender in senders if sender.alive]) and loop.time() < deadline:  # noqa: ASYNC110 - as in Tracing.aclose
            await asyncio.sleep(_POLL)
        for sender in left:
            sender.abandon()

    async def _rounds(self, sender: Sender, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            sender.hand_over(await self._take())

    async def _take(self) -> list[Taken]:
        """Read everything off, letting traffic through in between."""
        from sidecar.observe.metrics_export.data import Taken  # noqa: PLC0415 - it has been imported by now

        if self._refresh is not None:
            await self._refresh()
        taken: list[Taken] = []
        room = SLICE
        for family in self._collect():
            points: list[Point] = []
            for labels, value in family.points:
                points.append((labels, value.copy() if isinstance(value, Histogram) else value))
                room -= 1
                if not room:
                    await asyncio.sleep(0)
                    room = SLICE
            taken.append(Taken(family.name, family.kind, family.help, points))
        return taken

    def _build(self, settings: OtlpMetrics) -> Prepared:
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415 - heavy

            from sidecar.observe.metrics_export.data import Encoder  # noqa: PLC0415 - heavy
            from sidecar.observe.tracing.exporters import listen  # noqa: PLC0415 - with the others
            from sidecar.observe.tracing.resource import make_resource  # noqa: PLC0415 - heavy

            exporter = OTLPMetricExporter(endpoint=settings.endpoint.rstrip("/") + PATH)
        except ImportError as error:
            raise ExportUnavailable(
                "this installation cannot send metrics to a collector: the libraries are not there (pip install 'outrider[tracing]', or leave otlp out)"
            ) from error
        except Exception as error:  # a variable or a certificate that the exporter cannot read
            raise ExportUnavailable(
                f"the exporter of metrics cannot be set up: {type(error).__name__}: {error} (look at OTEL_EXPORTER_OTLP_*)"
            ) from error
        listen()
        return Prepared(settings, Sender(exporter, Encoder(make_resource(self._environment), self._since), self.results))
