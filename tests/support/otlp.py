"""A collector of spans: OTLP over HTTP/protobuf, on the loop of the test. It does what `plan` tells it."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.upstream import Connection, ScriptedUpstream, response

KINDS = {1: "internal", 2: "server", 3: "client"}
STATUSES = {0: "unset", 1: "ok", 2: "error"}
WAIT = 40.0


@dataclass(slots=True)
class Span:
    """One span as it came; ids in hex, times in Unix nanoseconds, events and links as dicts."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    trace_state: str
    start: int
    end: int
    status: str
    attributes: dict[str, Any]
    events: list[dict[str, Any]]
    links: list[dict[str, Any]]
    dropped_attributes: int
    resource: dict[str, Any]
    scope: tuple[str, str]


class Collector:
    """`async with Collector() as collector:`; `collector.url` is for `telemetry.tracing.endpoint`.

    `plan` is asked for each export and answers with a status, or None to say nothing at all.
    """

    def __init__(self, plan: Callable[[], int | None] = lambda: 200, *, port: int = 0) -> None:
        self.plan = plan
        self.spans: list[Span] = []
        self.batches: list[int] = []
        """Spans of each export that was accepted."""
        self.asked = 0
        """Exports that came, accepted or not."""
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self._changed = asyncio.Condition()
        self._server = ScriptedUpstream(self._serve, port=port, timeout=60.0)

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._server.__aexit__(kind, error, trace)

    @property
    def url(self) -> str:
        """Base URL."""
        return self._server.url

    async def wait(self, count: int, seconds: float = WAIT) -> list[Span]:
        """All spans, once there are `count`, the earliest first."""
        await self.until(lambda: len(self.spans) >= count, seconds)
        return sorted(self.spans, key=lambda span: (span.start, span.kind != "server"))

    async def until(self, happened: Callable[[], bool], seconds: float = WAIT) -> None:
        """Wait until `happened()`; asked again at each export."""
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(happened), seconds)

    async def _serve(self, connection: Connection) -> None:
        while True:
            request = await connection.read_request()
            status = self.plan()
            async with self._changed:
                self.asked += 1
                self._changed.notify_all()
            if status is None:
                await asyncio.Event().wait()
            if status == 200:
                async with self._changed:
                    self._keep(request.body, request.get("content-encoding"))
                    self.headers.append({name.decode().lower(): value.decode() for name, value in request.fields})
                    self.paths.append(request.start.split(b" ")[1].decode())
                    self._changed.notify_all()
            await connection.send(response(f"{status} X", headers="Content-Type: application/x-protobuf\r\n"))

    def _keep(self, body: bytes, coding: str | None) -> None:
        message = ExportTraceServiceRequest.FromString(gzip.decompress(body) if coding == "gzip" else body)
        before = len(self.spans)
        for group in message.resource_spans:
            resource = _values(group.resource.attributes)
            for scoped in group.scope_spans:
                self.spans += [_span(one, resource, (scoped.scope.name, scoped.scope.version)) for one in scoped.spans]
        self.batches.append(len(self.spans) - before)


def _span(one: Any, resource: dict[str, Any], scope: tuple[str, str]) -> Span:
    return Span(
        name=one.name,
        kind=KINDS[one.kind],
        trace_id=one.trace_id.hex(),
        span_id=one.span_id.hex(),
        parent_id=one.parent_span_id.hex(),
        trace_state=one.trace_state,
        start=one.start_time_unix_nano,
        end=one.end_time_unix_nano,
        status=STATUSES[one.status.code],
        attributes=_values(one.attributes),
        events=[{"name": event.name, "at": event.time_unix_nano, **_values(event.attributes)} for event in one.events],
        links=[{"trace_id": link.trace_id.hex(), "span_id": link.span_id.hex()} for link in one.links],
        dropped_attributes=one.dropped_attributes_count,
        resource=resource,
        scope=scope,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}
