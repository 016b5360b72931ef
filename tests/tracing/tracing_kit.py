"""What the tests of tracing share: an engine whose spans go to a collector on the same loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from support import RawClient, Response, Script, ScriptedUpstream
from support.engine import Engine, upstream
from support.otlp import Collector, Span

from sidecar.model.telemetry import Exporter, Sampler, Telemetry
from sidecar.model.telemetry import Tracing as Document
from sidecar.observe.tracing.service import Tracing

LONG = 60.0
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "10"}
"""Spans leave after 10 ms."""
TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
PARENT = f"traceparent: 00-{TRACE}-{SPAN}-01\r\n"


def live(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an `async def` test on the loop that production uses."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(LONG):
                await test(*args, **kwargs)

        uvloop.run(bounded())

    return run


def to(collector: Collector | str, **more: Any) -> Document:
    """A document's `tracing` that sends everything to `collector`."""
    url = collector if isinstance(collector, str) else collector.url
    return Document(**{"exporter": Exporter.OTLP, "endpoint": url, "sampler": Sampler.ALWAYS_ON, **more})


@asynccontextmanager
async def traced(
    script: Script,
    *,
    tracing: dict[str, Any] | None = None,
    env: dict[str, str] | None = None,
    collector: Collector | None = None,
    **parts: Any,
) -> AsyncIterator[tuple[Collector, Engine, ScriptedUpstream]]:
    """A collector, an upstream that plays `script`, and an engine between them; `parts` go to `Engine`."""
    async with collector or Collector() as sink, ScriptedUpstream(script) as fake:
        telemetry = Telemetry(tracing=to(sink, **(tracing or {})))
        up = upstream(fake.port, **parts.pop("up", {}))
        async with Engine(up, tracing=Tracing({**QUICK, **(env or {})}), telemetry=telemetry, **parts) as engine:
            yield sink, engine, fake


async def ask(engine: Engine, target: str = "/", listener: str = "inbound", **request: Any) -> Response:
    """One request on a connection of its own."""
    async with await RawClient.open(engine.port(listener)) as client:
        return await client.request(target, **request)


def server(spans: list[Span]) -> Span:
    """The only SERVER span."""
    (found,) = [span for span in spans if span.kind == "server"]
    return found


def clients(spans: list[Span]) -> list[Span]:
    """The CLIENT spans, the first attempt's first."""
    found = [span for span in spans if span.kind == "client"]
    return sorted(found, key=lambda span: span.attributes.get("http.request.resend_count", 0))
