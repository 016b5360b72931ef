"""Spans of aiohttp sessions that are not on the hot path (the Kubernetes client): one per request, in today's names."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from support import ScriptedUpstream, answer, response
from support.otlp import Collector
from tracing_kit import QUICK, live, to

from sidecar.model.telemetry import Sampler
from sidecar.model.telemetry import Tracing as Document
from sidecar.observe.tracing.service import Tracing


@asynccontextmanager
async def session(tracing: Tracing) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(resolver=aiohttp.ThreadedResolver())  # pycares keeps a thread
    async with aiohttp.ClientSession(connector=connector, trace_configs=tracing.client_trace_configs()) as one:
        yield one


async def apply(tracing: Tracing, document: Document) -> None:
    tracing.commit(await tracing.prepare(document))


@live
async def test_a_request_has_one_span_with_stable_names_and_tells_the_server():
    tracing = Tracing(QUICK)
    async with Collector() as collector, ScriptedUpstream(answer(response("404 Not Found"))) as api:
        await apply(tracing, to(collector))
        async with session(tracing) as one:
            await one.get(f"{api.url}/api/v1/pods?limit=1")
        (span,) = await collector.wait(1)
        url, port = api.url, api.port
        await tracing.aclose(5.0)
    assert (span.name, span.kind, span.status) == ("GET", "client", "error")
    assert span.attributes == {
        "http.request.method": "GET",
        "url.full": f"{url}/api/v1/pods?limit=1",
        "server.address": "127.0.0.1",
        "server.port": port,
        "http.response.status_code": 404,
        "error.type": "404",
    }
    assert span.resource["service.name"] == "outrider"
    assert api.requests[0].get_all("traceparent") == [f"00-{span.trace_id}-{span.span_id}-03"]


@live
async def test_a_failure_is_an_error():
    tracing = Tracing(QUICK)
    async with ScriptedUpstream(answer(response())) as gone:
        url = gone.url
    async with Collector() as collector:
        await apply(tracing, to(collector))
        async with session(tracing) as one:
            with pytest.raises(aiohttp.ClientConnectorError):
                await one.get(url)
        (span,) = await collector.wait(1)
        await tracing.aclose(5.0)
    assert (span.status, span.attributes["error.type"]) == ("error", "ClientConnectorError")


@live
async def test_a_watch_has_no_span():
    tracing = Tracing(QUICK)
    async with Collector() as collector, ScriptedUpstream(answer(response())) as api:
        await apply(tracing, to(collector))
        async with session(tracing) as one:
            await one.get(f"{api.url}/api/v1/pods?watch=1&resourceVersion=5")
            await one.get(f"{api.url}/last")
        spans = await collector.wait(1)
        await tracing.aclose(5.0)
    assert [span.attributes["url.full"].rpartition("/")[2] for span in spans] == ["last"]


@live
async def test_a_session_follows_the_configuration_on_and_off_and_back():
    tracing = Tracing(QUICK)
    async with Collector() as first, Collector() as second, ScriptedUpstream(answer(response())) as api, session(tracing) as one:
        await one.get(f"{api.url}/0")
        assert "opentelemetry" not in str(api.requests[0].fields)
        assert api.requests[0].get("traceparent") is None
        await apply(tracing, to(first))
        await asyncio.gather(*(one.get(f"{api.url}/1") for _ in range(3)))
        await first.wait(3)
        await apply(tracing, Document())
        await one.get(f"{api.url}/2")
        await apply(tracing, to(second, sampler=Sampler.ALWAYS_OFF))
        await one.get(f"{api.url}/3")
        await apply(tracing, to(second))
        await one.get(f"{api.url}/4")
        await second.wait(1)
        await tracing.aclose(5.0)
    assert [span.attributes["url.full"][-1] for span in first.spans + second.spans] == ["1", "1", "1", "4"]


def test_nothing_of_opentelemetry_is_imported_while_tracing_is_off():
    code = (
        "import asyncio, sys\n"
        "import sidecar.app\n"
        "from sidecar.model.telemetry import Tracing as Document\n"
        "from sidecar.observe.tracing.service import Tracing\n"
        "tracing = Tracing({})\n"
        "async def main():\n"
        "    tracing.commit(await tracing.prepare(Document()))\n"
        "    tracing.client_trace_configs()\n"
        "    await tracing.aclose(1.0)\n"
        "asyncio.run(main())\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'google.protobuf', 'grpc', 'requests'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
