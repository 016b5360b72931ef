"""Exemplars: the trace of a sampled exchange at the bucket that it fell into, for OpenMetrics alone."""

from __future__ import annotations

from observe_samples import Trace, attempt, exchange, families, run, snapshot
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from sidecar.model.telemetry import Telemetry
from sidecar.observe.exposition import Exposition
from sidecar.observe.metrics import Metrics

AT = 1767225600.25
OPENMETRICS = b"application/openmetrics-text"


def traced(trace, **more):
    made = exchange(attempt(), **more)
    made.trace = trace
    return made


def exemplars(metrics):
    """{(sample name without prefix, le): exemplar}."""
    _, _, body = Exposition(families(metrics).collect).render(OPENMETRICS, b"")
    return {
        (sample.name.removeprefix("outrider_"), sample.labels["le"]): sample.exemplar
        for family in parse_openmetrics(body.decode())
        for sample in family.samples
        if sample.exemplar is not None
    }


def test_a_sampled_exchange_is_shown_at_the_buckets_of_its_request_and_of_its_attempt():
    metrics = Metrics(wall=lambda: AT)
    one = traced(Trace())
    one.attempts[0].span_id = 0xABC
    run(metrics, one)
    found = exemplars(metrics)
    assert found["upstream_response_duration_seconds_bucket", "0.01"].labels == {
        "trace_id": Trace().trace_id,
        "span_id": "0000000000000abc",
    }
    assert set(found) == {("request_duration_seconds_bucket", "0.025"), ("upstream_response_duration_seconds_bucket", "0.01")}
    shown = found["request_duration_seconds_bucket", "0.025"]
    assert shown.labels == {"trace_id": Trace().trace_id, "span_id": Trace().span_id}
    assert round(shown.value, 6) == 0.02
    assert float(shown.timestamp) == AT


def test_the_text_format_has_no_exemplars():
    metrics = Metrics()
    run(metrics, traced(Trace()))
    _, _, body = Exposition(families(metrics).collect).render(b"", b"")
    assert Trace().trace_id.encode() not in body


def test_what_is_not_sampled_and_what_has_no_trace_leaves_no_exemplar():
    metrics = Metrics()
    run(metrics, traced(Trace(sampled=False)), traced(None))
    assert exemplars(metrics) == {}


def test_the_last_exemplar_of_a_bucket_is_shown_and_every_bucket_has_its_own():
    metrics = Metrics()
    run(metrics, traced(Trace("a" * 32)), traced(Trace("b" * 32)), traced(Trace("c" * 32), seconds=99))
    found = {le: shown.labels["trace_id"] for (name, le), shown in exemplars(metrics).items() if name.startswith("request")}
    assert found == {"0.025": "b" * 32, "+Inf": "c" * 32}


def test_new_buckets_forget_the_exemplars_of_the_old_ones():
    metrics = Metrics()
    run(metrics, traced(Trace()))
    metrics.config_applied(snapshot(telemetry=Telemetry(buckets=(1.0, 2.0))))
    assert exemplars(metrics) == {}
