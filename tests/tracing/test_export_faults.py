"""Whatever the collector does, requests do not notice, memory is bounded, and what is lost is counted."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests
from support import RawClient, ScriptedUpstream, answer, response
from support.engine import Engine, upstream
from support.otlp import Collector
from support.ports import closed_port
from tracing_kit import QUICK, ask, live, to, traced

from sidecar.model.telemetry import Telemetry
from sidecar.model.telemetry import Tracing as Document
from sidecar.observe.tracing.exporters import TracingUnavailable
from sidecar.observe.tracing.pipeline import EXPORT_FAILED, QUEUE_FULL
from sidecar.observe.tracing.service import Tracing

OK = answer(response(body=b"hi"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For collectors that do not answer: the exporter's threads must not outlive the tests. It reads this itself."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")


async def burst(engine: Engine, count: int) -> None:
    async with await RawClient.open(engine.port()) as client:
        for _ in range(count):
            assert (await client.request()).status == 200


async def until(happened, seconds: float = 40.0) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(seconds):
        while not happened():
            await asyncio.sleep(0.005)


@contextmanager
def black_hole() -> Iterator[str]:
    """Accepts connections (its kernel does) and never reads."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def nobody() -> Iterator[str]:
    """A port where nothing listens."""
    with closed_port() as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("somewhere", [black_hole, nobody])
@live
async def test_a_collector_that_never_answers_costs_spans_and_nothing_else(somewhere) -> None:
    tracing = Tracing({**QUICK, "OTEL_BSP_MAX_QUEUE_SIZE": "40", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "20"})
    with somewhere() as url:
        async with ScriptedUpstream(OK) as fake:
            async with Engine(upstream(fake.port), tracing=tracing, telemetry=Telemetry(tracing=to(url))) as engine:
                most = 0
                for _ in range(20):
                    await burst(engine, 10)
                    assert tracing._pipeline is not None
                    most = max(most, tracing._pipeline.queued)
                assert 0 < most <= 40
                await until(lambda: tracing.dropped()[EXPORT_FAILED] >= 20)
                if somewhere is black_hole:
                    assert tracing.dropped()[QUEUE_FULL] > 0
    assert sum(tracing.dropped().values()) == 400
    assert tracing.counts.exported == 0


@live
async def test_a_collector_that_refuses_is_not_asked_again_for_the_same_spans() -> None:
    async with traced(OK, collector=Collector(lambda: 400)) as (collector, engine, _):
        await burst(engine, 3)
        await until(lambda: engine.tracing.dropped()[EXPORT_FAILED] == 6)
        assert collector.spans == []
        assert collector.asked <= 3


@live
async def test_a_collector_that_comes_back_gets_what_came_since(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "outrider")
    plan = {"status": 400}
    async with traced(OK, collector=Collector(lambda: plan["status"])) as (collector, engine, _):
        await burst(engine, 5)
        await until(lambda: engine.tracing.dropped()[EXPORT_FAILED] == 10)
        plan["status"] = 200
        await burst(engine, 5)
        await collector.wait(10)
        plan["status"] = 400
        await burst(engine, 5)
        await until(lambda: engine.tracing.dropped()[EXPORT_FAILED] == 20)
        assert engine.tracing.counts.exported == 10
    told = [(record.event, record.getMessage()) for record in caplog.records if record.name == "outrider"]  # type: ignore[attr-defined]
    assert [event for event, _ in told] == ["trace_export_failed", "trace_export_back"], "said once a minute at most"
    assert "400" in told[0][1]


@pytest.mark.usefixtures("impatient")
@live
async def test_a_slow_collector_holds_up_no_request() -> None:
    asked = asyncio.Event()

    def silent() -> None:
        asked.set()

    async with traced(OK, collector=Collector(silent)) as (_, engine, _fake):
        await ask(engine)
        await asked.wait()
        for _ in range(20):  # while its first export hangs
            assert (await ask(engine)).status == 200
        assert engine.tracing.counts.exported == 0


@live
async def test_batches_are_as_large_as_said_whatever_trickles_in_meanwhile() -> None:
    env = {"OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "20"}
    async with traced(OK, env=env) as (collector, engine, _):
        for _ in range(5):  # while batches are on their way
            await burst(engine, 9)
        await collector.wait(80)
    assert collector.batches == [20, 20, 20, 20, 10], "the rest leaves at the end"


@live
async def test_headers_and_compression_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20t")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    async with traced(OK) as (collector, engine, _):
        await ask(engine)
        await collector.wait(2)
    assert collector.headers[0]["authorization"] == "Bearer t"
    assert collector.headers[0]["content-encoding"] == "gzip"
    assert collector.paths[0] == "/v1/traces"


@live
async def test_the_environment_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Collector() as collector, ScriptedUpstream(OK) as fake:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_TRACES_SAMPLER": "always_on", "OTEL_SERVICE_NAME": "orders"}
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        async with Engine(upstream(fake.port), tracing=Tracing({**QUICK, **env})) as engine:
            await ask(engine)
            spans = await collector.wait(2)
    assert {span.resource["service.name"] for span in spans} == {"orders"}


@live
async def test_a_reload_loses_no_queued_span_and_ends_the_old_exporter() -> None:
    tracing = Tracing({"OTEL_BSP_SCHEDULE_DELAY": "60000"})
    async with Collector() as old, Collector() as new, ScriptedUpstream(OK) as fake:
        async with Engine(upstream(fake.port), tracing=tracing, telemetry=Telemetry(tracing=to(old))) as engine:
            await burst(engine, 3)
            assert old.spans == []
            tracing.commit(await tracing.prepare(to(new)))
            await old.wait(6)
            await burst(engine, 2)  # their plan is the old one still, and their spans go where spans go now
            tracing.commit(await tracing.prepare(Document()))
            await new.wait(4)
    assert (len(old.spans), len(new.spans)) == (6, 4)
    assert sum(tracing.dropped().values()) == 0


@live
async def test_the_same_settings_keep_the_pipeline() -> None:
    tracing = Tracing({})
    async with Collector() as collector:
        first = await tracing.prepare(to(collector))
        tracing.commit(first)
        assert await tracing.prepare(to(collector)) is first
        other = await tracing.prepare(to(collector, ratio=0.5, sampler=None))
        assert other is not first
        tracing.discard(other)
        assert await tracing.prepare(to(collector)) is first
        await tracing.aclose(5.0)


@live
async def test_without_a_thread_requests_go_on_and_it_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refused(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("sidecar.observe.tracing.pipeline.Pipeline.start", refused)
    async with traced(OK) as (_collector, engine, _):
        assert (await ask(engine)).status == 200
    assert "no spans are exported: can't start new thread" in caplog.text


@live
async def test_the_end_waits_no_longer_than_it_may_and_ends_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3600")
    with black_hole() as url:
        tracing = Tracing({"OTEL_BSP_SCHEDULE_DELAY": "60000"})
        async with ScriptedUpstream(OK) as fake:
            async with Engine(upstream(fake.port), tracing=tracing, telemetry=Telemetry(tracing=to(url))) as engine:
                await burst(engine, 3)
                pipeline = tracing._pipeline
                await tracing.aclose(0.1)
                assert pipeline is not None
                await until(lambda: not pipeline.alive)
        assert sum(tracing.dropped().values()) == 6


@live
async def test_a_missing_library_refuses_a_document_and_only_warns_about_the_environment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.delitem(sys.modules, "sidecar.observe.tracing.resource", raising=False)
    with pytest.raises(TracingUnavailable, match=r"pip install 'outrider\[tracing\]'"):
        await Tracing({}).prepare(to("http://127.0.0.1:1"))
    tracing = Tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    for _ in range(2):
        prepared = await tracing.prepare(Document())
        assert prepared.tracer is None
    (said,) = [record for record in caplog.records if record.name == "outrider"]
    assert said.event == "tracing_warning"  # type: ignore[attr-defined]
    assert "outrider[tracing]" in said.getMessage()


@live
async def test_spans_leave_by_the_session_of_a_credential_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plugin:
        name = "tokens"

        def load(self) -> type[requests.Session]:
            return Tokens

    class Tokens(requests.Session):
        def __init__(self) -> None:
            super().__init__()
            self.auth = ("me", "secret")

    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "tokens")
    monkeypatch.setattr("opentelemetry.exporter.otlp.proto.http._common.entry_points", lambda **_: [Plugin()])
    async with traced(OK) as (collector, engine, _):
        await ask(engine)
        await collector.wait(2)
    assert collector.headers[0]["authorization"] == "Basic bWU6c2VjcmV0"


@live
async def test_a_credential_plug_in_that_is_not_there_refuses_a_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "nobody")
    with pytest.raises(TracingUnavailable, match="nobody"):
        await Tracing({}).prepare(to("http://127.0.0.1:1"))


def test_a_collector_over_grpc_that_is_not_there_is_named() -> None:
    code = "from sidecar.observe.tracing import exporters; exporters.listen(); from sidecar.observe.tracing.grpc_sender import GrpcSender; "
    code += "sender = GrpcSender('http://127.0.0.1:1'); print(sender.send(b'')); sender.end()"
    env = {**os.environ, "OTEL_EXPORTER_OTLP_TIMEOUT": "0.2"}
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=60)
    assert "UNAVAILABLE" in ended.stdout


@live
async def test_a_variable_that_the_exporter_does_without_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "much")
    tracing = Tracing({})
    tracing.discard(await tracing.prepare(to("http://127.0.0.1:1")))
    (said,) = [record.getMessage() for record in caplog.records if record.name == "outrider"]
    assert "much" in said


@live
async def test_a_variable_that_the_libraries_cannot_do_without_refuses_a_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "much")
    with pytest.raises(TracingUnavailable, match="much.*OTEL_"):
        await Tracing({}).prepare(to("https://127.0.0.1:1"))


@pytest.mark.expects_traceback("a span could not be made")
@live
async def test_a_span_that_cannot_be_made_costs_no_other() -> None:
    async with traced(OK) as (collector, engine, _):
        await burst(engine, 1)
        await collector.wait(2)
        (good,) = engine.seen.finished
        assert good.trace is not None
        good.attempts[0].ended_at = math.nan
        engine.tracing.exchange_finished(good)
        await burst(engine, 1)
        await collector.wait(4)
        assert engine.tracing.dropped()[EXPORT_FAILED] == 2
