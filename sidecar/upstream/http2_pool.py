"""The HTTP/2 connections of one upstream: many requests share one, and the limits of `connectionPool` hold for all of them.

A new connection is opened when every other one to the endpoint is full, by a task of the pool's: those who wait for it
may go, and it serves those who come.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from time import monotonic

from sidecar.errors import UpstreamError
from sidecar.http1.upstream_connection import UpstreamConnection
from sidecar.model.endpoint import Endpoint, EndpointState
from sidecar.model.exchange import Attempt
from sidecar.model.reason import Clock, Phase, Reason
from sidecar.model.snapshot import PoolLimits
from sidecar.policy.deadline import NEVER, Deadlines
from sidecar.tasks import cancel_and_wait, create_task
from sidecar.upstream.http2_connection import Http2Connection
from sidecar.upstream.pool import AGE_JITTER, RETRY_AFTER, SWEEP_MIN, UNLIMITED
from sidecar.upstream.transport import PoolCounts

Dial = Callable[[Endpoint], Awaitable[UpstreamConnection]]
"""Opens a connection that speaks HTTP/2. Raises UpstreamError; bounds itself in time."""
Outcome = UpstreamError | None


class Http2Pool:
    """Each connection that `acquire` returned comes back once, by `release`."""

    def __init__(self, limits: PoolLimits, dial: Dial) -> None:
        self._loop = asyncio.get_running_loop()
        self._dial = dial
        self._connections: dict[Endpoint, list[Http2Connection]] = {}
        self._dialing: dict[Endpoint, asyncio.Task[Outcome]] = {}
        self._waiters: OrderedDict[asyncio.Future[None], Endpoint] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._generation = 0
        self.active = 0
        self.configure(limits)

    def configure(self, limits: PoolLimits) -> None:
        """Take on new limits."""
        self._limits = limits
        self._max_connections = limits.max_connections or UNLIMITED
        self._max_pending = limits.max_pending_requests or UNLIMITED
        self._max_requests = limits.max_requests or UNLIMITED
        self._per_connection = limits.max_requests_per_connection or UNLIMITED
        self._let_go()

    # -- counts

    @property
    def open(self) -> int:
        """Open connections."""
        return sum(map(len, self._connections.values()))

    @property
    def idle(self) -> int:
        """Those without a stream."""
        return sum(not one.streams for connections in self._connections.values() for one in connections)

    @property
    def connecting(self) -> int:
        """Those that are being opened."""
        return len(self._dialing)

    @property
    def pending(self) -> int:
        """Requests that wait for room on a connection."""
        return len(self._waiters)

    def counts(self) -> PoolCounts:
        """Of now."""
        return PoolCounts(self.active, self.open, self.idle, self.connecting, self.pending)

    # -- taking

    async def acquire(self, endpoint: Endpoint, attempt: Attempt, deadlines: Deadlines, connect_timeout: float) -> Http2Connection:
        """A connection with room for one more stream, which is then begun without another wait.

        Sets `attempt.reused`. Raises UpstreamError: OVERLOADED at `maxRequests` or when the queue is full, else what opening one raised.
        """
        if self.active >= self._max_requests:
            raise UpstreamError(Reason.OVERLOADED, f"maxRequests {self._max_requests} reached", phase=Phase.POOL, retry_after=RETRY_AFTER)
        self.active += 1
        try:
            while (connection := self._with_room(endpoint)) is None:
                if self._may_dial(endpoint):
                    self._start_dialing(endpoint)
                if endpoint in self._dialing:
                    attempt.phase = Phase.CONNECT
                    deadlines.arm_phase(Clock.CONNECT, monotonic(), connect_timeout)
                    _check(await asyncio.shield(self._dialing[endpoint]))
                else:
                    attempt.phase = Phase.POOL
                    await self._wait(endpoint, deadlines)
        except BaseException as error:
            self.active -= 1
            if isinstance(error, UpstreamError):  # else the clock that ran stays armed: whoever cancelled us may still ask it
                deadlines.disarm_phase()
            if self._closing:
                self._close_idle()
            raise
        deadlines.disarm_phase()
        attempt.reused = connection.requests > 0
        return connection

    def _with_room(self, endpoint: Endpoint) -> Http2Connection | None:
        """The one that has been used last, so that the others can end."""
        now = monotonic()
        best: Http2Connection | None = None
        for connection in self._connections.get(endpoint, ()):
            if now >= connection.too_old_at or connection.requests >= self._per_connection:
                self._retire(connection)
            elif connection.room > 0 and (best is None or connection.idle_since > best.idle_since):
                best = connection
        return best

    def _may_dial(self, endpoint: Endpoint) -> bool:
        """Room for one more connection, if need be the one of another endpoint that has been idle the longest."""
        if endpoint in self._dialing:
            return False
        if self.open + self.connecting >= self._max_connections:
            idle = [one for connections in self._connections.values() for one in connections if not one.streams]
            if not idle:
                return False
            self._retire(min(idle, key=lambda one: one.idle_since))
        return self.open + self.connecting < self._max_connections

    async def _wait(self, endpoint: Endpoint, deadlines: Deadlines) -> None:
        if len(self._waiters) >= self._max_pending:
            raise UpstreamError(
                Reason.OVERLOADED, f"maxPendingRequests {self._max_pending} reached", phase=Phase.POOL, retry_after=RETRY_AFTER
            )
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters[waiter] = endpoint
        deadlines.arm_phase(Clock.QUEUE, monotonic(), deadlines.timeouts.queue)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self._let_go()  # somebody else may have the place
            raise
        finally:
            self._waiters.pop(waiter, None)

    # -- opening

    def _start_dialing(self, endpoint: Endpoint) -> None:
        task = self._dialing[endpoint] = create_task(self._open(endpoint), name=f"connect {endpoint.label}")
        task.add_done_callback(lambda _: self._dialing.pop(endpoint, None))

    async def _open(self, endpoint: Endpoint) -> Outcome:
        generation = self._generation
        try:
            opened = await self._dial(endpoint)
        except UpstreamError as error:
            self._dialing.pop(endpoint, None)
            self._let_go()
            return error
        self._dialing.pop(endpoint, None)
        if opened.closed:
            return UpstreamError(Reason.CONNECTION_TERMINATED, "the server closed the new connection", phase=Phase.CONNECT)
        connection = Http2Connection(opened, self._changed)
        connection.generation = generation
        age = self._limits.max_connection_age
        connection.too_old_at = monotonic() + age * (1 - AGE_JITTER * random.random()) if age else NEVER
        self._connections.setdefault(endpoint, []).append(connection)
        opened.on_closed = lambda _: self._gone(connection)
        self._let_go()
        self._look_later()
        return None

    def _gone(self, connection: Http2Connection) -> None:
        connections = self._connections.get(connection.endpoint, [])
        if connection in connections:
            connections.remove(connection)
            if not connections:
                del self._connections[connection.endpoint]
        self._let_go()

    # -- giving back

    def release(self) -> None:
        """A request is over; its stream has left the connection."""
        self.active -= 1

    def _changed(self, connection: Http2Connection) -> None:
        """A connection has more room, or none any more."""
        if not connection.streams and (connection.requests or connection.leaving):  # else somebody is about to use it
            unwanted = (
                self._closing
                or connection.leaving
                or connection.generation != self._generation
                or connection.requests >= self._per_connection
                or connection.endpoint.state is EndpointState.DRAINING
            )
            if unwanted:
                connection.close()
            else:
                self._look_later()
        self._let_go()

    def _let_go(self) -> None:
        """Wake as many of those who wait as there may be room for; they look for themselves."""
        if not self._waiters:
            return
        room = {endpoint: sum(one.room for one in connections) for endpoint, connections in self._connections.items()}
        spare = self._max_connections - self.open - self.connecting
        for waiter, endpoint in self._waiters.items():
            if waiter.done():
                continue
            if room.get(endpoint, 0) > 0:
                room[endpoint] -= 1
            elif spare > 0:
                spare -= 1
            else:
                continue
            waiter.set_result(None)

    # -- ending

    def _look_later(self) -> None:
        if self._timer is None and self._limits.idle_timeout:
            self._timer = self._loop.call_later(self._limits.idle_timeout, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for too long. The timer runs only while something is idle."""
        self._timer = None
        limit = self._limits.idle_timeout
        now = monotonic()
        oldest = NEVER
        for connection in [one for connections in self._connections.values() for one in connections if not one.streams]:
            if limit and now - connection.idle_since >= limit:
                connection.close()
            else:
                oldest = min(oldest, connection.idle_since)
        if oldest != NEVER and limit:
            self._timer = self._loop.call_later(max(oldest + limit - now, SWEEP_MIN), self._sweep)

    def _retire(self, connection: Http2Connection) -> None:
        connection.leaving = True
        if not connection.streams:
            connection.close()

    def retire(self, endpoint: Endpoint) -> None:
        """Close the idle connections of `endpoint`; the others take no new stream and close with their last one."""
        for connection in list(self._connections.get(endpoint, ())):
            self._retire(connection)

    def renew(self) -> None:
        """No connection that is open now gets another stream."""
        self._generation += 1
        for endpoint in list(self._connections):
            self.retire(endpoint)

    async def aclose(self) -> None:
        """Close idle connections; the rest close with their last stream."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._close_idle()
        if not self.active:
            await cancel_and_wait(self._dialing.values())

    def _close_idle(self) -> None:
        for connection in [one for connections in self._connections.values() for one in connections if not one.streams]:
            connection.close()


def _check(error: Outcome) -> None:
    """Raise anew what a connection that several waited for came to."""
    if error is not None:
        raise UpstreamError(error.reason, error.detail, status=error.status, phase=error.phase, retry_after=error.retry_after)
