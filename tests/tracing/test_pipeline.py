"""When the export thread sends what: full batches at once, the rest when it has waited long enough, everything at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from sidecar.observe.tracing.pipeline import SLICE, Counts, Pipeline
from sidecar.observe.tracing.record import Record

SPAN = ReadableSpan("one")
PATIENT = 3600.0
"""A delay that no test lives to see the end of."""
LONG = 60.0


class Held:
    """Each export begins when it is called and ends when `go` permits it."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.go = threading.Semaphore(0)

    def encode(self, item: Record | ReadableSpan) -> Sequence[object]:
        return [item]

    def export(self, spans: Sequence[object]) -> str:
        self.batches.append(len(spans))
        assert self.go.acquire(timeout=LONG)
        return ""

    def abandon(self) -> None:
        """Nobody asks for it."""

    def shutdown(self) -> None:
        """Nothing to let go of."""


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while not happened():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.002)


@contextmanager
def running(*, delay: float = PATIENT, batch: int = 4, queue: int = 100) -> Iterator[tuple[Pipeline, Held, Counts]]:
    exporter, counts = Held(), Counts()
    pipeline = Pipeline(exporter, counts, queue=queue, batch=batch, delay=delay)
    pipeline.start()
    try:
        yield pipeline, exporter, counts
    finally:
        exporter.go.release(1000)
        pipeline.close()
        until(lambda: not pipeline.alive)


def put(pipeline: Pipeline, spans: int) -> None:
    for _ in range(spans):
        pipeline.put_span(SPAN)


def test_a_wake_up_for_a_batch_that_has_gone_already_sends_no_part_of_the_next() -> None:
    with running() as (pipeline, exporter, counts):
        put(pipeline, 4)
        until(lambda: exporter.batches == [4])
        put(pipeline, 5)  # fills a batch while one is on its way, which is taken without a wait; the wake-up for it is left over
        assert pipeline._wake.is_set()
        exporter.go.release(2)
        until(lambda: counts.exported == 8 and not pipeline._wake.is_set())
        exporter.go.release()
        put(pipeline, 3)
        until(lambda: sum(exporter.batches) == 12)
    assert exporter.batches == [4, 4, 4]


def test_what_does_not_fill_a_batch_leaves_after_the_delay() -> None:
    with running(delay=0.05) as (pipeline, exporter, counts):
        exporter.go.release(2)
        put(pipeline, 3)
        until(lambda: counts.exported == 3)
        put(pipeline, 1)
        until(lambda: counts.exported == 4)
    assert len(exporter.batches) >= 2


def test_what_has_waited_for_longer_than_the_delay_while_an_export_hung_leaves_right_after_it() -> None:
    with running(delay=0.05) as (pipeline, exporter, counts):
        put(pipeline, 1)
        until(lambda: exporter.batches == [1])
        put(pipeline, 3)
        time.sleep(0.06)
        exporter.go.release()
        until(lambda: exporter.batches == [1, 3])
        exporter.go.release()
        until(lambda: counts.exported == 4)


@pytest.mark.parametrize("waiting", [1, 4, 9])
def test_the_end_sends_everything(waiting: int) -> None:
    with running() as (pipeline, exporter, counts):
        put(pipeline, waiting)
    assert counts.exported == waiting
    assert all(size <= 4 for size in exporter.batches)


def test_what_does_not_fit_is_counted_and_a_span_after_the_end_too() -> None:
    with running(queue=6) as (pipeline, exporter, counts):
        put(pipeline, 4)
        until(lambda: exporter.batches == [4])
        put(pipeline, 8)
        assert pipeline.queued == 6
        assert counts.dropped == {"queue_full": 2}
    put(pipeline, 1)
    assert counts.dropped == {"queue_full": 2, "export_failed": 1}
    assert counts.exported == 10


@pytest.mark.parametrize("spans", [SLICE - 1, SLICE, 3 * SLICE])
def test_every_few_exchanges_the_interpreter_is_given_away_but_not_at_the_end(monkeypatch: pytest.MonkeyPatch, spans: int) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("sidecar.observe.tracing.pipeline.sleep", pauses.append)
    with running(batch=spans) as (pipeline, exporter, counts):
        exporter.go.release(1000)
        put(pipeline, spans)
        until(lambda: counts.exported == spans)
        before = len(pauses)
    assert before == spans // SLICE
    with running(batch=spans) as (pipeline, exporter, counts):
        exporter.go.release(1000)
        put(pipeline, spans - 1)
        pipeline.close()
        until(lambda: counts.exported == spans - 1)
    assert len(pauses) == before
