"""An exchange brought to a phase, an end brought to the exchange, and a look at what is left."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from support import RawClient, ScriptedUpstream
from support.engine import Engine
from support.upstream import Connection

from sidecar import tasks
from sidecar.http1.server_connection import ServerConnection
from sidecar.model.exchange import Attempt, Exchange
from sidecar.proxy import states
from sidecar.proxy.flight import Flight

BOUND = 3.0
"""Seconds within which everything here must have happened: less than the sidecar's own clocks take, which would hide a leak."""
REACHED = 30.0
"""Seconds that it may take to bring an exchange to where something is to happen to it, tens of mebibytes included."""


async def until(true: Callable[[], Any], what: str = "", seconds: float = BOUND) -> None:
    """Wait for something that has no event of its own."""
    try:
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what or true}") from None


async def read_on(connection: Connection) -> None:
    """Read and drop until the peer has gone."""
    while await connection.read_some():
        pass


@dataclass
class Rig:
    """What a phase needs to be reached and an end to be put to it."""

    engine: Engine
    server: ScriptedUpstream | None
    client: RawClient
    go: asyncio.Event = field(default_factory=asyncio.Event)
    """Lets an upstream that stood still go on."""

    @property
    def connection(self) -> ServerConnection:
        """Ours to the client."""
        return next(one for owner in self.engine._owners for one in owner.connections if one.peer_port == self.client.local_port)

    @property
    def connections(self) -> list[ServerConnection]:
        return [one for owner in self.engine._owners for one in owner.connections]

    @property
    def flight(self) -> Flight:
        flights = [flight for flight in self.engine.timekeeper if isinstance(flight, Flight) and flight.connection is self.connection]
        return flights[0]

    @property
    def exchange(self) -> Exchange:
        return self.engine.seen.started[-1]

    @property
    def attempt(self) -> Attempt:
        return self.exchange.attempts[-1]

    async def end(self, cause: str) -> None:
        """Bring about one of the four ends; returns when the exchange, if there was one, is recorded."""
        seen, connection, exchange = self.engine.seen, self.connection, self.exchange
        if cause == "reset":
            self.client.reset()
        elif cause == "fin":
            self.client.half_close()
        elif cause == "clock":
            self.flight.deadlines.request_at = 0.001
        else:
            connection.task.cancel()
        await until(lambda: exchange in seen.finished, f"{cause}: the exchange is recorded")


async def assert_clean(engine: Engine, *, connections: int = 0) -> None:
    """Nothing is left of any exchange; `connections` clients are still connected, idle."""
    await until(lambda: sum(len(owner.connections) for owner in engine._owners) == connections, "client connections gone")
    await until(lambda: len(_running()) == connections, "tasks left")
    for status in engine.registry.statuses():
        assert (status.pending, status.connections_connecting) == (0, 0), status
        assert all(endpoint.active == 0 for endpoint in status.endpoints), status
    await until(lambda: all(status.connections_active == 0 for status in engine.registry.statuses()), "pool slots")
    for upstream in engine.registry._upstreams.values():
        assert upstream.transport.pool.active == 0
    assert engine.proxy.kept.size == 0
    assert len(engine.timekeeper) == 0
    seen = engine.seen
    assert len(seen.started) == len(seen.finished) == len({id(one) for one in seen.finished})
    tried = [attempt for exchange in seen.finished for attempt in exchange.attempts]
    assert sorted(map(id, tried)) == sorted(map(id, seen.attempts)), "every attempt is reported exactly once"
    assert all(attempt.outcome and attempt.ended_at for attempt in tried)
    violations, states.violations = states.violations, 0
    assert violations == 0


def _running() -> list[asyncio.Task[Any]]:
    """Of exchanges: not the one that follows certificates, nor questions to DNS, which go on for whoever asks next, for 15 s at most."""
    return [task for task in tasks._running if not task.get_name().startswith(("resolve ", "certificate files"))]


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port that neither accepts nor refuses: its backlog is full."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []
    try:
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        yield listener.getsockname()[1]
    finally:
        for one in (*fillers, listener):
            one.close()


Play = Callable[[Rig], Awaitable[None]]
