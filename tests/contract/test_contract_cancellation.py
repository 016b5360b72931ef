"""Cancelled at any point, an exchange gives its connection back or closes it, exactly once."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import uvloop
from contract_kit import Caller, Kind, Source, calling, every_kind, settled, until, within
from contract_peers import Served

from sidecar.errors import OutriderError

TURNS = range(0, 60, 2)
"""So many turns of the event loop take longer than one exchange here."""
RUNNERS = [pytest.param(asyncio.run, id="asyncio"), pytest.param(uvloop.run, id="uvloop")]


async def script(served: Served) -> None:
    if served.target == b"/calm":
        return await served.answer(200, (), b"well")
    await served.interim(103)
    await served.body()
    await served.start(200)
    await served.send(b"some")
    await asyncio.sleep(0)
    await served.send(b"more")
    return await served.end([(b"x-t", b"t")])


async def one_exchange(caller: Caller) -> None:
    source = Source(b"one", b"two", open_end=True)
    asyncio.get_running_loop().call_soon(source.finish)
    await caller.ask(b"POST", b"/", (), source)


@every_kind
@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "reused"])
def test_cancelled_after_any_number_of_turns_nothing_is_lost(kind: Kind, run, warm: bool) -> None:
    async def main() -> None:
        async with calling(kind, script, max_connections=1) as (caller, _):
            for turns in TURNS:
                if warm:
                    await caller.ask(b"GET", b"/calm")
                task = asyncio.ensure_future(one_exchange(caller))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                await settled(caller)
                assert (await caller.ask(b"GET", b"/calm")).body == b"well"

    run(main())


@every_kind
def test_cancelled_inside_the_body_the_connection_is_closed(kind: Kind) -> None:
    async def main() -> None:
        async def stalls(served: Served) -> None:
            if served.target == b"/calm":
                return await served.answer(200, (), b"well")
            await served.start(200)
            await served.send(b"some")
            return await asyncio.sleep(60)

        async with calling(kind, stalls, max_connections=1) as (caller, _):
            response = await within(caller.send())
            assert await within(response.body.read()) == b"some"
            reading = asyncio.ensure_future(response.body.read())
            await asyncio.sleep(0.02)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            response.abort()
            assert (await caller.ask(b"GET", b"/calm")).body == b"well"

    uvloop.run(main())


@every_kind
def test_cancelled_in_the_queue_the_place_goes_to_the_next(kind: Kind) -> None:
    async def main() -> None:
        go, there = asyncio.Event(), asyncio.Event()

        async def waits(served: Served) -> None:
            there.set()
            await go.wait()
            await served.answer()

        limits = {"max_requests": 1} if kind.http2 else {"max_connections": 1}
        async with calling(kind, waits, **limits) as (caller, _):
            first = asyncio.ensure_future(caller.ask())
            await within(there.wait())
            others = [asyncio.ensure_future(caller.ask()) for _ in range(3)]
            if kind.http2:  # there is no queue at maxRequests
                for other in others:
                    with pytest.raises(OutriderError):
                        await other
            else:
                await until(lambda: caller.counts.pending == 3, "the others wait")
                others[0].cancel()
                await until(lambda: caller.counts.pending == 2, "one of them has left")
            go.set()
            assert (await first).status == 200
            if not kind.http2:
                assert [answer.status for answer in await asyncio.gather(*others[1:])] == [200, 200]

    uvloop.run(main())


@every_kind
def test_many_exchanges_cancelled_at_random_leave_the_pool_as_it_was(kind: Kind) -> None:
    async def main() -> None:
        async with calling(kind, script, max_connections=4, max_pending_requests=1000) as (caller, peer):
            for round_ in range(10):
                tasks = [asyncio.ensure_future(one_exchange(caller)) for _ in range(20)]
                for number, task in enumerate(tasks):
                    asyncio.get_running_loop().call_later(0.001 * ((number * 7 + round_) % 13), task.cancel)
                await asyncio.gather(*tasks, return_exceptions=True)
                await settled(caller)
                assert caller.counts.open <= 4
            assert (await caller.ask(b"GET", b"/calm")).body == b"well"
            assert not peer.errors

    uvloop.run(main())
