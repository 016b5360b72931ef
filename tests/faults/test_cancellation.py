"""Whatever an exchange is doing when it ends: nothing of it stays, it is recorded once, and the upstream hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop
from faults.rig import BOUND, REACHED, Rig, assert_clean, deaf_port, read_on, until
from support import RawClient, ScriptedUpstream, response
from support.engine import Engine, upstream
from support.upstream import Connection, Script, in_turn

from sidecar.model.exchange import State
from sidecar.model.reason import Clock, Phase, Reason
from sidecar.model.snapshot import PoolLimits, RetryPolicy, Target, Upstream
from sidecar.upstream.cares import Record
from sidecar.upstream.registry import Registry
from sidecar.upstream.resolver import Resolver

MIB = 1024 * 1024
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CAUSES = ("reset", "fin", "clock", "shutdown")


def post(length: int, sent: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (length, sent)


async def silent(connection: Connection) -> None:
    """Reads the head, then whatever comes, and says nothing."""
    await connection.read_head()
    await read_on(connection)


def says(data: bytes) -> Script:
    async def play(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(data)
        await read_on(connection)

    return play


async def serves(connection: Connection) -> None:
    while True:
        await connection.read_request()
        await connection.send(response(body=b"fine"))


@dataclass
class Phase_:  # noqa: N801  # Phase is the model's
    name: str
    send: bytes
    reached: Callable[[Rig], bool]
    script: Script = silent
    play: Callable[[Rig], Awaitable[None]] | None = None
    """What the client does beside sending `send`."""
    committed: bool = False
    causes: tuple[str, ...] = CAUSES
    route: dict[str, Any] = field(default_factory=dict)
    pool: PoolLimits = field(default_factory=PoolLimits)
    heard: bool = True
    """The upstream has a connection that must end."""


def awaiting(phase: Phase) -> Callable[[Rig], bool]:
    return lambda rig: bool(rig.engine.seen.started) and bool(rig.exchange.attempts) and rig.attempt.phase is phase


async def send_a_lot(rig: Rig) -> None:
    """Until nothing of it moves any more: the upstream does not read."""
    piece, sent = b"x" * 65536, 0
    await rig.client.send(post(64 * MIB, b""))
    while True:
        try:
            await asyncio.wait_for(rig.client.send(piece), 0.1)
            sent += len(piece)
        except TimeoutError:
            return


async def send_a_mebibyte(rig: Rig) -> None:
    await rig.client.send(post(64 * MIB, b"x" * MIB))
    await until(lambda: rig.exchange.bytes_in == MIB, seconds=REACHED)


async def read_a_mebibyte(rig: Rig) -> None:
    await rig.client.send(GET)
    await rig.client.read_head()
    await rig.client.read_exactly(MIB)


async def fill_the_pool(rig: Rig) -> None:
    """Another client holds the only connection."""
    other = await RawClient.open(rig.engine.port())
    rig.other = other  # type: ignore[attr-defined]  # closed by the test
    await other.send(GET)
    await until(lambda: rig.engine.registry.statuses()[0].connections_active == 1)
    await rig.client.send(GET)


async def read_nothing(rig: Rig) -> None:
    rig.client._writer.transport.pause_reading()
    await rig.client.send(GET)


BULK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB)


async def floods(connection: Connection) -> None:
    await connection.read_head()
    await connection.send(BULK + b"x" * 64 * MIB)


async def stands_still(connection: Connection) -> None:
    connection._writer.transport.pause_reading()
    connection.go = asyncio.Event()  # type: ignore[attr-defined]  # set by the test
    await connection.go.wait()
    connection._writer.transport.resume_reading()
    await read_on(connection)


PHASES = [
    Phase_("upload-small", post(100, b"x" * 10), lambda rig: awaiting(Phase.SEND)(rig) and rig.exchange.bytes_in == 10),
    Phase_(
        "upload-chunked",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        lambda rig: awaiting(Phase.SEND)(rig) and rig.exchange.bytes_in == 5,
    ),
    Phase_("upload-bulk-waiting-for-the-client", b"", lambda rig: rig.connection.sink is not None, play=send_a_mebibyte),
    Phase_(
        "upload-bulk-waiting-for-the-upstream",
        b"",
        lambda rig: not rig.connection.reading,
        script=stands_still,
        play=send_a_lot,
        causes=("reset", "clock", "shutdown"),  # a FIN stands behind bytes that nobody takes
    ),
    Phase_(
        "queue",
        b"",
        lambda rig: rig.engine.registry.statuses()[0].pending == 1,
        play=fill_the_pool,
        pool=PoolLimits(max_connections=1),
        heard=False,
    ),
    Phase_("dns", GET, awaiting(Phase.CONNECT), heard=False),
    Phase_("connect", GET, awaiting(Phase.CONNECT), heard=False),
    Phase_("response-head", GET, awaiting(Phase.HEADERS)),
    Phase_("half-a-response-head", GET, awaiting(Phase.HEADERS), script=says(b"HTTP/1.1 200 OK\r\nContent-")),
    Phase_(
        "interim", GET, lambda rig: awaiting(Phase.HEADERS)(rig) and rig.flight.started, script=says(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    ),
    Phase_(
        "response-small",
        GET,
        lambda rig: rig.exchange.bytes_out == 5,
        script=says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
        committed=True,
    ),
    Phase_(
        "response-chunked",
        GET,
        lambda rig: rig.exchange.bytes_out == 5,
        script=says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        committed=True,
    ),
    Phase_(
        "response-bulk",
        b"",
        lambda rig: rig.exchange.bytes_out == MIB,
        script=says(BULK + b"x" * MIB),
        play=read_a_mebibyte,
        committed=True,
    ),
    Phase_(
        "response-bulk-slow-reader", b"", lambda rig: rig.connection.drained is not None, script=floods, play=read_nothing, committed=True
    ),
    Phase_(
        "back-off",
        GET,
        lambda rig: bool(rig.engine.seen.attempts),
        script=says(response("503 Service Unavailable")),
        route={"retry": RetryPolicy(backoff=5.0, max_backoff=5.0)},
    ),
]


@pytest.mark.parametrize(
    ("phase", "cause"), [pytest.param(phase, cause, id=f"{phase.name}-{cause}") for phase in PHASES for cause in phase.causes]
)
def test_an_exchange_that_ends_early_leaves_nothing(phase: Phase_, cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with ExitStack() as stack:
            script = in_turn(phase.script, serves)
            async with ScriptedUpstream(script) as server:
                target: Upstream = upstream(server.port, pool=phase.pool)
                if phase.name == "connect":
                    target = upstream(stack.enter_context(deaf_port()))
                elif phase.name == "dns":
                    monkeypatch.setattr("support.engine.Registry", lambda observer: Registry(observer, Resolver(_never)))
                    target = Upstream(name="app", targets=(Target(host="nowhere.test", port=80),))
                async with Engine(target, route=phase.route) as engine:
                    await _play(phase, cause, engine, server)

    uvloop.run(main())


async def _never(_host: str) -> list[Record]:
    await asyncio.sleep(BOUND * 10)
    return []


async def _play(phase: Phase_, cause: str, engine: Engine, server: ScriptedUpstream) -> None:
    async with await RawClient.open(engine.port()) as client:
        rig = Rig(engine, server, client)
        if phase.play is not None:
            await phase.play(rig)
        else:
            await client.send(phase.send)
        await until(lambda: engine.seen.started and phase.reached(rig), phase.name, REACHED)
        exchange = rig.exchange
        await rig.end(cause)
        _check_outcome(phase, cause, rig)
        for connection in server.connections:
            if hasattr(connection, "go"):
                connection.go.set()
        if phase.heard:
            await asyncio.wait_for((await server.connection(0)).ended.wait(), BOUND)
        if cause == "clock":
            await _check_client(phase, client)
        if (other := getattr(rig, "other", None)) is not None:
            await other.close()
        assert exchange in engine.seen.finished
    await assert_clean(engine)
    if phase.name not in ("connect", "dns"):
        async with await RawClient.open(engine.port()) as client:
            assert (await client.request()).body == b"fine"


def _check_outcome(phase: Phase_, cause: str, rig: Rig) -> None:
    exchange = rig.exchange
    if cause in ("reset", "fin"):
        assert (exchange.state, exchange.reason) == (State.ABORTED, Reason.CLIENT_CLOSED)
        assert exchange.status == (200 if phase.committed else 499)
    elif cause == "shutdown":
        assert (exchange.state, exchange.reason) == (State.ABORTED, Reason.DRAINING)
    else:
        assert (exchange.reason, exchange.clock) == (Reason.REQUEST_TIMEOUT, Clock.REQUEST)
        assert exchange.state is (State.ABORTED if phase.committed else State.REPLIED)


async def _check_client(phase: Phase_, client: RawClient) -> None:
    client._writer.transport.resume_reading()
    if phase.committed:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await client.read_exactly(1 << 40)
        return
    if phase.name == "upload-bulk-waiting-for-the-upstream":  # it is still sending, and may be told so by a reset
        await until(lambda: b"request_timeout" in client._reader._buffer)
        return
    answer = await client.read_response()
    if answer.status == 103:
        answer = await client.read_response()
    assert answer.status == 504
    assert b"request_timeout" in answer.body
