"""Every cell of the fault table (cells.py) has one defined outcome, and docs/failures.md says which."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from faults.cells import CELLS, CUT, FAULTS, GONE, MORE, OK, PHASES, TUNNEL, UPLOAD_SIZE, Cell
from faults.failures import DOCUMENT, page
from faults.rig import BOUND, REACHED, Rig, assert_clean, deaf_port, until
from support import RawClient, ScriptedUpstream
from support.engine import Engine, upstream
from support.otlp import Collector, Span
from support.ports import closed_port
from support.tls import CA
from support.upstream import Connection, in_turn

from sidecar.config.certificate_files import CertificateFiles
from sidecar.errors import UpstreamError
from sidecar.model.exchange import Exchange, State
from sidecar.model.reason import Phase, Reason
from sidecar.model.snapshot import Target, Timeouts, Upstream
from sidecar.model.telemetry import Exporter, Sampler, Telemetry
from sidecar.model.telemetry import Tracing as Document
from sidecar.model.tls import CaRef, UpstreamTls
from sidecar.observe.access_log import AccessLog
from sidecar.observe.base import status_of
from sidecar.observe.metrics import Metrics
from sidecar.observe.tracing.service import Tracing
from sidecar.proxy.plan import make_plan
from sidecar.tls.store import TlsStore
from sidecar.upstream.cares import Record
from sidecar.upstream.registry import Registry
from sidecar.upstream.resolver import Resolver

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % UPLOAD_SIZE
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
ENDED_BY_US = ("client leaves", "drain", "reload")
PROVEN = [cell for cell in (*CELLS, *MORE) if not cell.why_not]


@dataclass(kw_only=True)
class Watched(Rig):
    """A rig whose spans a collector gets."""

    collector: Collector


def test_the_table_has_every_phase_and_every_fault_exactly_once() -> None:
    assert [(cell.phase, cell.fault) for cell in CELLS if (cell.phase, cell.fault) not in {(p, f) for p in PHASES for f in FAULTS}] == []
    assert sorted((cell.phase, cell.fault) for cell in CELLS) == sorted((phase, fault) for phase in PHASES for fault in FAULTS)
    assert [cell.name for cell in MORE if cell.phase not in PHASES or cell.fault in FAULTS or cell.why_not] == []


def test_the_page_is_what_the_table_says() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == page(CELLS, MORE), "make docs"


@pytest.mark.parametrize("cell", PROVEN, ids=lambda cell: cell.name)
def test_a_fault_has_the_outcome_of_its_cell(cell: Cell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def main() -> None:
        async with world(cell, monkeypatch, tmp_path) as rig:
            await play(cell, rig)
            await rig.client.close()
            for connection in rig.server.connections if rig.server is not None else ():
                connection.go = True  # type: ignore[attr-defined]  # scripts look for it
            await assert_clean(rig.engine)
            if not cell.upstream_kept and cell.phase != "idle":
                assert rig.server is not None
                for connection in rig.server.connections:
                    await asyncio.wait_for(connection.ended.wait(), REACHED)

    uvloop.run(main())


@asynccontextmanager
async def world(cell: Cell, monkeypatch: pytest.MonkeyPatch, folder: Path) -> AsyncIterator[Watched]:
    """The engine with its upstream in the condition that the cell asks for, and a client; spans go to a collector."""
    assert cell.script is not None
    async with AsyncExitStack() as stack:
        collector = await stack.enter_async_context(Collector())
        scripts = (cell.script,) if cell.phase == "TLS" else (cell.script, serves_after)
        server = await stack.enter_async_context(ScriptedUpstream(in_turn(*scripts)))
        target: Upstream = upstream(server.port)
        if cell.phase == "connect" and cell.fault == "refuse":
            target = upstream(stack.enter_context(closed_port()))
        elif cell.phase == "connect":
            target = upstream(stack.enter_context(deaf_port()), connect_timeout=0.3)
        elif cell.phase == "DNS":
            monkeypatch.setattr("support.engine.Registry", lambda observer: Registry(observer, Resolver(_names(cell))))
            target = Upstream(name="app", targets=(Target(host="app.test", port=server.port),), connect_timeout=0.5)
        elif cell.phase == "TLS":
            target = _secured(server.port, cell, folder)
        engine = Engine(
            target,
            route={"timeouts": Timeouts(**cell.timeouts)},
            tracing=Tracing({"OTEL_BSP_SCHEDULE_DELAY": "10"}),
            telemetry=Telemetry(tracing=Document(exporter=Exporter.OTLP, endpoint=collector.url, sampler=Sampler.ALWAYS_ON)),
        )
        if cell.phase == "TLS":
            store = await stack.enter_async_context(_certificates(engine))
            monkeypatch.setattr("support.engine.Registry", lambda observer: Registry(observer, tls=store))
        await stack.enter_async_context(engine)
        client = await stack.enter_async_context(await RawClient.open(engine.port()))
        yield Watched(engine, server, client, collector=collector)


def _secured(port: int, cell: Cell, folder: Path) -> Upstream:
    """An upstream that speaks TLS, and shows a certificate of the tests' authority."""
    (folder / "ca.crt").write_bytes(CA.pem)
    tls = UpstreamTls(ca=(CaRef(file=str(folder / "ca.crt")),), system_ca=False)
    target = Target(host="127.0.0.1", port=port, tls=True)
    return Upstream(name="app", targets=(target,), tls=tls, connect_timeout=cell.connect_timeout)


@asynccontextmanager
async def _certificates(engine: Engine) -> AsyncIterator[TlsStore]:
    files = CertificateFiles()
    store = TlsStore(files.follow)
    snapshot = engine.snapshot()
    try:
        await store.want(snapshot)
        store.keep(snapshot)
        yield store
    finally:
        await store.aclose()
        await files.aclose()


async def serves_after(connection: Connection) -> None:
    """What a second connection of the upstream does: all is well again."""
    while True:
        await connection.read_request()
        await connection.send(OK)


def _names(cell: Cell) -> Callable[[str], Any]:
    async def query(_host: str) -> list[Record]:
        if cell.fault == "refuse":
            raise UpstreamError(Reason.DNS_ERROR, "NXDOMAIN", phase=Phase.CONNECT)
        if cell.fault in ("black-hole", "client leaves", "drain"):
            await asyncio.sleep(BOUND * 10)
        if cell.fault in ("slow drip", "reload"):
            await asyncio.sleep(0.1)
        return [("127.0.0.1", 60)] * (1000 if cell.fault == "over-long" else 1)

    return query


async def play(cell: Cell, rig: Watched) -> None:
    """Bring the exchange into its phase, let the fault happen, and compare with the cell."""
    client, engine = rig.client, rig.engine
    if cell.phase == "idle":
        await _idle(cell, rig)
        return
    await client.send({"send": POST + b"x" * 1000, "tunnel": UPGRADE}.get(cell.phase, GET))
    if cell.fault in ENDED_BY_US:
        await until(lambda: _reached(cell, rig), "the phase is reached")
        await _end(cell, rig)
    if cell.phase == "send" and cell.fault in ("slow drip", "reload"):
        await client.send(b"x" * (UPLOAD_SIZE - 1000))
    await _check_client(cell, client)
    exchange = await engine.seen.last()
    _check_record(cell, exchange)
    await _check_span(rig, exchange)
    await _check_connections(cell, rig)


def _reached(cell: Cell, rig: Rig) -> bool:
    seen = rig.engine.seen
    if not seen.started or not rig.exchange.attempts:
        return False
    if cell.phase == "tunnel":
        return bool(seen.tunnels)
    if cell.phase == "body":
        return rig.exchange.bytes_out == 5
    if cell.phase == "TLS":
        assert rig.server is not None
        return any(connection.received for connection in rig.server.connections)
    wanted = {"DNS": Phase.CONNECT, "connect": Phase.CONNECT, "send": Phase.SEND}.get(cell.phase, Phase.HEADERS)
    return rig.attempt.phase is wanted


async def _end(cell: Cell, rig: Rig) -> None:
    if cell.fault == "client leaves":
        rig.client.reset()
    elif cell.fault == "drain":  # what drainTimeout does to what is left
        rig.connection.task.cancel()
    else:
        engine = rig.engine
        snapshot = engine.snapshot()
        await engine.registry._tls.want(snapshot)
        await engine.registry.reconcile(snapshot)
        engine.registry._tls.keep(snapshot)
        engine.proxy.plan = make_plan(snapshot, engine.registry, engine.tracing._active.tracer)
        if rig.server is not None:
            for connection in rig.server.connections:
                connection.go = True  # type: ignore[attr-defined]  # scripts look for it


async def _check_client(cell: Cell, client: RawClient) -> None:
    if cell.seen == GONE:
        return
    if cell.phase == "tunnel" and cell.seen in (CUT, TUNNEL) and cell.fault != "drain":
        head = await client.read_head()
        assert head.start.startswith(b"HTTP/1.1 101"), head
    if cell.seen == TUNNEL:
        assert len(await client.read_exactly(10)) == 10
        client.half_close()
        if cell.fault == "half-close":
            assert await client.read_until_close() == b""
        return
    if cell.seen == CUT:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await _read_cut(client)
        return
    answer = await client.read_response()
    while answer.status == 103:
        answer = await client.read_response()
    assert answer.status == cell.seen
    assert (answer.get("connection") == "close") is not cell.client_kept
    if cell.reason is not None:
        assert f"error={cell.reason.value}" in (answer.get("proxy-status") or "")
        assert cell.reason.value in answer.body.decode()
    else:
        assert answer.get("proxy-status") is None, "it is the upstream's"


async def _read_cut(client: RawClient) -> None:
    answer = await client.read_response()
    assert answer.status == 101, f"a whole response: {answer}"
    await client.read_exactly(1)


def _check_record(cell: Cell, exchange: Exchange) -> None:
    assert (exchange.reason, exchange.clock) == (cell.reason, cell.clock)
    assert len(exchange.attempts) == cell.tries
    ended_well = cell.reason is None
    if ended_well:
        assert exchange.state is State.DONE
    else:
        replied = isinstance(cell.seen, int)
        assert exchange.state is (State.REPLIED if replied else State.ABORTED)
    _check_metric(exchange)
    _check_line(exchange)


def _check_metric(exchange: Exchange) -> None:
    """Reason and clock are in the metrics as they are in the record."""
    metrics = Metrics()
    metrics.exchange_started(exchange)
    for attempt in exchange.attempts:
        metrics.attempt_finished(exchange, attempt)
    metrics.exchange_finished(exchange)
    (series,) = metrics.traffic.values()
    ((_, status, reason),) = series.requests
    assert reason == exchange.reason
    assert status == (exchange.status or status_of(exchange))
    if exchange.clock is not None:
        (trouble,) = metrics.trouble.values()
        assert exchange.clock.value in trouble.timeouts


class _Sink:
    """Keeps what is written to it."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, lines: bytes) -> None:
        self.written += lines


def _check_line(exchange: Exchange) -> None:
    """Reason, clock and status are in the access log as they are in the record."""
    sink = _Sink()
    log = AccessLog(sink)  # type: ignore[arg-type]
    log.exchange_finished(exchange)
    log.close()
    line = json.loads(sink.written)
    assert line["reason"] == ("none" if exchange.reason is None else exchange.reason.value)
    assert line.get("clock") == (None if exchange.clock is None else exchange.clock.value)
    assert line["status"] == (exchange.status or status_of(exchange))
    assert line["attempts"] == len(exchange.attempts) - exchange.replays


async def _check_span(rig: Watched, exchange: Exchange) -> None:
    """Reason and clock are in the spans that a collector gets, and the failed exchange is an error there, unless the client left."""
    collector = rig.collector
    mine = exchange.request_id.decode()

    def spans() -> list[Span]:
        return [span for span in collector.spans if span.attributes.get("outrider.request_id") == mine]

    await collector.until(lambda: bool(spans()))
    (span,) = spans()
    await collector.until(lambda: len(_children(collector, span)) == len(exchange.attempts))
    reason = None if exchange.reason is None else exchange.reason.value
    told = reason or (str(exchange.status) if exchange.status >= 500 else None)
    expected = (reason, exchange.clock and exchange.clock.value, None if exchange.reason is Reason.CLIENT_CLOSED else told)
    assert _told(span) == expected
    if exchange.attempts and reason is not None:
        last = max(_children(collector, span), key=lambda child: child.attributes.get("http.request.resend_count", 0))
        assert _told(last) == expected


def _children(collector: Collector, span: Span) -> list[Span]:
    return [one for one in collector.spans if one.parent_id == span.span_id]


def _told(span: Span) -> tuple[str | None, ...]:
    return tuple(span.attributes.get(name) for name in ("outrider.reason", "outrider.clock", "error.type"))


async def _check_connections(cell: Cell, rig: Rig) -> None:
    """Whether each side's connection takes another request."""
    assert rig.server is not None
    before = len(rig.server.connections)
    upstreams = sum(status.connections_idle for status in rig.engine.registry.statuses())
    assert upstreams == (1 if cell.upstream_kept else 0)
    if not isinstance(cell.seen, int):
        return
    if not cell.client_kept:
        await rig.client.read_until_close()
        return
    if cell.phase in ("DNS", "connect") and cell.seen != 200:
        return
    if cell.upstream_kept and cell.seen == 200 and cell.phase == "DNS":
        assert (await rig.client.request()).status == 200
        assert len(rig.server.connections) == before


async def _idle(cell: Cell, rig: Watched) -> None:
    """A first exchange leaves both connections idle; the fault happens; then a second comes."""
    client, server = rig.client, rig.server
    assert server is not None
    assert (await client.request()).status == 200
    if cell.fault == "client leaves":
        client.reset()
        return
    if cell.fault == "drain":
        rig.connection.drain_soon()
        assert await client.read_until_close() == b""
        return
    if cell.fault == "reload":
        await _end(cell, rig)
    elif cell.fault != "black-hole":
        server.connections[0].go = True  # type: ignore[attr-defined]  # the script waits for it
        await until(lambda: sum(status.connections_idle for status in rig.engine.registry.statuses()) == 0, "it is taken out of the pool")
    await client.send(GET)
    await _check_client(cell, client)
    exchange = await rig.engine.seen.last(2)
    _check_record(cell, exchange)
    await _check_span(rig, exchange)
    assert len(server.connections) == (1 if cell.upstream_kept or cell.fault == "black-hole" else 2)
    assert (cell.reason is None) == (exchange.reason is None)
    assert exchange.reason in (None, Reason.HTTP_RESPONSE_TIMEOUT)
