"""What each level of overload does to listeners, connections and requests, on real sockets; and what it leaves alone."""

from __future__ import annotations

import asyncio
import logging

import pytest
import uvloop
from msgspec.structs import replace
from support.client import RawClient
from support.engine import Engine, upstream
from support.upstream import Connection, ScriptedUpstream
from test_lifecycle import life
from test_listeners import IN, OUT, World, until, world

from sidecar.http1 import splice
from sidecar.http1.server_connection import ServerConnection
from sidecar.model.exchange import State
from sidecar.model.reason import Reason
from sidecar.policy.overload import FLOOR, KEPT_IDLE, Action, Level, Overload
from sidecar.server.listeners import WORTH_CUTTING, Listeners
from sidecar.server.overload import TRIM_EVERY, OverloadActions

MIB = 1024 * 1024
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Short:
    """An overload at will, and its actions on the listeners of a World."""

    def __init__(self, w: World) -> None:
        self.overload = Overload()
        self.trims = 0
        self.excess = 0
        self.too_many = 0
        self.actions = OverloadActions(self.overload, w.listeners, lambda: self.excess, lambda: self.too_many, self.trim)
        self.now = 0.0

    def trim(self) -> None:
        self.trims += 1

    def look(self, share: float, resource: str = "memory") -> None:
        """As the watchdog's thread does, long after the look before."""
        self.now += 10
        self.overload.update({resource: share}, self.now)
        self.actions.due(self.now)


async def clients(w: World, count: int, name: str = "in") -> list[RawClient]:
    opened = [await w.connect(name) for _ in range(count)]
    for client in opened:
        assert (await client.request()).body == name.encode()
    return opened


async def close(opened: list[RawClient]) -> None:
    for client in opened:
        await client.close()


def test_relief_closes_the_connections_that_have_idled_longest_and_keeps_some() -> None:
    async def main() -> None:
        async with world() as w:
            w.apply(IN)
            short, opened = Short(w), await clients(w, KEPT_IDLE + 10)
            short.look(0.86)
            await until(lambda: w.counts.open["in"] == KEPT_IDLE + 5)
            for client in opened[:5]:
                assert await client.read_until_close() == b""
            assert (await opened[5].request()).body == b"in"
            for _ in range(5):
                short.look(0.86)
                await asyncio.sleep(0.02)
            await until(lambda: w.counts.open["in"] == KEPT_IDLE)
            assert (await opened[-1].request()).body == b"in"
            assert short.overload.actions[Action.IDLE_CLOSED] == 10
            await close(opened)

    uvloop.run(main())


def test_descriptors_that_are_short_cost_no_more_idle_connections_than_are_needed() -> None:
    """Over two listeners; what memory needs is not known, and is half of them again and again."""

    async def main() -> None:
        async with world() as w:
            w.apply(IN, replace(IN, name="second"))
            short, opened = Short(w), [*await clients(w, KEPT_IDLE + 10), *await clients(w, KEPT_IDLE + 20, "second")]
            short.too_many = 11
            short.look(0.86, "file_descriptors")
            await until(lambda: w.counts.open["in"] + w.counts.open["second"] == 2 * KEPT_IDLE + 30 - 11)
            short.too_many = 0
            short.look(0.86, "file_descriptors")
            assert short.overload.level is Level.RELIEVE
            await asyncio.sleep(0.02)
            assert short.overload.actions[Action.IDLE_CLOSED] == 11
            await close(opened)

    uvloop.run(main())


def test_a_narrow_listener_takes_as_many_connections_as_the_floor_and_readiness_tells() -> None:
    async def main() -> None:
        async with life() as w:
            short, opened = Short(w), await clients(w, FLOOR)
            short.look(0.99)
            await until(lambda: not w.ready())
            assert [check.detail for check in w.life.readiness() if not check.ok] == [
                "short of memory or file descriptors: clients wait to be accepted (in)"
            ]
            late = await w.connect("in")
            await late.send(GET)
            await late.read_nothing()
            await opened.pop().close()
            assert (await late.read_response()).body == b"in"
            another = await w.connect("in")
            await another.send(GET)
            await another.read_nothing()
            short.look(0.1)
            assert (await another.read_response()).body == b"in"
            assert w.ready()
            await close([*opened, late, another])

    uvloop.run(main())


def test_a_listener_that_a_reload_brings_while_it_is_narrow_is_narrow_too() -> None:
    async def main() -> None:
        async with world() as w:
            w.apply(IN)
            short = Short(w)
            short.look(0.99)
            await asyncio.sleep(0.02)
            w.apply(IN, OUT)
            opened = await clients(w, FLOOR, "out")
            late = await w.connect("out")
            await late.send(GET)
            await late.read_nothing()
            short.look(0.1)
            assert (await late.read_response()).body == b"out"
            await close([*opened, late])

    uvloop.run(main())


def test_heads_in_pieces_are_refused_when_it_is_narrow_and_whole_ones_never() -> None:
    async def main() -> None:
        async with world() as w:
            w.apply(IN)
            short = Short(w)
            async with await w.connect("in") as slow, await w.connect("in") as quick:
                await slow.send(GET[:20])
                await until(lambda: any(one.head_coming for one in _connections(w)))
                short.look(0.96)
                assert (await slow.read_response()).status == 503
                assert short.overload.actions[Action.HEAD_REFUSED] == 1
                await quick.send(GET[:20])
                await until(lambda: any(one.head_coming and one.rx for one in _connections(w)))
                short.look(0.91)
                await quick.send(GET[20:])
                assert (await quick.read_response()).body == b"in"

    uvloop.run(main())


def _connections(w: World) -> list[ServerConnection]:
    return [connection for port in w.listeners._ports.values() for connection in port.connections]


def test_each_level_is_told_once_and_memory_is_given_back_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with world() as w:
            w.apply(IN)
            short = Short(w)
            for share in (0.5, 0.86, 0.86, 0.91, 0.96, 0.91, 0.2, 0.2):
                short.look(share)
                await asyncio.sleep(0.01)
            assert short.trims == 6, "and once more when it is over"
            short.overload.update({"memory": 0.99}, short.now)
            for passed in (0.1, 0.2, TRIM_EVERY + 5):
                short.actions.due(short.now + passed)
            assert short.trims == 8
            short.overload.update({}, short.now + 10)
            short.actions.due(short.now + 10)
            await asyncio.sleep(0.01)

    with caplog.at_level(logging.INFO, "outrider"):
        uvloop.run(main())
    told = [(record.event, record.fields.get("overload")) for record in caplog.records]
    assert told[:4] == [("overloaded", "relieve"), ("overloaded", "shed"), ("overloaded", "narrow"), ("overload_over", None)]


def test_new_requests_above_the_floor_get_503_while_what_is_in_flight_goes_on() -> None:
    go = asyncio.Event()

    async def script(connection: Connection) -> None:
        while True:
            await connection.read_head()
            await go.wait()
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def main() -> None:
        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            running = [await RawClient.open(engine.port()) for _ in range(FLOOR)]
            for client in running:
                await client.send(GET)
            await until(lambda: len(engine.timekeeper) == FLOOR)
            engine.proxy.overload.update({"memory": 0.91}, 0.0)
            async with await RawClient.open(engine.port()) as late:
                await late.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" + GET)
                answer = await late.read_response()
                assert (answer.status, answer.get("retry-after"), answer.get("connection")) == (503, "1", "close")
                assert "error=overloaded" in (answer.get("proxy-status") or "")
                assert await late.read_until_close() == b""
            exchange = await engine.seen.last()
            assert (exchange.upstream, exchange.attempts, exchange.detail) == (None, [], "memory is short")
            go.set()
            for client in running:
                assert (await client.read_response()).body == b"ok"
            assert (await running[0].request()).body == b"ok", "below the floor"
            assert engine.proxy.overload.actions[Action.REQUEST_REFUSED] == 1
            await close(running)

    uvloop.run(main())


@pytest.mark.parametrize("direction", ["download", "upload"])
def test_the_exchanges_that_hold_most_for_slow_peers_are_cut_and_the_others_are_not(
    direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is spliced is held by pipes, of which there are few and small ones."""
    monkeypatch.setattr(splice.PIPES, "refused", True)
    size = 32 * MIB

    async def script(connection: Connection) -> None:
        head = await connection.read_head()
        if b"/big" not in head.start:
            await go.wait()
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        elif direction == "download":
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        else:
            connection._writer.transport.pause_reading()
            await go.wait()

    async def main() -> None:
        async with (
            ScriptedUpstream(script) as server,
            Engine(upstream(server.port)) as engine,
            await RawClient.open(engine.port()) as slow,
            await RawClient.open(engine.port()) as small,
        ):
            slow._writer.transport.pause_reading()
            head = b"%b /big HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
            if direction == "download":
                await slow.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
            else:
                slow._writer.write(head % (b"POST", size) + bytes(size))
            await until(
                lambda: any(
                    one.held() >= WORTH_CUTTING and (direction == "download" or not one.reading)
                    for owner in engine._owners
                    for one in owner.connections
                )
            )
            await small.send(GET)
            await until(lambda: len(engine.timekeeper) == 2)
            listeners = Listeners(lambda _listener: engine.proxy.handler("inbound"), World().counts, engine.timekeeper)
            assert listeners.cut_largest(0, engine.proxy.overload.refusal) == 0
            assert listeners.cut_largest(100 * MIB, engine.proxy.overload.refusal) == 1
            exchange = await engine.seen.last()
            assert (exchange.reason, exchange.clock) == (Reason.OVERLOADED, None)
            assert exchange.state is (State.ABORTED if direction == "download" else State.REPLIED)
            go.set()
            assert (await small.read_response()).body == b"ok"

    go = asyncio.Event()
    uvloop.run(main())


def test_a_level_of_one_thread_is_acted_upon_by_the_loop() -> None:
    """`due` comes from the watchdog's thread."""

    async def main() -> None:
        async with world() as w:
            w.apply(IN)
            short = Short(w)
            opened = await clients(w, KEPT_IDLE + 2)
            await asyncio.to_thread(short.look, 0.86)
            await until(lambda: short.overload.actions[Action.IDLE_CLOSED] > 0)
            await asyncio.to_thread(short.look, 0.1)
            assert short.overload.level is Level.NONE
            await close(opened)

    uvloop.run(main())
