"""The limits of `connectionPool` hold for every client."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from contract_kit import Kind, calling, every_kind, over_http1, until, within
from contract_peers import Served

from sidecar.errors import UpstreamError
from sidecar.model.reason import Clock, Phase, Reason
from sidecar.model.snapshot import Timeouts


@over_http1
def test_at_most_so_many_connections_are_open(kind: Kind) -> None:
    async def main() -> None:
        at_once = most = 0

        async def script(served: Served) -> None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.005)
            at_once -= 1
            await served.answer()

        async with calling(kind, script, max_connections=3) as (caller, peer):
            answers = await asyncio.gather(*(caller.ask() for _ in range(30)))
            assert [answer.status for answer in answers] == [200] * 30
            assert (most, peer.connections) == (3, 3)
            assert caller.counts[:3] == (0, 3, 3)

    uvloop.run(main())


@over_http1
def test_a_queue_that_is_full_refuses_and_the_queue_has_its_clock(kind: Kind) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def script(served: Served) -> None:
            await go.wait()
            await served.answer()

        async with calling(kind, script, max_connections=1, max_pending_requests=1) as (caller, _):
            first = asyncio.ensure_future(caller.ask())
            await until(lambda: caller.counts.open, "the first has the connection")
            second = asyncio.ensure_future(caller.ask(timeouts=Timeouts(queue=44.0)))
            await until(lambda: caller.counts.pending == 1, "the second waits")
            assert (caller.deadlines.phase_clock, caller.attempt.phase) == (Clock.QUEUE, Phase.POOL)
            with pytest.raises(UpstreamError) as caught:
                await caller.ask()
            assert (caught.value.reason, caught.value.phase) == (Reason.OVERLOADED, Phase.POOL)
            go.set()
            await asyncio.gather(first, second)

    uvloop.run(main())


@every_kind
def test_more_requests_than_allowed_are_refused(kind: Kind) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def script(served: Served) -> None:
            await go.wait()
            await served.answer()

        async with calling(kind, script, max_requests=2) as (caller, _):
            two = [asyncio.ensure_future(caller.ask()) for _ in range(2)]
            await until(lambda: caller.counts.active == 2, "two are in flight")
            with pytest.raises(UpstreamError) as caught:
                await within(caller.send())
            assert caught.value.reason is Reason.OVERLOADED
            go.set()
            await asyncio.gather(*two)

    uvloop.run(main())


@every_kind
def test_a_connection_serves_only_so_many_requests(kind: Kind) -> None:
    async def main() -> None:
        async with calling(kind, lambda served: served.answer(), max_requests_per_connection=2) as (caller, peer):
            for _ in range(5):
                await caller.ask()
            assert [served.number for served in peer.served] == [0, 0, 1, 1, 2]

    uvloop.run(main())


@every_kind
def test_a_connection_that_is_idle_too_long_is_closed(kind: Kind) -> None:
    async def main() -> None:
        async with calling(kind, lambda served: served.answer(), idle_timeout=0.1) as (caller, _):
            await caller.ask()
            assert caller.counts.idle == 1
            await until(lambda: caller.counts.open == 0, "it is closed")
            assert (await caller.ask()).status == 200

    uvloop.run(main())


@every_kind
def test_a_connection_that_is_too_old_is_replaced(kind: Kind) -> None:
    async def main() -> None:
        async with calling(kind, lambda served: served.answer(), max_connection_age=0.2) as (caller, peer):
            await caller.ask()
            await asyncio.sleep(0.25)
            await caller.ask()
            assert peer.connections == 2

    uvloop.run(main())


@every_kind
def test_an_endpoint_that_leaves_loses_its_idle_connections(kind: Kind) -> None:
    async def main() -> None:
        async with calling(kind, lambda served: served.answer()) as (caller, _):
            await caller.ask()
            assert caller.counts.idle == 1
            caller.transport.retire(caller.endpoint)
            await until(lambda: caller.counts.open == 0, "it is closed")

    uvloop.run(main())


@every_kind
def test_a_transport_that_is_closed_lets_exchanges_end_and_serves_those_that_come_late(kind: Kind) -> None:
    """An exchange keeps the configuration that it began with, retries too."""

    async def main() -> None:
        go = asyncio.Event()

        async def script(served: Served) -> None:
            await go.wait()
            await served.answer(200, (), b"well")

        async with calling(kind, script) as (caller, _):
            asking = asyncio.ensure_future(caller.ask())
            await until(lambda: caller.counts.open, "it is under way")
            await caller.transport.aclose()
            assert not asking.done()
            go.set()
            assert (await asking).body == b"well"
            assert (await caller.ask()).body == b"well"
            await until(lambda: caller.counts.open == 0, "nothing is kept")

    uvloop.run(main())
