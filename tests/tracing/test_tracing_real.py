"""Spans as a real Jaeger shows them and a real OpenTelemetry Collector writes them."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import RawClient, ScriptedUpstream, Sidecar, answer, one_upstream, response
from support.ports import free_ports
from support.programs import need_program
from tracing_kit import PARENT, QUICK, SPAN, TRACE, live

STARTS = 60.0
COLLECTOR = """
receivers: {otlp: {protocols: {http: {endpoint: "127.0.0.1:%(http)d"}, grpc: {endpoint: "127.0.0.1:%(grpc)d"}}}}
exporters: {file: {path: %(file)s, flush_interval: 50ms}}
service: {telemetry: {metrics: {level: none}}, pipelines: {traces: {receivers: [otlp], exporters: [file]}}}
"""


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as reply:
        return json.load(reply)


@contextmanager
def running(*command: str, port: int) -> Iterator[None]:
    """A program, once something listens on `port`."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + STARTS
            while True:
                assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
                assert time.monotonic() < deadline, f"{command[0]} does not listen"
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.02)
            yield
        finally:
            process.kill()  # what it wrote has been read; Jaeger takes 18 s to say good-bye


@pytest.fixture(scope="module")
def jaeger() -> Iterator[tuple[str, str, str]]:
    """(OTLP over HTTP, OTLP over gRPC, query API)."""
    names = ("collector.otlp.http", "collector.otlp.grpc", "query.http-server", "query.grpc-server", "admin.http")
    names += ("collector.http-server", "collector.grpc-server")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    flags = [f"--{name}.host-port=127.0.0.1:{port}" for name, port in ports.items()]
    program = str(need_program("jaeger"))
    with running(program, "--collector.otlp.enabled=true", *flags, port=ports["query.http-server"]):
        urls = [f"http://127.0.0.1:{ports[name]}" for name in names[:3]]
        yield urls[0], urls[1], urls[2]


def trace_of(query: str, trace_id: str, spans: int) -> list[dict[str, Any]]:
    """A trace as Jaeger has it, once it has so many spans."""
    deadline = time.monotonic() + STARTS
    while time.monotonic() < deadline:
        try:
            found: list[dict[str, Any]] = get(f"{query}/api/traces/{trace_id}")["data"]
        except urllib.error.HTTPError:
            found = []
        if found and len(found[0]["spans"]) >= spans:
            return found
        time.sleep(0.05)
    raise AssertionError(f"Jaeger has not {spans} spans of {trace_id}")


def tags(span: dict[str, Any]) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def document(port: int, url: str, **tracing: Any) -> dict[str, Any]:
    routes = [{"name": "orders", "backendRefs": [{"name": "app"}], "retry": {"attempts": 1, "codes": [503], "backoff": "20ms"}}]
    telemetry = {"tracing": {"exporter": "OTLP", "endpoint": url, "sampler": "AlwaysOn", **tracing}}
    return one_upstream(port, routes=routes, telemetry=telemetry)


async def ask(sidecar: Sidecar, headers: str) -> int:
    async with await RawClient.open(sidecar.port()) as client:
        return (await client.request("/v1/orders?sig=mine", headers=headers)).status


@pytest.mark.parametrize("exporter", ["OTLP", "OTLPGRPC"])
@live
async def test_jaeger_shows_one_trace_with_every_attempt(jaeger: tuple[str, str, str], exporter: str) -> None:
    over_http, over_grpc, query = jaeger
    trace = TRACE.replace("0af7", "0af8" if exporter == "OTLP" else "0af9")
    env = {**QUICK, "OTEL_SERVICE_NAME": f"orders-{exporter}"}
    async with ScriptedUpstream(answer(response("503 Busy"), response(body=b"x"))) as fake:
        doc = document(fake.port, over_http if exporter == "OTLP" else over_grpc, exporter=exporter)
        async with Sidecar(doc, env=env) as sidecar:
            assert await ask(sidecar, PARENT.replace(TRACE, trace)) == 200
            ((found,), services) = await asyncio.to_thread(lambda: (trace_of(query, trace, 3), get(f"{query}/api/services")["data"]))
            (line,) = [one for one in sidecar.events("access") if one["path"] == "/v1/orders"] or [await sidecar.await_for("access")]
    spans = {span["spanID"]: span for span in found["spans"]}
    (exchange,) = [span for span in spans.values() if tags(span)["span.kind"] == "server"]
    attempts = sorted((span for span in spans.values() if tags(span)["span.kind"] == "client"), key=lambda span: span["startTime"])
    assert [(one["refType"], one["spanID"]) for one in exchange["references"]] == [("CHILD_OF", SPAN)]
    assert [span["references"][0]["spanID"] for span in attempts] == [exchange["spanID"]] * 2
    assert exchange["operationName"] == "GET orders"
    assert [tags(span)["http.response.status_code"] for span in attempts] == [503, 200]
    assert ["error" in tags(span) for span in (exchange, *attempts)] == [False, True, False]
    assert tags(attempts[1])["http.request.resend_count"] == 1
    (event,) = exchange["logs"]
    fields = {field["key"]: field["value"] for field in event["fields"]}
    assert (fields["event"], fields["reason"], fields["attempt"]) == ("retry", "status_503", 2)
    assert fields["delay_ms"] >= 20
    assert tags(exchange)["url.query"] == "sig=REDACTED"
    process = found["processes"][exchange["processID"]]
    assert process["serviceName"] == f"orders-{exporter}"
    assert f"orders-{exporter}" in services
    assert (line["trace_id"], line["span_id"]) == (trace, exchange["spanID"]), "the log leads to the trace"


@live
async def test_jaeger_shows_the_link_to_the_trace_of_a_caller_that_is_not_believed(jaeger: tuple[str, str, str]) -> None:
    over_http, _, query = jaeger
    async with ScriptedUpstream(answer(response())) as fake:
        doc = document(fake.port, over_http)
        doc["listeners"][0]["trustedProxies"] = []
        async with Sidecar(doc, env=QUICK) as sidecar:
            await ask(sidecar, PARENT)
            line = await sidecar.await_for("access")
            (found,) = await asyncio.to_thread(trace_of, query, line["trace_id"], 2)
    (exchange,) = [span for span in found["spans"] if span["spanID"] == line["span_id"]]
    assert line["trace_id"] != TRACE
    assert [(one["refType"], one["traceID"], one["spanID"]) for one in exchange["references"]] == [("FOLLOWS_FROM", TRACE, SPAN)]


@live
async def test_the_last_spans_leave_with_the_process_and_a_collector_writes_them(tmp_path: Path) -> None:
    """Nothing has been sent when SIGTERM comes: the flush of the drain does it."""
    http, grpc = free_ports(2)
    file = tmp_path / "spans.json"
    (tmp_path / "otelcol.yaml").write_text(COLLECTOR % {"http": http, "grpc": grpc, "file": file})
    with running(str(need_program("otelcol")), "--config", str(tmp_path / "otelcol.yaml"), port=http):
        async with ScriptedUpstream(answer(response())) as fake:
            env = {"OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_RESOURCE_ATTRIBUTES": "team=blue"}
            async with Sidecar(document(fake.port, f"http://127.0.0.1:{http}"), env=env) as sidecar:
                for _ in range(5):
                    await ask(sidecar, PARENT)
                assert await sidecar.astop() == 0
        await asyncio.to_thread(_until, lambda: len(written(file)) == 10)
    spans = written(file)
    assert sorted(span["kind"] for span in spans) == [2] * 5 + [3] * 5
    assert {span["traceId"] for span in spans} == {TRACE}
    group = json.loads(file.read_text().splitlines()[0])["resourceSpans"][0]
    resource = {one["key"]: one["value"]["stringValue"] for one in group["resource"]["attributes"]}
    assert resource["team"] == "blue"
    assert group["scopeSpans"][0]["scope"]["name"] == "sidecar"


def written(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    groups = [group for line in file.read_text().splitlines() for group in json.loads(line)["resourceSpans"]]
    return [span for group in groups for scoped in group["scopeSpans"] for span in scoped["spans"]]


def _until(happened: Any) -> None:
    deadline = time.monotonic() + STARTS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)
