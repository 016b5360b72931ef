"""`telemetry.metrics.otlp`: the counters at a receiver of ours, at a real collector, and with a collector that fails."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from observe_samples import Trace, attempt, exchange, failed_exchange, families, run
from support import RawClient, ScriptedUpstream, Sidecar
from support.documents import one_upstream
from support.otlp_metrics import Receiver, metrics_of
from support.ports import free_port
from support.programs import need_program
from support.upstream import answer, response

from sidecar.model.telemetry import OtlpMetrics
from sidecar.observe.metrics import Metrics
from sidecar.observe.metrics_export import service
from sidecar.observe.metrics_export.data import BATCH, attributes_of
from sidecar.observe.metrics_export.service import ExportUnavailable, MetricsExport
from sidecar.observe.series import pairs


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def exporting(
    metrics: Metrics,
    url: str,
    *,
    interval: float = 60.0,
    environment: dict[str, str] | None = None,
    during: Callable[[MetricsExport], Any] | None = None,
    seconds: float = 10.0,
) -> MetricsExport:
    """The life of an export: prepared, committed, `during`, closed."""

    async def main() -> MetricsExport:
        export = MetricsExport(families(metrics).collect, environment or {})
        export.commit(await export.prepare(OtlpMetrics(endpoint=url, interval=interval)))
        if during is not None:
            await during(export)
        await export.aclose(seconds)
        return export

    return asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def sampled() -> Metrics:
    metrics = Metrics()
    one = exchange(attempt())
    one.trace = Trace()
    run(metrics, one, exchange(attempt()), failed_exchange())
    return metrics


# -- what is sent


def test_counters_gauges_and_histograms_arrive_with_their_labels_and_since_when_they_count(receiver: Receiver) -> None:
    before = time.time_ns()
    exporting(sampled(), receiver.url + "/")
    assert set(receiver.paths) == {"/v1/metrics"}
    ((labels, point),) = [found for found in receiver.points("outrider_requests") if found[0]["code"] == "200"]
    assert labels == {"listener": "inbound", "route": "orders-read", "upstream": "orders", "method": "GET", "code": "200", "reason": "none"}
    assert (point.as_int, before - 10**9 < point.start_time_unix_nano <= point.time_unix_nano) == (2, True)
    ((labels, point),) = receiver.points("outrider_active_requests")
    assert (labels, point.as_int) == ({"listener": "inbound"}, 0)
    ((labels, point),) = receiver.points("outrider_request_duration_seconds")
    assert (point.count, len(point.bucket_counts), len(point.explicit_bounds)) == (3, 15, 14)
    assert round(point.sum, 6) == 0.06
    assert (point.HasField("min"), point.HasField("max")) == (False, False)
    (exemplar,) = point.exemplars
    assert (exemplar.trace_id.hex(), exemplar.span_id.hex()) == (Trace().trace_id, Trace().span_id)


def test_kinds_and_units_are_the_protocols(receiver: Receiver) -> None:
    exporting(sampled(), receiver.url)
    kinds = {metric.name: (metric.WhichOneof("data"), metric.unit) for request in receiver.requests for metric in metrics_of(request)}
    assert kinds["outrider_requests"] == ("sum", "1")
    assert kinds["outrider_request_bytes"] == ("sum", "By")
    assert kinds["outrider_request_duration_seconds"] == ("histogram", "s")
    assert kinds["outrider_memory_usage_bytes"] == ("gauge", "By")
    sums = [metric.sum for request in receiver.requests for metric in metrics_of(request) if metric.WhichOneof("data") == "sum"]
    assert {(one.aggregation_temporality, one.is_monotonic) for one in sums} == {(2, True)}


def test_the_resource_is_the_pods_as_for_spans(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    exporting(Metrics(), receiver.url, environment={"POD_NAME": "orders-0", "POD_NAMESPACE": "shop"})
    found = {one.key: one.value.string_value for one in receiver.requests[0].resource_metrics[0].resource.attributes}
    assert (found["service.name"], found["k8s.pod.name"], found["deployment.environment.name"]) == ("orders", "orders-0", "test")


def test_every_series_of_the_page_arrives_whole_in_requests_of_bounded_size(receiver: Receiver) -> None:
    metrics = Metrics()
    run(metrics, *(exchange(attempt(), route=f"route-{number}") for number in range(3 * BATCH)))
    exporting(metrics, receiver.url)
    sizes = [
        sum(len(getattr(metric, metric.WhichOneof("data")).data_points) for metric in metrics_of(request)) for request in receiver.requests
    ]
    assert len(sizes) > 3
    assert max(sizes) <= BATCH
    assert {labels["route"] for labels, _ in receiver.points("outrider_request_duration_seconds")} == {
        f"route-{number}" for number in range(3 * BATCH)
    }


@pytest.mark.parametrize("value", ["plain", 'a"b\\c\nd{e="f"} 1', "\u2028\x1b", "", "n\\n"])
def test_labels_are_read_back_as_they_were_written(value: str) -> None:
    assert attributes_of(pairs(route=value, upstream="x")) == {"route": value, "upstream": "x"}


# -- when


def test_it_is_sent_again_and_again_and_once_more_at_the_end(receiver: Receiver) -> None:
    metrics = Metrics()

    async def during(export: MetricsExport) -> None:
        run(metrics, exchange(attempt()))
        await until(lambda: export.results["success"] >= 2)
        run(metrics, exchange(attempt()))

    export = exporting(metrics, receiver.url, interval=0.02, during=during)
    assert [point.as_int for _, point in receiver.points("outrider_requests")][-1] == 2
    assert export.results["failed"] == 0


def test_the_same_settings_keep_the_sender_and_others_replace_it(receiver: Receiver) -> None:
    async def during(export: MetricsExport) -> None:
        first = export._active
        export.commit(await export.prepare(OtlpMetrics(endpoint=receiver.url, interval=60.0)))
        assert export._active is first
        export.commit(await export.prepare(OtlpMetrics(endpoint=receiver.url, interval=30.0)))
        assert export._active is not first
        assert first.sender is not None
        sender = first.sender
        await until(lambda: not sender.alive)
        refused = await export.prepare(OtlpMetrics(endpoint=receiver.url, interval=10.0))
        export.discard(refused)
        export.commit(await export.prepare(None))
        assert export._active.sender is None

    exporting(Metrics(), receiver.url, during=during)
    assert receiver.requests == []


# -- when the collector fails


def test_a_collector_that_refuses_is_told_once_counted_and_told_again_when_it_is_back(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.status = 400

    async def during(export: MetricsExport) -> None:
        await until(lambda: export.results["failed"] >= 3)
        receiver.status = 200
        await until(lambda: export.results["success"])

    with caplog.at_level(logging.INFO, "outrider"):
        exporting(sampled(), receiver.url, interval=0.02, during=during)
    told = [record for record in caplog.records if record.name == "outrider"]
    assert [record.event for record in told] == ["metrics_export_failed", "metrics_export_back"]
    assert "400" in told[0].getMessage()


def test_a_collector_that_does_not_answer_costs_neither_the_loop_nor_memory_nor_the_end(receiver: Receiver) -> None:
    receiver.hold = True
    metrics = Metrics()

    async def during(export: MetricsExport) -> None:
        await until(lambda: receiver.requests)
        for _ in range(30):  # rounds come and go; one at most waits
            run(metrics, exchange(attempt()))
            await asyncio.sleep(0.01)
        assert len(receiver.requests) == 1

    began = time.monotonic()
    export = exporting(metrics, receiver.url, interval=0.01, during=during, seconds=0.2)
    assert time.monotonic() - began < 15
    assert export.results["success"] == 0
    receiver.release.set()


def test_sdk_disabled_turns_it_off(receiver: Receiver) -> None:
    exporting(sampled(), receiver.url, environment={"OTEL_SDK_DISABLED": "true"})
    assert receiver.requests == []


def test_without_the_libraries_the_document_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith(("opentelemetry.exporter.otlp.proto.http", "sidecar.observe.metrics_export.data")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)

    async def main() -> None:
        export = MetricsExport(families().collect, {})
        with pytest.raises(ExportUnavailable, match=r"pip install 'outrider\[tracing\]'"):
            await export.prepare(OtlpMetrics(endpoint="http://127.0.0.1:4318"))

    asyncio.run(main())


def test_an_exporter_that_cannot_be_made_is_a_refusal_that_names_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no such certificate")

    monkeypatch.setattr("opentelemetry.exporter.otlp.proto.http.metric_exporter.OTLPMetricExporter.__init__", fail)

    async def main() -> None:
        with pytest.raises(ExportUnavailable, match="no such certificate .*OTEL_EXPORTER_OTLP_"):
            await MetricsExport(families().collect, {}).prepare(OtlpMetrics(endpoint="http://127.0.0.1:4318"))

    asyncio.run(main())


def test_a_sidecar_that_does_not_export_imports_nothing_of_opentelemetry() -> None:
    code = "import sys, sidecar.app; print([name for name in sys.modules if name.startswith(('opentelemetry', 'prometheus_client'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_traffic_gets_through_while_everything_is_read_off(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "SLICE", 10)
    metrics = Metrics()
    run(metrics, *(exchange(attempt(), route=f"route-{number}") for number in range(100)))

    async def main() -> int:
        export = MetricsExport(families(metrics).collect, {})
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(count())
        await export._take()
        other.cancel()
        return turns

    assert asyncio.run(main()) > 20


# -- the real thing


@contextmanager
def collector(folder: Any) -> Iterator[tuple[str, Any]]:
    """A real collector: its URL, and the file into which it writes what it gets."""
    program, port, out = need_program("otelcol"), free_port(), folder / "metrics.json"
    config = {
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{port}"}}}},
        "exporters": {"file": {"path": str(out), "flush_interval": "50ms"}},
        "service": {"telemetry": {"metrics": {"level": "none"}}, "pipelines": {"metrics": {"receivers": ["otlp"], "exporters": ["file"]}}},
    }
    (folder / "otelcol.json").write_text(json.dumps(config))
    process = subprocess.Popen([program, "--config", folder / "otelcol.json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", out
    finally:
        process.terminate()
        process.wait(30)


def stored(out: Any) -> dict[str, list[dict[str, Any]]]:
    """Data points by metric in the collector's file."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in out.read_text().splitlines():
        for resource in json.loads(line)["resourceMetrics"]:
            for metric in resource["scopeMetrics"][0]["metrics"]:
                data = next(metric[kind] for kind in ("sum", "gauge", "histogram") if kind in metric)
                found.setdefault(metric["name"], []).extend(data["dataPoints"])
    return found


def test_a_running_sidecar_sends_what_it_shows_to_a_real_collector(tmp_path: Any) -> None:
    async def main(url: str) -> set[str]:
        async with ScriptedUpstream(answer(response(body=b"x"))) as upstream:
            telemetry = {"metrics": {"otlp": {"endpoint": url, "interval": "1s"}}}
            async with Sidecar(one_upstream(upstream.port, telemetry=telemetry)) as sidecar:
                async with await RawClient.open(sidecar.port()) as client:
                    for _ in range(5):
                        assert (await client.request("/")).status == 200
                async with await RawClient.open(sidecar.status_port) as client:
                    page = (await client.request("/metrics")).body.decode()
                return {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE outrider_")}

    with collector(tmp_path) as (url, out):
        shown = asyncio.run(main(url))
        found = stored(out)
    requests = [point for point in found["outrider_requests"] if int(point["asInt"]) == 5]
    assert {one["key"]: one["value"]["stringValue"] for one in requests[-1]["attributes"]}["code"] == "200"
    assert found["outrider_request_duration_seconds"][-1]["count"] == "5"
    always = {"outrider_build_info", "outrider_active_requests", "outrider_config_info", "outrider_event_loop_lag_seconds"}
    assert always <= set(found) <= {name.removesuffix("_total") for name in shown}
