"""Cancelled in any phase, a request leaves no connection, no slot, no waiter and no descriptor behind."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest
import uvloop
from support import Connection, ScriptedUpstream, answer, response
from upstream_fakes import RecordingObserver, attempt, black_hole, deadlines, get, no_interim, until

from sidecar.model.endpoint import Endpoint
from sidecar.model.reason import Clock
from sidecar.model.snapshot import PoolLimits, Upstream
from sidecar.upstream import connect
from sidecar.upstream.native import NativeTransport

RUNNERS = [pytest.param(asyncio.run, id="asyncio"), pytest.param(uvloop.run, id="uvloop")]
PHASES = range(40)
"""So many turns of the loop are more than one exchange here takes."""


async def silent(connection: Connection) -> None:
    with contextlib.suppress(ConnectionError):
        await connection.read_until_close()


def transport(addresses: list[str], *, turns: int = 0, **limits) -> NativeTransport:
    """`turns`: so many turns of the loop the lookup takes."""

    async def lookup(_endpoint: Endpoint) -> list[str]:
        for _ in range(turns):
            await asyncio.sleep(0)
        return addresses

    return NativeTransport(Upstream(name="app", pool=PoolLimits(**limits)), lookup, RecordingObserver(), lambda _endpoint: None)


def sending(native: NativeTransport, endpoint: Endpoint) -> asyncio.Task:
    return asyncio.ensure_future(native.send(endpoint, get(), attempt(), deadlines(), no_interim))


async def cancel(task: asyncio.Task) -> None:
    """Cancel; a response that was there before is aborted, as the pipeline does."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        (await task).abort()


async def nothing_is_left(native: NativeTransport, descriptors: int | None = None) -> None:
    pool = native.pool
    await until(lambda: (pool.active, pool.connecting, pool.pending, pool.open, pool.idle) == (0, 0, 0, 0, 0))
    if descriptors is not None:
        await until(lambda: len(os.listdir("/proc/self/fd")) == descriptors)


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2"], ["127.0.0.2", "127.0.0.1"]])
def test_in_every_turn_of_an_exchange(run, addresses: list[str]) -> None:
    async def main() -> None:
        async with ScriptedUpstream(silent) as upstream:
            before = len(os.listdir("/proc/self/fd"))
            for turns in PHASES:
                native = transport(addresses, turns=3)
                task = sending(native, Endpoint("a", upstream.port))
                for _ in range(turns):
                    await asyncio.sleep(0)
                await cancel(task)
                await nothing_is_left(native)
            for connection in upstream.connections:
                await connection.ended.wait()
            await until(lambda: len(os.listdir("/proc/self/fd")) == before)

    run(main())


@pytest.mark.parametrize("run", RUNNERS)
def test_twice_in_a_row(run) -> None:
    async def main() -> None:
        async with ScriptedUpstream(silent) as upstream:
            for turns in PHASES:
                native = transport(["127.0.0.2", "127.0.0.1"])
                task = sending(native, Endpoint("a", upstream.port))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.sleep(0)
                await cancel(task)
                await nothing_is_left(native)

    run(main())


@pytest.mark.parametrize("run", RUNNERS)
def test_while_two_addresses_are_raced(run, monkeypatch) -> None:
    monkeypatch.setattr(connect, "STAGGER", 0.01)

    async def main() -> None:
        with black_hole("127.0.0.2") as port:
            before = len(os.listdir("/proc/self/fd"))
            native = transport(["127.0.0.2", "127.0.0.2", "127.0.0.2"])
            task = sending(native, Endpoint("a", port))
            await until(lambda: len(os.listdir("/proc/self/fd")) == before + 3)
            await cancel(task)
            await nothing_is_left(native, before)

    run(main())


@pytest.mark.parametrize("run", RUNNERS)
def test_in_the_queue_it_gives_its_place_up(run) -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response())) as upstream:
            native, endpoint = transport(["127.0.0.1"], max_connections=1), Endpoint("a", upstream.port)
            first = await sending(native, endpoint)
            waiters = [sending(native, endpoint) for _ in range(3)]
            await until(lambda: native.pool.pending == 3)
            await cancel(waiters[0])
            await cancel(waiters[1])
            assert native.pool.pending == 1
            first.release()
            (await waiters[2]).release()
            await native.aclose()
            await nothing_is_left(native)

    run(main())


@pytest.mark.parametrize("keep", [True, False])
def test_at_the_moment_when_it_was_served_the_next_in_the_queue_is(keep: bool) -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response())) as upstream:
            native, endpoint = transport(["127.0.0.1"], max_connections=1), Endpoint("a", upstream.port)
            first = await sending(native, endpoint)
            unlucky, lucky = sending(native, endpoint), sending(native, endpoint)
            await until(lambda: native.pool.pending == 2)
            if keep:
                first.release()
            else:
                first.abort()
            while native.pool.pending == 2:
                await asyncio.sleep(0)
            await cancel(unlucky)
            (await lucky).release()
            await native.aclose()
            await nothing_is_left(native)

    uvloop.run(main())


def test_a_storm_of_cancellations_loses_no_slot() -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response())) as upstream:
            native, endpoint = transport(["127.0.0.1"], turns=1, max_connections=4), Endpoint("a", upstream.port)

            async def one(number: int) -> None:
                task = sending(native, endpoint)
                for _ in range(number * 7 % 23):
                    await asyncio.sleep(0)
                if number % 3:
                    await cancel(task)
                else:
                    (await task).release()

            await asyncio.gather(*(one(number) for number in range(300)))
            assert (native.pool.active, native.pool.connecting, native.pool.pending) == (0, 0, 0)
            replies = await asyncio.gather(*(sending(native, endpoint) for _ in range(4)))
            for reply in replies:
                reply.release()
            await native.aclose()
            await nothing_is_left(native)

    uvloop.run(main())


def test_what_the_connect_clock_interrupts_is_observed_as_a_timeout_and_a_client_that_left_is_not() -> None:
    async def near(_endpoint: Endpoint) -> list[str]:
        return ["127.0.0.2"]

    async def main() -> None:
        with black_hole() as port:
            for seconds, result in ((1e-9, "connection_timeout"), (60.0, "client_closed")):
                failures: list[Endpoint] = []
                seen = RecordingObserver()
                native = NativeTransport(Upstream(name="app", connect_timeout=seconds), near, seen, failures.append)
                clocks = deadlines()
                task = asyncio.ensure_future(native.send(Endpoint("a", port), get(), attempt(), clocks, no_interim))
                await asyncio.sleep(0.02)
                assert clocks.phase_clock is Clock.CONNECT
                await cancel(task)
                assert seen.connects == [("app", result)]
                assert (clocks.fired(asyncio.get_running_loop().time()) is Clock.CONNECT) is (result == "connection_timeout")
                assert bool(failures) is (result == "connection_timeout")

    uvloop.run(main())


def test_a_tunnel_that_is_given_up_while_it_connects_leaves_nothing() -> None:
    async def main() -> None:
        async with ScriptedUpstream(silent) as upstream:
            before = len(os.listdir("/proc/self/fd"))
            for turns in PHASES:
                native = transport(["127.0.0.1"], turns=2)
                task = asyncio.ensure_future(native.connect(Endpoint("a", upstream.port), attempt(), deadlines()))
                for _ in range(turns):
                    await asyncio.sleep(0)
                await cancel(task)
            await until(lambda: len(os.listdir("/proc/self/fd")) == before)

    uvloop.run(main())
