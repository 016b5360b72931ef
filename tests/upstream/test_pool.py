"""The pool: reuse, limits, the queue, idle connections. Real connections to a scripted upstream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import uvloop
from support import Connection, ScriptedUpstream
from upstream_fakes import attempt, deadlines, here, until

from sidecar.errors import UpstreamError
from sidecar.http1.upstream_connection import UpstreamConnection
from sidecar.model.endpoint import Endpoint, EndpointState
from sidecar.model.exchange import Attempt
from sidecar.model.reason import Clock, Phase, Reason
from sidecar.model.snapshot import PoolLimits
from sidecar.policy.deadline import NEVER, Deadlines
from sidecar.upstream.connect import open_connection
from sidecar.upstream.pool import PASSED_OVER_MAX, Pool


async def stay(connection: Connection) -> None:
    """A script: never a byte, until the peer goes."""
    with contextlib.suppress(ConnectionError):
        await connection.read_until_close()


class Stage:
    """A pool in front of one scripted upstream that accepts whatever comes."""

    def __init__(self, pool: Pool, upstream: ScriptedUpstream) -> None:
        self.pool = pool
        self.upstream = upstream
        self.endpoint = here(upstream.port)
        self.taken: list[UpstreamConnection] = []

    async def take(self, endpoint: Endpoint | None = None) -> UpstreamConnection:
        connection = await self.pool.acquire(endpoint or self.endpoint, attempt(), deadlines())
        self.taken.append(connection)
        return connection

    def waiting(self, endpoint: Endpoint | None = None) -> asyncio.Task[UpstreamConnection]:
        return asyncio.ensure_future(self.take(endpoint))

    def give(self, connection: UpstreamConnection, *, keep: bool = True) -> None:
        self.taken.remove(connection)
        if not keep:
            connection.abort()
        self.pool.release(connection, keep)


async def opener(endpoint: Endpoint, _attempt: Attempt, _deadlines: Deadlines) -> UpstreamConnection:
    return await open_connection(endpoint, [endpoint.host])


@contextlib.asynccontextmanager
async def stage(script=stay, **limits) -> AsyncIterator[Stage]:
    async with ScriptedUpstream(script, host="127.0.0.1") as upstream:
        stage = Stage(Pool(PoolLimits(**limits), opener), upstream)
        yield stage
        for connection in list(stage.taken):
            stage.give(connection, keep=False)
        await stage.pool.aclose()
        await until(lambda: not stage.pool.open)
        assert (stage.pool.active, stage.pool.idle, stage.pool.connecting, stage.pool.pending) == (0, 0, 0, 0)


def test_the_connection_used_last_is_taken_first() -> None:
    async def main() -> None:
        async with stage() as s:
            first, second = await s.take(), await s.take()
            s.give(first)
            s.give(second)
            assert await s.take() is second
            assert await s.take() is first

    uvloop.run(main())


def test_taking_an_idle_connection_does_not_suspend() -> None:
    async def main() -> None:
        async with stage() as s:
            connection = await s.take()
            s.give(connection)
            coroutine = s.pool.acquire(s.endpoint, again := attempt(), deadlines())
            with pytest.raises(StopIteration) as stopped:
                coroutine.send(None)
            s.taken.append(stopped.value.value)
            assert s.taken == [connection]
            assert again.reused

    uvloop.run(main())


def test_a_new_connection_is_not_called_reused() -> None:
    async def main() -> None:
        async with stage() as s:
            fresh = attempt()
            s.taken.append(await s.pool.acquire(s.endpoint, fresh, deadlines()))
            assert not fresh.reused

    uvloop.run(main())


def test_beyond_max_connections_requests_wait_in_order_of_arrival() -> None:
    async def main() -> None:
        async with stage(max_connections=1) as s:
            connection = await s.take()
            order: list[int] = []

            async def want(number: int) -> None:
                taken = await s.take()
                order.append(number)
                s.give(taken)

            waiters = [asyncio.ensure_future(want(number)) for number in range(4)]
            await until(lambda: s.pool.pending == 4)
            s.give(connection)
            await asyncio.gather(*waiters)
            assert order == [0, 1, 2, 3]
            assert len(s.upstream.connections) == 1

    uvloop.run(main())


def test_the_wait_in_the_queue_has_its_own_clock() -> None:
    async def main() -> None:
        async with stage(max_connections=1) as s:
            connection = await s.take()
            clocks = deadlines(queue=7.0)
            waiting = asyncio.ensure_future(s.pool.acquire(s.endpoint, attempt(), clocks))
            await until(lambda: s.pool.pending == 1)
            assert clocks.phase_clock is Clock.QUEUE
            assert clocks.fired(asyncio.get_running_loop().time() + 7.1) is Clock.QUEUE
            s.give(connection)
            s.taken.append(await waiting)
            assert clocks.phase_at == NEVER

    uvloop.run(main())


def test_a_full_queue_is_503_overloaded_with_retry_after() -> None:
    async def main() -> None:
        async with stage(max_connections=1, max_pending_requests=1) as s:
            connection = await s.take()
            waiting = s.waiting()
            await until(lambda: s.pool.pending == 1)
            with pytest.raises(UpstreamError) as caught:
                await s.take()
            error = caught.value
            assert (error.reason, error.status, error.retry_after, error.phase) == (Reason.OVERLOADED, 503, 1, Phase.POOL)
            s.give(connection)
            await waiting

    uvloop.run(main())


@pytest.mark.parametrize("idle", [False, True])
def test_more_than_max_requests_at_once_is_503_overloaded(idle: bool) -> None:
    async def main() -> None:
        async with stage(max_connections=2, max_requests=1) as s:
            if idle:
                s.pool.configure(PoolLimits(max_connections=2))
                one, other = await s.take(), await s.take()
                s.give(one)
                s.give(other)
                s.pool.configure(PoolLimits(max_connections=2, max_requests=1))
            await s.take()
            with pytest.raises(UpstreamError) as caught:
                await s.take()
            assert (caught.value.reason, caught.value.retry_after) == (Reason.OVERLOADED, 1)

    uvloop.run(main())


def test_limits_of_zero_are_no_limits() -> None:
    async def main() -> None:
        async with stage(max_connections=0, max_requests=0, max_pending_requests=0) as s:
            await asyncio.gather(*(s.take() for _ in range(20)))
            assert s.pool.open == 20

    uvloop.run(main())


def test_when_a_connection_ends_while_others_wait_one_of_them_gets_its_slot() -> None:
    async def main() -> None:
        async with stage(max_connections=1) as s:
            connection = await s.take()
            waiting = s.waiting()
            await until(lambda: s.pool.pending == 1)
            s.give(connection, keep=False)
            assert await waiting is not connection
            assert s.pool.open == 1

    uvloop.run(main())


def test_a_connection_that_dies_on_its_way_to_who_waits_is_replaced() -> None:
    async def main() -> None:
        async with stage(max_connections=1) as s:
            connection = await s.take()
            waiting = s.waiting()
            await until(lambda: s.pool.pending == 1)
            s.give(connection)
            connection.abort()
            assert await waiting is not connection

    uvloop.run(main())


def test_when_a_connect_fails_while_others_wait_one_of_them_gets_its_slot() -> None:
    async def main() -> None:
        async with stage(max_connections=1) as s:
            gate = asyncio.Event()
            attempts = 0

            async def flaky(endpoint: Endpoint, *_: object) -> UpstreamConnection:
                nonlocal attempts
                attempts += 1
                if attempts == 1:
                    await gate.wait()
                    raise UpstreamError(Reason.CONNECTION_REFUSED, phase=Phase.CONNECT)
                return await open_connection(endpoint, [endpoint.host])

            s.pool._opener = flaky
            failing, waiting = s.waiting(), s.waiting()
            await until(lambda: s.pool.pending == 1 and s.pool.connecting == 1)
            gate.set()
            with pytest.raises(UpstreamError):
                await failing
            assert not (await waiting).closed

    uvloop.run(main())


def test_an_idle_connection_to_another_endpoint_makes_room() -> None:
    async def main() -> None:
        async with stage(max_connections=1) as s:
            s.give(await s.take())
            other = here(s.upstream.port)
            assert (await s.take(other)).endpoint is other
            assert s.pool.open == 1

    uvloop.run(main())


def test_a_free_connection_goes_to_who_waits_for_its_endpoint_but_nobody_starves() -> None:
    async def main() -> None:
        async with stage(max_connections=1) as s:
            other = here(s.upstream.port)
            connection = await s.take()
            eldest = s.waiting(other)
            await until(lambda: s.pool.pending == 1)
            younger = [s.waiting() for _ in range(PASSED_OVER_MAX + 4)]
            await until(lambda: s.pool.pending == 1 + len(younger))
            for served in range(PASSED_OVER_MAX):
                s.give(connection)
                assert await younger[served] is connection
            s.give(connection)
            assert (await eldest).endpoint is other
            for waiter in younger[PASSED_OVER_MAX:]:
                s.give(s.taken[-1])
                await waiter

    uvloop.run(main())


def test_a_connection_that_the_server_closed_is_not_taken() -> None:
    async def main() -> None:
        async def close_at_once(connection: Connection) -> None:
            if connection.number == 0:
                await asyncio.sleep(0.02)
            else:
                await stay(connection)

        async with stage(close_at_once) as s:
            first = await s.take()
            s.give(first)
            await until(lambda: not s.pool.open)
            assert await s.take() is not first

    uvloop.run(main())


def test_unasked_bytes_in_the_kernel_make_a_connection_unusable() -> None:
    async def main() -> None:
        async def speak(connection: Connection) -> None:
            if connection.number == 0:
                await connection.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            await stay(connection)

        async with stage(speak) as s:
            first = await s.take()
            await until(lambda: first.rx or first._unread())
            s.give(first)
            assert await s.take() is not first

    uvloop.run(main())


def test_idle_connections_end_after_the_idle_timeout_by_one_timer_that_stops_with_them() -> None:
    async def main() -> None:
        async with stage(idle_timeout=0.1) as s:
            connections = [await s.take() for _ in range(3)]
            for connection in connections:
                s.give(connection)
            assert s.pool.idle == 3
            assert s.pool._timer is not None
            await until(lambda: not s.pool.open)
            assert (s.pool.idle, s.pool._timer) == (0, None)

    uvloop.run(main())


def test_an_expired_connection_is_not_taken_even_before_the_timer_comes() -> None:
    async def main() -> None:
        async with stage(idle_timeout=4.0) as s:
            connection = await s.take()
            s.give(connection)
            assert s.pool.try_take(s.endpoint, connection.idle_since + 4.0) is None
            assert connection.closed

    uvloop.run(main())


def test_a_connection_ends_after_its_share_of_requests() -> None:
    async def main() -> None:
        async with stage(max_requests_per_connection=2) as s:
            connection = await s.take()
            for requests in (1, 2):
                connection.requests = requests
                s.give(connection)
                if requests == 1:
                    assert await s.take() is connection
            assert connection.closed

    uvloop.run(main())


def test_a_connection_that_is_too_old_is_not_kept_and_ages_differ() -> None:
    async def main() -> None:
        async with stage(max_connection_age=100.0) as s:
            connections = [await s.take() for _ in range(8)]
            now = asyncio.get_running_loop().time()
            ends = [s.pool._open[connection] - now for connection in connections]
            assert all(89.9 < end <= 100.0 for end in ends)
            assert len(set(ends)) > 1
            s.pool._open[connections[0]] = now
            s.give(connections[0])
            assert connections[0].closed

    uvloop.run(main())


def test_the_pool_stays_below_the_time_for_which_the_server_was_seen_to_keep_connections() -> None:
    async def main() -> None:
        async def close_after_a_while(connection: Connection) -> None:
            if connection.number == 0:
                await asyncio.sleep(0.6)
            else:
                await stay(connection)

        async with stage(close_after_a_while) as s:
            s.give(await s.take())
            await until(lambda: not s.pool.open)
            learned = s.pool.keep_alive.learned(asyncio.get_running_loop().time())
            assert learned is not None
            connection = await s.take()
            s.give(connection)
            assert s.pool.try_take(s.endpoint, connection.idle_since + learned - 0.1) is None

    uvloop.run(main())


def test_after_a_stale_connection_the_older_ones_are_not_used_either() -> None:
    async def main() -> None:
        async with stage() as s:
            connections = [await s.take() for _ in range(3)]
            for connection in connections:
                s.give(connection)
            s.pool.went_stale(s.endpoint, 1.0)
            assert s.pool.idle == 0
            assert await s.take() not in connections

    uvloop.run(main())


def test_a_draining_endpoint_keeps_no_connection() -> None:
    async def main() -> None:
        async with stage() as s:
            idle, busy = await s.take(), await s.take()
            s.give(idle)
            s.endpoint.state = EndpointState.DRAINING
            s.pool.retire(s.endpoint)
            assert idle.closed
            assert not busy.closed
            s.give(busy)
            assert busy.closed

    uvloop.run(main())


def test_a_closed_pool_waits_for_idle_connections_to_end_and_closes_the_others_when_released() -> None:
    async def main() -> None:
        async with stage() as s:
            idle, busy = await s.take(), await s.take()
            s.give(idle)
            await s.pool.aclose()
            assert s.pool.open == 1
            assert not busy.closed
            s.give(busy)
            assert busy.closed

    uvloop.run(main())


def test_raised_limits_let_those_who_wait_in() -> None:
    async def main() -> None:
        async with stage(max_connections=1) as s:
            await s.take()
            waiting = s.waiting()
            await until(lambda: s.pool.pending == 1)
            s.pool.configure(PoolLimits(max_connections=2))
            await waiting

    uvloop.run(main())
