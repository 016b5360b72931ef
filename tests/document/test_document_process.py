"""`telemetry` and `lifecycle` of the document, seen from outside the real process."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from document_kit import Document, Gate, document, live, problems_of, proves
from support import Connection, RawClient, Script, ScriptedUpstream, Sidecar, response
from support.otlp_metrics import Receiver
from support.ports import free_port

LOG = "telemetry.accessLog"


def app() -> Script:
    """`/fail` is a 503, `/slow` takes 0.3 seconds, every other `/again` is a 503, all else is well."""
    unwell: list[bytes] = []

    async def play(connection: Connection) -> None:
        while True:
            target = (await connection.read_request()).start.split(b" ")[1]
            if target == b"/slow":
                await asyncio.sleep(1.2)
            if target == b"/again":
                unwell[:] = [] if unwell else [target]
            bad = target == b"/fail" or (target == b"/again" and unwell)
            await connection.send(response("503 No" if bad else "200 OK"))

    return play


def logging(port: int, access_log: Document | None, **more: Any) -> Document:
    routes = [
        {"name": "again", "matches": [{"path": {"value": "/again"}}], "backendRefs": [{"name": "app"}], "retry": {"codes": [503]}},
        {"name": "all", "backendRefs": [{"name": "app"}]},
    ]
    telemetry = {} if access_log is None else {"accessLog": access_log}
    return document(port, routes=routes, telemetry={**telemetry, **more})


def paths(lines: list[dict[str, Any]]) -> list[str]:
    return [line["path"] for line in lines]


@proves(
    *(f"{LOG}.{field}" for field in ("format=JSON", "format=None", "sample", "always[]=Error", "always[]=Retried", "always[].slowerThan"))
)
@proves(f"{LOG}.redactHeaders[]", f"{LOG}.query=Drop", f"{LOG}.query=Keep")
@live
async def test_the_access_log_is_what_the_document_says_and_follows_it_at_once() -> None:
    usual = ("/ok?secret=1", "/fail", "/again")
    some_slow = ("/ok", "/slow")
    asked: list[tuple[Document, tuple[str, ...]]] = [
        ({"format": "JSON"}, usual),
        ({"query": "Keep"}, usual),
        ({"format": "None"}, usual),
        ({"sample": 0, "always": []}, usual),
        ({"sample": 0, "always": ["Error"]}, usual),
        ({"sample": 0, "always": ["Retried"]}, usual),
        ({"sample": 0}, usual),
        ({"sample": 0, "always": [{"slowerThan": "1s"}]}, some_slow),
        ({"sample": 0, "always": [{"slowerThan": "10s"}]}, some_slow),
        ({"sample": 0.5, "always": []}, ("/ok",) * 100),
        ({"redactHeaders": ["User-Agent"]}, ("/hidden",)),
    ]
    async with (
        ScriptedUpstream(app()) as fake,
        Sidecar(logging(fake.port, None)) as sidecar,
        await RawClient.open(sidecar.port()) as client,
    ):
        for number, (access_log, targets) in enumerate(asked):
            await sidecar.aapply(logging(fake.port, access_log))
            for target in targets:
                await client.request(target, headers=f"User-Agent: part-{number}\r\nAuthorization: Basic c2VjcmV0\r\n")
        await sidecar.await_for("access", path="/hidden")
        lines = [sidecar.events("access", user_agent=f"part-{number}") for number in range(len(asked))]
        assert paths(lines[0]) == ["/ok", "/fail", "/again"]
        assert [line["attempts"] for line in lines[0]] == [1, 1, 2]
        assert paths(lines[1]) == ["/ok?secret=1", "/fail", "/again"]
        assert [paths(part) for part in lines[2:7]] == [[], [], ["/fail"], ["/again"], ["/fail", "/again"]]
        assert [paths(part) for part in lines[7:9]] == [["/slow"], []]
        assert 0 < len(lines[9]) < 100
        assert [line["path"] for line in sidecar.events("access", user_agent="[redacted]")] == ["/hidden"]
        assert "c2VjcmV0" not in "".join(sidecar.lines)


@proves("telemetry.metrics.buckets[]")
@live
async def test_metrics_have_the_buckets_of_the_document() -> None:
    async def bounds(sidecar: Sidecar) -> list[str]:
        async with await RawClient.open(sidecar.port()) as client:
            await client.request()
        async with await RawClient.open(sidecar.status_port) as client:
            text = (await client.request("/metrics")).body.decode()
        lines = [line for line in text.split("\n") if line.startswith("outrider_request_duration_seconds_bucket")]
        return [line.partition('le="')[2].partition('"')[0] for line in lines]

    async with ScriptedUpstream(app()) as fake:
        async with Sidecar(logging(fake.port, None, metrics={"buckets": [0.2, 1, 3.5]})) as sidecar:
            assert await bounds(sidecar) == ["0.2", "1.0", "3.5", "+Inf"]
            await sidecar.aapply(logging(fake.port, None, metrics={"buckets": [0.25, 4]}))
            assert await bounds(sidecar) == ["0.25", "4.0", "+Inf"]


@proves("telemetry.metrics.otlp.endpoint", "telemetry.metrics.otlp.interval")
@live
async def test_metrics_go_to_the_collector_that_the_document_names_as_often_as_it_says() -> None:
    def sends_to(receiver: Receiver, interval: str) -> Document:
        return logging(1, None, metrics={"otlp": {"endpoint": receiver.url, "interval": interval}})

    with Receiver() as often, Receiver() as seldom:
        async with Sidecar(sends_to(often, "1s")) as sidecar:
            while len(often.points("outrider_build_info")) < 2:
                await asyncio.sleep(0.05)
            await sidecar.aapply(sends_to(seldom, "1h"))
            assert seldom.requests == []
        assert len(seldom.points("outrider_build_info")) == 1, "the last state of things, at the end"


@pytest.mark.parametrize(
    ("telemetry", "said"),
    [
        ({"metrics": {"otlp": {"endpoint": "collector:4318"}}}, "metrics.otlp.endpoint: "),
        ({"metrics": {"otlp": {"endpoint": "http://collector:4318/v1/metrics"}}}, "metrics.otlp.endpoint: /v1/metrics is appended here"),
        ({"metrics": {"otlp": {"endpoint": "http://collector:4318", "interval": "500ms"}}}, "metrics.otlp.interval: 500ms between two"),
        ({"metrics": {"otlp": {"endpoint": "http://collector:4318", "interval": "2h"}}}, "metrics.otlp.interval: 2h between two"),
        ({"metrics": {"otlp": {}}}, "metrics.otlp"),
        ({"metrics": {"buckets": [1, 1]}}, "metrics.buckets[1]: 1.0 does not come after 1.0"),
        ({"metrics": {"buckets": []}}, "metrics.buckets: 0 buckets"),
        ({"accessLog": {"redactHeaders": ["a b"]}}, "accessLog.redactHeaders[0]: "),
        ({"accessLog": {"sample": 2}}, "accessLog.sample: "),
        ({"accessLog": {"always": ["Never"]}}, "accessLog.always[0]: "),
    ],
)
def test_telemetry_that_makes_no_sense_is_refused(telemetry: Document, said: str) -> None:
    (problem,) = problems_of(document(1, telemetry=telemetry))
    assert f"telemetry.{said}" in problem


# Lifecycle


async def accepts(port: int) -> bool:
    try:
        async with await RawClient.open(port) as client:
            return (await client.request()).status == 200
    except ConnectionRefusedError:
        return False


@proves("lifecycle.drainDelay")
@live
async def test_inbound_accepts_for_drain_delay_after_sigterm() -> None:
    async with ScriptedUpstream(app()) as fake:
        async with Sidecar(document(fake.port, lifecycle={"drainDelay": "1h", "drainTimeout": "1h"})) as sidecar:
            port = sidecar.port()
            sidecar.process.send_signal(signal.SIGTERM)
            await sidecar.await_for("draining", drain_delay_s=3600.0, drain_timeout_s=3600.0)
            await asyncio.sleep(0.2)
            assert await accepts(port)
            assert await sidecar.astop(signal.SIGTERM) == 0  # nothing is in flight: nothing is cut
        async with Sidecar(document(fake.port, listener={"port": free_port()}, lifecycle={"drainDelay": "0s"})) as sidecar:
            port = sidecar.port()
            assert await sidecar.astop(signal.SIGTERM) == 0
            assert sidecar.events("draining", drain_delay_s=0.0)
            assert not await accepts(port)


@proves("lifecycle.drainTimeout")
@live
async def test_what_is_in_flight_has_drain_timeout_to_finish() -> None:
    for seconds, code in (("100ms", 1), ("1h", 0)):
        gate = Gate()
        async with ScriptedUpstream(gate) as fake:
            async with Sidecar(document(fake.port, lifecycle={"drainDelay": "0s", "drainTimeout": seconds})) as sidecar:
                async with await RawClient.open(sidecar.port()) as client:
                    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    await gate.holds()
                    stopping = asyncio.create_task(sidecar.astop(signal.SIGTERM))
                    await sidecar.await_for("draining")
                    if code:
                        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                            await client.read_response()
                    else:
                        await asyncio.sleep(0.2)
                        gate.open()
                        answer = await client.read_response()
                        assert (answer.body, answer.get("connection")) == (b"late", "close")
                assert await stopping == code


@live
async def test_the_lifecycle_of_the_newest_document_counts() -> None:
    async with ScriptedUpstream(app()) as fake:
        async with Sidecar(document(fake.port, lifecycle={"drainDelay": "1h"})) as sidecar:
            await sidecar.aapply(document(fake.port, lifecycle={"drainDelay": "0s"}))
            assert await sidecar.astop(signal.SIGTERM) == 0
