"""`telemetry.tracing` of the document, seen by collectors and upstreams of the real process."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Any

import pytest
from document_kit import Document, document, echo_head, field_of, live, problems_of, proves, under
from support import RawClient, ScriptedUpstream, Sidecar
from support.otlp import Collector
from support.otlp_grpc import grpc_collector

TRACING = "telemetry.tracing"
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "10"}
PARENT = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"
FIELDS = {
    "tracecontext": "traceparent",
    "baggage": "baggage",
    "b3": "b3",
    "b3multi": "X-B3-TraceId",
    "jaeger": "uber-trace-id",
}


def tracing(port: int, **fields: Any) -> Document:
    return document(port, telemetry={"tracing": fields})


async def ask(sidecar: Sidecar, headers: str = "", times: int = 1) -> list[Any]:
    async with await RawClient.open(sidecar.port()) as client:
        return [await client.request(headers=headers) for _ in range(times)]


def effective(sidecar: Sidecar) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{sidecar.admin_port}/config", timeout=10) as reply:
        shown: dict[str, Any] = json.load(reply)["document"]["telemetry"]["tracing"]
        return shown


@proves(f"{TRACING}.exporter=OTLP", f"{TRACING}.exporter=None", f"{TRACING}.endpoint")
@proves(*under(TRACING, "sampler=AlwaysOn", "sampler=AlwaysOff", "sampler=TraceIdRatio", "sampler=ParentBasedTraceIdRatio", "ratio"))
@live
async def test_who_gets_which_spans_is_what_the_document_says_and_follows_it() -> None:
    sampled, not_sampled = (f"traceparent: 00-{PARENT}-{flag}\r\n" for flag in ("01", "00"))
    asked: list[tuple[Document, str, int]] = [
        ({"sampler": "AlwaysOn"}, not_sampled, 3),
        ({"sampler": "AlwaysOff"}, sampled, 0),
        ({"sampler": "TraceIdRatio", "ratio": 1}, not_sampled, 3),
        ({"sampler": "TraceIdRatio", "ratio": 0}, sampled, 0),
        ({"sampler": "ParentBasedTraceIdRatio", "ratio": 0}, sampled, 3),
        ({"sampler": "ParentBasedTraceIdRatio", "ratio": 1}, not_sampled, 0),
        ({"sampler": "ParentBasedTraceIdRatio", "ratio": 1}, "", 3),
        ({"ratio": 0}, "", 0),
        ({"ratio": 1}, "", 3),
    ]
    async with Collector() as first, Collector() as second, ScriptedUpstream(echo_head) as fake:
        async with Sidecar(document(fake.port), env=QUICK) as sidecar:
            for number, (fields, headers, count) in enumerate(asked):
                collector = (first, second)[number % 2]
                before = len(collector.spans)
                await sidecar.aapply(tracing(fake.port, exporter="OTLP", endpoint=collector.url, **fields))
                await ask(sidecar, headers, 3)
                await sidecar.aapply(tracing(fake.port, exporter="None", endpoint=collector.url))  # what is queued leaves
                await collector.wait(before + 2 * count)
                await ask(sidecar, sampled)
        servers = [span for span in first.spans + second.spans if span.kind == "server"]
    assert len(servers) == sum(count for *_, count in asked)


@proves(*(f"{TRACING}.propagators[]={name}" for name in FIELDS))
@live
async def test_the_formats_that_are_named_are_written_and_the_others_pass() -> None:
    lines = f"traceparent: 00-{PARENT}-01\r\nbaggage: a=b\r\nb3: 1\r\nX-B3-TraceId: 2\r\nuber-trace-id: 3\r\n"
    passed = {"tracecontext": f"00-{PARENT}-01", "baggage": "a=b", "b3": "1", "b3multi": "2", "jaeger": "3"}
    untrusted = {"trustedProxies": []}
    async with ScriptedUpstream(echo_head) as fake, Sidecar(document(fake.port)) as sidecar:
        for name in FIELDS:
            fields = {"exporter": "OTLP", "endpoint": "http://127.0.0.1:1", "sampler": "AlwaysOff", "propagators": [name]}
            await sidecar.aapply(document(fake.port, listener=untrusted, telemetry={"tracing": fields}))
            (echoed,) = await ask(sidecar, lines)
            touched = {other for other, field in FIELDS.items() if field_of(echoed, field) != [passed[other]]}
            assert touched == {"b3", "b3multi"} if name.startswith("b3") else {name}, name


@proves(f"{TRACING}.exporter=OTLPGRPC")
@live
async def test_spans_over_grpc() -> None:
    with grpc_collector() as (url, lines):
        async with ScriptedUpstream(echo_head) as fake:
            doc = tracing(fake.port, exporter="OTLPGRPC", endpoint=url, sampler="AlwaysOn")
            async with Sidecar(doc, env=QUICK) as sidecar:
                await ask(sidecar)
                assert json.loads(await asyncio.to_thread(lines.readline)) == ["GET all", "GET"]


@live
async def test_the_effective_document_shows_what_holds() -> None:
    plain = {
        "exporter": "None",
        "endpoint": None,
        "sampler": "ParentBasedTraceIdRatio",
        "ratio": 0.01,
        "propagators": ["tracecontext", "baggage"],
    }
    async with ScriptedUpstream(echo_head) as fake:
        async with Sidecar(document(fake.port)) as sidecar:
            assert await asyncio.to_thread(effective, sidecar) == plain
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_SAMPLER": "always_off", "OTEL_PROPAGATORS": "b3"}
        async with Sidecar(document(fake.port), env=env) as sidecar:
            shown = await asyncio.to_thread(effective, sidecar)
            assert shown == {**plain, "exporter": "OTLP", "sampler": "always_off", "ratio": 0.0, "propagators": ["b3"]}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"exporter": "Zipkin"}, "telemetry.tracing.exporter: "),
        (
            {"endpoint": "collector:4318"},
            'telemetry.tracing.endpoint: "collector:4318" is not the URL of a collector (write for example http://',
        ),
        ({"endpoint": "http://user:secret@collector:4318"}, "telemetry.tracing.endpoint: a collector's URL cannot have credentials"),
        ({"endpoint": "http://collector:99999"}, "telemetry.tracing.endpoint: 99999 is not a port"),
        ({"endpoint": "http://collector:4318/v1/traces"}, "telemetry.tracing.endpoint: /v1/traces is appended here"),
        ({"endpoint": "http://collector?x"}, "telemetry.tracing.endpoint: "),
        ({"sampler": "Sometimes"}, "telemetry.tracing.sampler: "),
        ({"ratio": 1.5}, "telemetry.tracing.ratio: "),
        ({"propagators": ["ottrace"]}, "telemetry.tracing.propagators[0]: "),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(fields: Document, problem: str) -> None:
    (found,) = problems_of(tracing(1, **fields))
    assert problem in found
    assert "secret" not in found


@live
async def test_without_the_libraries_a_document_that_wants_spans_is_refused_and_says_what_to_install(tmp_path: Any) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry'] = None\n")
    async with ScriptedUpstream(echo_head) as fake:
        async with Sidecar(document(fake.port), env={"PYTHONPATH": str(tmp_path)}) as sidecar:
            doc = tracing(fake.port, exporter="OTLP", endpoint="http://127.0.0.1:1")
            line = await asyncio.to_thread(sidecar.refuse, doc)
            assert "telemetry.tracing.exporter" in line["problems"][0]
            assert "pip install 'outrider[tracing]'" in line["problems"][0]
            assert (await ask(sidecar))[0].status == 200
