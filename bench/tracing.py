"""`python -m bench.tracing`: what tracing costs a request, in microseconds of CPU: on the event loop, and in the export thread.

The least of many short rounds, because a busy machine can only make them longer. The last row is the thread's own CPU with
everything that it does, batches of a collector that answers included, at some 2,500 requests per second. Milliseconds by
which a thread that sleeps for one is late, while another encodes without end: what the interpreter's lock costs the event loop.
"""

from __future__ import annotations

import threading
import time
import timeit
from collections.abc import Callable
from functools import partial

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource

from bench import peers
from sidecar.model.endpoint import Endpoint
from sidecar.model.exchange import Attempt, Exchange
from sidecar.model.head import RequestHead
from sidecar.model.snapshot import Listener, Mode, Route, Upstream
from sidecar.model.telemetry import Propagator
from sidecar.observe.tracing.context import ExchangeTrace, ExchangeTracer, Sampling
from sidecar.observe.tracing.destination import read
from sidecar.observe.tracing.encoder import RecordEncoder
from sidecar.observe.tracing.otlp import Otlp
from sidecar.observe.tracing.pipeline import Counts, Pipeline
from sidecar.observe.tracing.propagation import Formats
from sidecar.observe.tracing.record import Record, record
from sidecar.observe.tracing.sender import Sender
from sidecar.observe.tracing.settings import DEFAULT_BATCH, DEFAULT_QUEUE, METHODS
from sidecar.observe.tracing.spans import SpanBuilder

CARRIED = {
    Propagator.TRACE_CONTEXT: {b"traceparent": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    Propagator.B3: {b"b3": b"80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1"},
    Propagator.B3_MULTI: {
        b"x-b3-traceid": b"80f198ee56343ba864fe8b2a57d3eff7",
        b"x-b3-spanid": b"e457b5a2e4d86bd1",
        b"x-b3-sampled": b"1",
    },
    Propagator.JAEGER: {b"uber-trace-id": b"80f198ee56343ba864fe8b2a57d3eff7:e457b5a2e4d86bd1:0:1"},
}


def exchange() -> Exchange:
    """A finished exchange with one attempt."""
    fields = [(b"Host", b"host", b"shop"), (b"User-Agent", b"user-agent", b"curl/8"), (b"Accept", b"accept", b"*/*")]
    head = RequestHead(b"GET", b"/v1/orders?x=1", 1, fields)
    head.host = b"shop"
    made = Exchange(Listener(name="inbound", port=15001, bind="0.0.0.0", mode=Mode.REVERSE), head, "10.0.0.9", time.monotonic())
    made.upstream, made.route = Upstream(name="app"), Route(name="all", index=0)
    made.status, made.request_id = 200, b"9dc382aa-1723-40fa-84d3-d85cbfe518e1"
    attempt = Attempt(1, made.started_at)
    attempt.endpoint, attempt.status, attempt.outcome, attempt.connected_at = Endpoint("10.0.0.1", 8000), 200, "success", made.started_at
    made.attempts.append(attempt)
    made.ended_at = attempt.ended_at = made.started_at + 0.01
    return made


def tracer(ratio: float, *formats: Propagator) -> ExchangeTracer:
    return ExchangeTracer(Formats(formats), Sampling(ratio, parent_based=False))


def least(action: Callable[[], object], number: int = 2000, rounds: int = 60) -> float:
    return min(timeit.repeat(action, number=number, repeat=rounds)) / number * 1e6


class Timed(Pipeline):
    """Knows what its thread has cost."""

    cpu = 0.0

    def _run(self) -> None:
        super()._run()
        self.cpu = time.thread_time()


def thread(facts: Record, requests: int = 6400, burst: int = 32) -> float:
    """Microseconds of CPU in the export thread for each request, with batches sent to a process that takes them."""
    with peers.origin() as port:
        sender = Sender(read(f"http://127.0.0.1:{port}/sink", {}, print))
        counts = Counts()
        exporter = Otlp(sender, Resource({"service.name": "orders"}), frozenset(METHODS))
        pipeline = Timed(exporter, counts, queue=DEFAULT_QUEUE, batch=DEFAULT_BATCH, delay=1.0)
        pipeline.start()
        for _ in range(requests // burst):
            for _ in range(burst):
                pipeline.put(facts)
            time.sleep(0.0125)
        pipeline.close()
        while pipeline.alive:
            threading.Event().wait(0.01)
    if counts.exported != requests * facts.spans:
        raise RuntimeError(f"of {requests * facts.spans} spans {counts.exported} arrived: {counts.dropped}")
    return pipeline.cpu / requests * 1e6


class Nowhere:
    """Sends nothing."""

    def send(self, body: bytes) -> str:  # noqa: ARG002 - the interface's
        return ""

    def close(self) -> None:
        """Nothing to end."""

    def end(self) -> None:
        """As above."""


def endlessly(facts: Record) -> Callable[[], object]:
    """One batch, as the export thread makes it."""
    exporter = Otlp(Nowhere(), Resource({"service.name": "orders"}), frozenset(METHODS))
    pipeline = Pipeline(exporter, Counts(), queue=DEFAULT_QUEUE, batch=DEFAULT_BATCH, delay=1.0)

    def batch() -> None:
        for _ in range(DEFAULT_BATCH // facts.spans):
            pipeline.put(facts)
        pipeline._send_all()

    return batch


def late(work: Callable[[], object], seconds: float = 3.0) -> str:
    """Median and ninth decile."""
    over = threading.Event()

    def busy() -> None:
        while not over.is_set():
            work()

    other = threading.Thread(target=busy)
    other.start()
    each: list[float] = []
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        time.sleep(0.001)
        each.append((time.monotonic() - began) * 1000 - 1)
    over.set()
    other.join()
    each.sort()
    return f"{each[len(each) // 2]:8.2f} {each[len(each) * 9 // 10]:8.2f} ms"


def main() -> None:
    made = exchange()
    attempt = made.attempts[0]

    def begin(one: ExchangeTracer, known: dict[bytes, bytes]) -> ExchangeTrace:
        trace = one.begin(known.copy(), believed=True)
        trace.outgoing(attempt, made.head.path)
        return trace

    def row(name: str, microseconds: float) -> None:
        print(f"{name:45} {microseconds:8.2f} us")

    w3c = CARRIED[Propagator.TRACE_CONTEXT]
    off, on = tracer(0.0, Propagator.TRACE_CONTEXT), tracer(1.0, Propagator.TRACE_CONTEXT)
    row("loop: unsampled, a new trace", least(lambda: begin(off, {})))
    row("loop: unsampled, the caller's trace", least(lambda: begin(off, w3c)))
    row("loop: sampled, the caller's trace", least(lambda: record(made, begin(on, w3c))))
    for name in (Propagator.B3, Propagator.B3_MULTI, Propagator.JAEGER):
        row(f"loop: unsampled, {name.value}", least(partial(begin, tracer(0.0, name), CARRIED[name]), 500))
    facts: Record = record(made, begin(on, w3c))
    encoder = RecordEncoder(frozenset(METHODS))
    row("thread: two spans encoded", least(lambda: encoder.spans(facts), 500, 20))
    builder = SpanBuilder(Resource({"service.name": "orders"}), frozenset(METHODS))
    row("  as objects of the SDK", least(lambda: builder.spans(facts), 500, 20))
    batch = builder.spans(facts) * (DEFAULT_BATCH // 2)
    row("  these encoded by the SDK", least(lambda: encode_spans(batch).SerializeToString(), 10, 10) * 2 / DEFAULT_BATCH)
    row("thread: in all, sent in batches", min(thread(facts) for _ in range(3)))
    print(f"{'late, median and p90: nobody encodes':45} {late(lambda: time.sleep(0.1))}")
    print(f"{'  we do':45} {late(endlessly(facts))}")
    print(f"{'  the SDK does':45} {late(lambda: encode_spans(builder.spans(facts) * (DEFAULT_BATCH // 2)).SerializeToString())}")


if __name__ == "__main__":
    main()
