"""Drain, step by step (product.md 3.7 and 3.9)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import uvloop
from support.client import RawClient
from support.virtual_time import run_in_virtual_time
from test_listeners import IN, OUT, World, refused, until

from sidecar.model.snapshot import Lifecycle as Timing
from sidecar.model.snapshot import Mode
from sidecar.proxy.timekeeper import Timekeeper
from sidecar.server import port as port_module
from sidecar.server.lifecycle import Lifecycle, Stage
from sidecar.server.listeners import Listeners

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Life(World):
    """Two listeners, one of each mode, and their lifecycle."""

    def __init__(self, delay: float, timeout: float) -> None:
        super().__init__()
        self.age = 0.0
        self.apply(IN, OUT)
        self.life = Lifecycle(self.listeners, lambda: Timing(drain_delay=delay, drain_timeout=timeout), lambda: self.age)
        self.life.first_decision()
        self.life.config_active()

    async def busy(self, name: str) -> RawClient:
        """A client whose request is in flight."""
        self.gate.clear()
        client, before = await self.connect(name), self.held
        await client.send(REQUEST)
        await until(lambda: self.held > before)
        return client

    def ready(self) -> bool:
        return all(check.ok for check in self.life.readiness())


@asynccontextmanager
async def life(delay: float = 0.0, timeout: float = 5.0) -> AsyncIterator[Life]:
    one = Life(delay, timeout)
    try:
        yield one
    finally:
        await one.life.aclose()
        await one.listeners.aclose()


def test_startup_holds_as_soon_as_the_first_decision_is_taken_readiness_when_a_document_is_active() -> None:
    async def main() -> None:
        world = World()
        one = Lifecycle(world.listeners, Timing, lambda: 0.0)
        assert [check.ok for check in one.startup()] == [False]
        one.first_decision()
        assert [check.ok for check in one.startup()] == [True]
        assert [check.name for check in one.readiness() if not check.ok] == ["config"]
        one.config_active()
        assert all(check.ok for check in one.readiness())
        assert one.stage is Stage.READY

    uvloop.run(main())


def test_an_active_document_is_a_decision_too() -> None:
    async def main() -> None:
        one = Lifecycle(World().listeners, Timing, lambda: 0.0)
        one.config_active()
        assert [check.ok for check in one.startup()] == [True]

    uvloop.run(main())


def test_liveness_fails_when_the_loop_has_not_come_round_for_long() -> None:
    async def main() -> None:
        async with life() as one:
            assert one.life.liveness()[0].ok
            one.age = 60.0
            assert not one.life.liveness()[0].ok

    uvloop.run(main())


def test_from_sigterm_on_readiness_fails_responses_say_close_and_listeners_accept_during_the_delay() -> None:
    async def main() -> None:
        async with life(delay=30.0) as one:
            async with await one.connect("in") as early, await one.connect("out") as outward:
                one.life.stop()
                waiting = asyncio.create_task(one.life.wait())
                await asyncio.sleep(0)
                assert not one.ready()
                async with await one.connect("in") as late:
                    for client in (early, late, outward):
                        assert (await client.request()).get("connection") == "close"
            one.life.stop()
            assert await waiting == 0

    uvloop.run(main())


def test_after_the_delay_reverse_listeners_close_and_idle_connections_with_them() -> None:
    async def main() -> None:
        async with life() as one, await one.connect("in") as client:
            await client.request()
            port = one.port("in")
            one.life.stop()
            assert await one.life.wait() == 0
            assert await client.read_until_close() == b""
            assert refused(port)
            assert one.life.stage is Stage.CLOSED

    uvloop.run(main())


def test_a_drain_waits_for_the_exchange_in_flight() -> None:
    async def main() -> None:
        async with life() as one, await one.busy("in") as client:
            one.life.stop()
            waiting = asyncio.create_task(one.life.wait())
            await asyncio.sleep(0.1)
            assert not waiting.done()
            one.gate.set()
            assert (await client.read_response()).get("connection") == "close"
            assert await waiting == 0

    uvloop.run(main())


def test_drain_timeout_cuts_what_is_left_and_tells_how_much() -> None:
    async def main() -> None:
        async with life(timeout=0.1) as one, await one.busy("in"):
            one.life.stop()
            assert await one.life.wait() == 1
            one.gate.set()

    uvloop.run(main())


def test_a_second_signal_ends_it_now() -> None:
    async def main() -> None:
        async with life(delay=30.0, timeout=30.0) as one, await one.busy("in"):
            one.life.stop()
            waiting = asyncio.create_task(one.life.wait())
            await asyncio.sleep(0.05)
            one.life.stop()
            assert await asyncio.wait_for(waiting, 5) == 1
            one.gate.set()

    uvloop.run(main())


class Arrivals(Listeners):
    """Listeners to which connections come as `every` and `last` say, in virtual time; `closed_at`: seconds after the start."""

    def __init__(self, every: float, last: float) -> None:
        super().__init__(World().handler, World().counts, Timekeeper(asyncio.get_running_loop()))
        self.every, self.last = every, last
        self.begun = asyncio.get_running_loop().time()
        self.closed_at = 0.0

    def has(self, modes: Sequence[Mode] = tuple(Mode)) -> bool:
        return True

    def last_opened(self, modes: Sequence[Mode]) -> float:
        since = min(asyncio.get_running_loop().time() - self.begun, self.last)
        return self.begun + since // self.every * self.every

    async def close(self, modes: Sequence[Mode], deadline: float, now: asyncio.Event) -> int:
        if tuple(modes) == (Mode.REVERSE,):
            self.closed_at, self.deadline = asyncio.get_running_loop().time() - self.begun, deadline - self.begun
        return 0


@pytest.mark.parametrize(
    ("last", "closed_at"),
    [
        pytest.param(0.0, 5.0, id="nobody comes"),
        pytest.param(1.0, 6.0, id="the last comes early"),
        pytest.param(8.0, 13.0, id="the last comes late"),
        pytest.param(1e9, 15.0, id="they never end"),
    ],
)
def test_reverse_listeners_accept_until_nobody_has_come_for_the_delay_and_half_of_drain_timeout_longer_at_most(
    last: float, closed_at: float
) -> None:
    async def main() -> None:
        arrivals = Arrivals(0.25, last)
        one = Lifecycle(arrivals, lambda: Timing(drain_delay=5.0, drain_timeout=20.0), lambda: 0.0)
        one.config_active()
        one.stop()
        assert await one.wait() == 0
        await one.aclose()
        assert arrivals.closed_at == pytest.approx(closed_at)
        assert arrivals.deadline == pytest.approx(25.0), "the whole never takes longer than both together"

    run_in_virtual_time(main())


def test_connections_that_came_before_the_drain_do_not_prolong_it_later_ones_are_known() -> None:
    async def main() -> None:
        async with life(delay=30.0) as one:
            async with await one.connect("in"):
                await until(lambda: bool(one.listeners.connections()["in"]["open"]))
                one.life.drain()
                assert one.listeners.last_opened((Mode.REVERSE,)) == -math.inf
            async with await one.connect("out"), await one.connect("in"):
                await until(lambda: one.listeners.last_opened((Mode.REVERSE,)) > 0)
                assert one.listeners.last_opened((Mode.REVERSE,)) <= asyncio.get_running_loop().time()
            one.life.stop(hurry=True)
            assert await one.life.wait() == 0

    uvloop.run(main())


def test_a_connection_that_has_carried_nothing_yet_gets_an_answer_after_its_listener_has_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_module, "_FIRST_REQUEST_SECONDS", 60.0)  # however slow this machine is

    async def main() -> None:
        async with life() as one, await one.connect("in") as client:
            await until(lambda: bool(one.listeners.connections()["in"]["open"]))
            port = one.port("in")
            one.life.drain()
            await until(lambda: refused(port))
            answer = await client.request()
            assert (answer.status, answer.get("connection")) == (200, "close")
            await until(one.life.drain)

    uvloop.run(main())


def test_a_connection_that_never_carries_anything_is_let_go_and_is_none_that_was_cut() -> None:
    async def main() -> None:
        for timeout in (5.0, 0.0):
            async with life(timeout=timeout) as one, await one.connect("in"), await one.connect("out"):
                await until(lambda one=one: bool(one.listeners.connections()["in"]["open"]))
                one.life.stop()
                assert await one.life.wait() == 0

    uvloop.run(main())


def test_sigint_skips_the_delay_only() -> None:
    async def main() -> None:
        async with life(delay=30.0) as one, await one.busy("in") as client:
            one.life.stop(hurry=True)
            waiting = asyncio.create_task(one.life.wait())
            await until(lambda: refused(one.port("in")))
            one.gate.set()
            assert (await client.read_response()).status == 200
            assert await waiting == 0

    uvloop.run(main())


def test_post_drain_closes_the_reverse_listeners_only_and_the_process_stays() -> None:
    async def main() -> None:
        async with life() as one, await one.connect("out") as outward:
            assert not one.life.drain()
            await until(one.life.drain)
            assert one.life.stage is Stage.DRAINED
            assert not one.ready()
            assert refused(one.port("in"))
            answer = await outward.request()
            assert (answer.status, answer.get("connection")) == (200, None)
            one.life.stop()
            assert await one.life.wait() == 0

    uvloop.run(main())


def test_while_it_drains_a_reload_opens_no_listener() -> None:
    async def main() -> None:
        async with life() as one:
            one.life.drain()
            await until(one.life.drain)
            one.apply(IN, OUT)
            assert "out" in one.listeners.addresses()
            assert [entry["name"] for entry in one.listeners.status() if entry["state"] == "listening"] == ["out"]

    uvloop.run(main())
