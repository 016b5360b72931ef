"""From finished exchanges to the collector: a bounded queue, and a thread that makes spans and exports them.

Instead of the SDK's BatchSpanProcessor, because that drops in silence, flushes without a bound, and wants spans made on
the event loop: here the loop pays 4 µs for a sampled request. Whatever the collector does (slow, dead, refusing, a black
hole), it happens to this thread; what does not fit into the queue meanwhile is dropped and counted.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Sequence
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final

from sidecar.observe.tracing.record import Record

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from sidecar.observe.tracing.exporters import Exporter

log = logging.getLogger("outrider")

QUEUE_FULL: Final = "queue_full"
EXPORT_FAILED: Final = "export_failed"
FLUSH_SECONDS: Final = 10.0
"""What a pipeline that a reload has replaced may take to send what it has."""
SLICE: Final = 8
"""Exchanges that are encoded at a stretch, some 60 µs: a busy thread keeps the interpreter for 5 ms otherwise, whoever waits."""
PAUSE: Final = 0.0001
"""Seconds between two slices: long enough for the event loop to wake up and take the interpreter."""
_SAY_AGAIN: Final = 60.0
"""Seconds between two warnings about a collector that comes and goes."""


class Counts:
    """What became of spans, over all pipelines of the process."""

    def __init__(self) -> None:
        self.exported = 0
        self.dropped: Counter[str] = Counter()
        """By why."""
        self._lock = threading.Lock()

    def drop(self, why: str, spans: int) -> None:
        """From either thread."""
        with self._lock:
            self.dropped[why] += spans

    def export(self, spans: int) -> None:
        """From an export thread."""
        with self._lock:
            self.exported += spans


class Pipeline:
    """Takes records from the event loop; `start` it once, `close` it once."""

    def __init__(
        self,
        exporter: Exporter,
        counts: Counts,
        *,
        queue: int,
        batch: int,
        delay: float,
    ) -> None:
        """`queue` and `batch`: spans; `delay`: seconds that a span may wait for a batch to fill."""
        self._exporter = exporter
        self._counts = counts
        self._max = queue
        self._batch = batch
        self._delay = delay
        self._queue: deque[Record | ReadableSpan] = deque()
        self._put = 0
        self._taken = 0
        """Spans that went in, written by the event loop alone, and that came out, written by the thread alone."""
        self._wake = threading.Event()
        self._closing_at: float | None = None
        """When it is to end, sent or not."""
        self._failing = False
        self._said_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="trace export", daemon=True)

    # -- the event loop's side

    def put(self, record: Record) -> None:
        """Queue the spans of an exchange, or drop and count them."""
        self._enqueue(record, record.spans)

    def put_span(self, span: ReadableSpan) -> None:
        """Queue a span that somebody else has made."""
        if self._closing_at is None:
            self._enqueue(span, 1)
        else:  # of a request that began under an earlier configuration
            self._counts.drop(EXPORT_FAILED, 1)

    def _enqueue(self, item: Record | ReadableSpan, spans: int) -> None:
        waiting = self._put - self._taken + spans
        if waiting > self._max:
            self._counts.drop(QUEUE_FULL, spans)
            return
        self._queue.append(item)
        self._put += spans  # after it is there: the thread must not count on what it cannot take yet
        if waiting >= self._batch and not self._wake.is_set():
            self._wake.set()

    @property
    def queued(self) -> int:
        """Spans that wait, those of the batch that is being sent not among them."""
        return self._put - self._taken

    def start(self) -> None:
        """From now on what is queued is sent."""
        self._thread.start()

    def close(self, seconds: float = FLUSH_SECONDS) -> None:
        """Send what is queued within `seconds`, then end; does not wait for it."""
        self._closing_at = monotonic() + seconds
        self._wake.set()

    def abandon(self) -> None:
        """Whatever it waits for: give up now. Its thread ends at the latest when the exporter's own time-out does."""
        self._closing_at = monotonic()
        self._exporter.abandon()
        self._wake.set()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    # -- the thread's side

    def _run(self) -> None:
        due = monotonic() + self._delay
        while self._closing_at is None:
            self._wake.wait(max(0.0, due - monotonic()))
            self._wake.clear()
            if self._more() or monotonic() >= due:
                due = self._send_all() + self._delay
        self._send_all()
        self._exporter.shutdown()

    def _more(self) -> bool:
        """Whether there is a full batch, or, at the end, anything. Being woken does not say so: that batch may be gone already."""
        return self.queued >= self._batch or (self._closing_at is not None and bool(self._queue))

    def _send_all(self) -> float:
        """What is there, and then full batches only, until the end: what trickles in meanwhile would cost a request for each few spans.

        The moment at which the last batch was taken: the rest's `delay` counts from there, however long that batch was on its way.
        """
        taken_at = monotonic()
        more = bool(self._queue)
        while more:
            taken_at = monotonic()
            spans = self._next_batch()
            if self._closing_at is not None and monotonic() >= self._closing_at:
                self._counts.drop(EXPORT_FAILED, len(spans))
            else:
                self._send(spans)
            more = self._more()
        return taken_at

    def _next_batch(self) -> list[Any]:
        """Up to a batch of what is queued, encoded; the interpreter goes to whoever waits for it every few exchanges."""
        spans: list[Any] = []
        queue = self._queue
        taken = 0
        while queue and len(spans) < self._batch:
            item = queue.popleft()
            count = item.spans if isinstance(item, Record) else 1
            self._taken += count
            spans += self._encoded(item, count)
            taken += 1
            if taken % SLICE == 0 and self._closing_at is None:
                sleep(PAUSE)
        return spans

    def _encoded(self, item: Record | ReadableSpan, count: int) -> Sequence[Any]:
        """A record that no span can be made of is a bug of ours, and must not cost those behind it."""
        try:
            return self._exporter.encode(item)
        except Exception:
            log.exception("a span could not be made", extra={"event": "internal_error"})
            self._counts.drop(EXPORT_FAILED, count)
            return ()

    def _send(self, spans: Sequence[Any]) -> None:
        why = self._exporter.export(spans)
        if why:
            self._counts.drop(EXPORT_FAILED, len(spans))
            self._failed(why)
        else:
            self._counts.export(len(spans))
            self._worked()

    def _failed(self, why: str) -> None:
        now = monotonic()
        if not self._failing and now - self._said_at >= _SAY_AGAIN:
            self._said_at = now
            log.warning("spans cannot be exported and are dropped: %s", why, extra={"event": "trace_export_failed"})
        self._failing = True

    def _worked(self) -> None:
        if self._failing:
            self._failing = False
            log.info("spans are exported again", extra={"event": "trace_export_back"})
