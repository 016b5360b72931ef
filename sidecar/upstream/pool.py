"""The pool of one upstream: its connections by endpoint, its limits, and the queue in front of them.

A *slot* is the right to have one connection open (or opening). The request that gets a slot opens its own
connection in its own task: the pool has no tasks. All counting is synchronous, so a cancelled request cannot be
caught between two halves of a change.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from time import monotonic
from typing import Final

from sidecar.errors import UpstreamError
from sidecar.http1.upstream_connection import UpstreamConnection
from sidecar.model.endpoint import Endpoint, EndpointState
from sidecar.model.exchange import Attempt
from sidecar.model.reason import Clock, Phase, Reason
from sidecar.model.snapshot import PoolLimits
from sidecar.policy.deadline import NEVER, Deadlines
from sidecar.upstream.keepalive import KeepAlive
from sidecar.upstream.transport import PoolCounts

Opener = Callable[[Endpoint, Attempt, Deadlines], Awaitable[UpstreamConnection]]

LOOKAHEAD: Final = 16
"""So many waiters are looked at for one that wants the very endpoint whose connection became free."""
PASSED_OVER_MAX: Final = 16
"""After so many younger waiters were served first, the oldest gets the next slot whatever it wants."""
AGE_JITTER: Final = 0.1
"""Connections live up to this share less than `maxConnectionAge`, so that they do not all end together."""
SWEEP_MIN: Final = 0.05
RETRY_AFTER: Final = 1
UNLIMITED: Final = 1 << 60
_DRAINING: Final = EndpointState.DRAINING


class Waiter:
    """A request in the queue. Its future yields a connection, or None: a slot to open one."""

    __slots__ = ("endpoint", "future", "passed_over")

    def __init__(self, endpoint: Endpoint, future: asyncio.Future[UpstreamConnection | None]) -> None:
        self.endpoint = endpoint
        self.future = future
        self.passed_over = 0


class Pool:
    """Connections of one upstream. Each one that `try_take` or `acquire` returned comes back once, by `release`."""

    __slots__ = (
        "_age",
        "_closing",
        "_ended",
        "_ending",
        "_generation",
        "_idle",
        "_idle_limit",
        "_loop",
        "_max_connections",
        "_max_pending",
        "_max_per_connection",
        "_max_requests",
        "_open",
        "_opener",
        "_timer",
        "_waiters",
        "active",
        "connecting",
        "idle",
        "keep_alive",
    )

    def __init__(self, limits: PoolLimits, opener: Opener) -> None:
        self._loop = asyncio.get_running_loop()
        self._opener = opener
        self._open: dict[UpstreamConnection, float] = {}
        """Every open connection, with the instant from which it is too old to be kept."""
        self._idle: dict[Endpoint, dict[UpstreamConnection, None]] = {}
        """By endpoint, the longest idle first; the last one is taken first, so that the others can end."""
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._generation = 0
        """Connections of an earlier one are not used again."""
        self._ending: set[UpstreamConnection] = set()
        self._ended: asyncio.Future[None] | None = None
        """Resolves when everything in `_ending` has gone."""
        self.active = 0
        """Requests that have a connection or open one."""
        self.idle = 0
        self.connecting = 0
        self.keep_alive = KeepAlive(limits.idle_timeout, enabled=limits.learn_keep_alive)
        self.configure(limits)

    def configure(self, limits: PoolLimits) -> None:
        """Take on new limits; connections that are open stay, and are judged by the new limits when released."""
        self._max_connections = limits.max_connections or UNLIMITED
        self._max_pending = limits.max_pending_requests or UNLIMITED
        self._max_requests = limits.max_requests or UNLIMITED
        self._max_per_connection = limits.max_requests_per_connection or UNLIMITED
        self._age = limits.max_connection_age
        self.keep_alive.idle_timeout, self.keep_alive.enabled = limits.idle_timeout, limits.learn_keep_alive
        self._idle_limit = self.keep_alive.limit(monotonic())
        self._grant_slots()

    @property
    def open(self) -> int:
        """Open connections: in use and idle, without those that are being opened."""
        return len(self._open)

    @property
    def pending(self) -> int:
        """Requests in the queue."""
        return len(self._waiters)

    def counts(self) -> PoolCounts:
        """Of now."""
        return PoolCounts(self.active, self.open, self.idle, self.connecting, self.pending, self.keep_alive.learned(monotonic()))

    # -- taking

    def try_take(self, endpoint: Endpoint, now: float) -> UpstreamConnection | None:
        """An idle connection to `endpoint` that is still good, or None. Never waits."""
        stack = self._idle.get(endpoint)
        if not stack or self.active >= self._max_requests:
            return None
        while stack:
            connection, _ = stack.popitem()
            self.idle -= 1
            idle_for = now - connection.idle_since
            if idle_for < self._idle_limit and not (self._age and now >= self._open.get(connection, NEVER)):
                if connection.reusable():
                    self.active += 1
                    return connection
                self._server_closed(idle_for)
            connection.close()
        return None

    async def acquire(self, endpoint: Endpoint, attempt: Attempt, deadlines: Deadlines) -> UpstreamConnection:
        """A connection to `endpoint`: an idle one, else a new one, else after a wait in the queue (clock `queue`).

        Sets `attempt.reused`. Raises UpstreamError: OVERLOADED at `maxRequests` or when the queue is full, else what opening one raised.
        """
        while True:
            connection = self.try_take(endpoint, monotonic())
            if connection is None:
                free = self._free_slot()
                if free or self.idle:
                    self._check_requests()
                if free:
                    self._reserve()
                    return await self._fill_slot(endpoint, attempt, deadlines)
                self._check_queue()
                self._evict_idle()
                connection = await self._queue(endpoint, deadlines)
                if connection is None:
                    return await self._fill_slot(endpoint, attempt, deadlines)
                if not connection.reusable():  # it ended between being handed over and our waking up
                    self.active -= 1
                    connection.close()
                    continue
            attempt.reused = True
            return connection

    def _free_slot(self) -> bool:
        return self.connecting + len(self._open) < self._max_connections and not self._waiters

    def _reserve(self) -> None:
        self.connecting += 1
        self.active += 1

    def _check_requests(self) -> None:
        if self.active >= self._max_requests:
            raise UpstreamError(Reason.OVERLOADED, f"maxRequests {self._max_requests} reached", phase=Phase.POOL, retry_after=RETRY_AFTER)

    def _check_queue(self) -> None:
        if len(self._waiters) >= self._max_pending:
            raise UpstreamError(
                Reason.OVERLOADED, f"maxPendingRequests {self._max_pending} reached", phase=Phase.POOL, retry_after=RETRY_AFTER
            )

    async def _fill_slot(self, endpoint: Endpoint, attempt: Attempt, deadlines: Deadlines) -> UpstreamConnection:
        generation = self._generation
        try:
            connection = await self._opener(endpoint, attempt, deadlines)
        except BaseException:
            self.connecting -= 1
            self.active -= 1
            self._grant_slots()
            raise
        self.connecting -= 1
        if connection.closed:  # it will not call `on_closed` any more
            self._grant_slots()
        else:
            connection.on_closed = self._closed
            connection.generation = generation
            self._open[connection] = monotonic() + self._age * (1 - AGE_JITTER * random.random()) if self._age else NEVER
        return connection

    def _evict_idle(self) -> None:
        """All slots are taken: the connection of another endpoint that has been idle the longest makes room."""
        oldest: UpstreamConnection | None = None
        for stack in self._idle.values():
            first = next(iter(stack), None)
            if first is not None and (oldest is None or first.idle_since < oldest.idle_since):
                oldest = first
        if oldest is not None:
            self._drop_idle(oldest.endpoint, [oldest])

    # -- the queue

    async def _queue(self, endpoint: Endpoint, deadlines: Deadlines) -> UpstreamConnection | None:
        waiter = Waiter(endpoint, self._loop.create_future())
        self._waiters[waiter] = None
        deadlines.arm_phase(Clock.QUEUE, monotonic(), deadlines.timeouts.queue)
        try:
            granted = await waiter.future
        except BaseException:
            self._waiters.pop(waiter, None)
            self._return_grant(waiter)
            raise
        deadlines.disarm_phase()
        return granted

    def _return_grant(self, waiter: Waiter) -> None:
        """`waiter` was cancelled; what it had been given a moment before goes to the next one."""
        if not waiter.future.done() or waiter.future.cancelled():
            return
        connection = waiter.future.result()
        if connection is not None:
            self.release(connection, keep=True)
        else:
            self.connecting -= 1
            self.active -= 1
            self._grant_slots()

    def _grant_slots(self) -> None:
        """Give free slots to those who wait, oldest first."""
        while self._waiters and self.connecting + len(self._open) < self._max_connections:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.future.done():
                self._reserve()
                waiter.future.set_result(None)

    def _hand_over(self, connection: UpstreamConnection) -> bool:
        """Give a connection that became free to somebody who waits for its endpoint.

        Nobody does, or the oldest has been passed over too often: False, and its slot is better used anew.
        """
        eldest = next(iter(self._waiters))
        for waiter in islice(self._waiters, LOOKAHEAD):
            if waiter.endpoint is connection.endpoint and not waiter.future.done():
                if waiter is not eldest:
                    if eldest.passed_over >= PASSED_OVER_MAX:
                        return False
                    eldest.passed_over += 1
                del self._waiters[waiter]
                self.active += 1
                connection.idle_since = monotonic()
                waiter.future.set_result(connection)
                return True
        return False

    # -- giving back

    def release(self, connection: UpstreamConnection, keep: bool) -> None:  # noqa: FBT001  # the engine's callback
        """The exchange on `connection` is over. Not `keep`: its owner closes it; the slot is free when it has gone."""
        self.active -= 1
        if not keep or connection.closed:
            return
        now = monotonic()
        if (
            self._closing
            or self._idle_limit <= 0
            or connection.generation != self._generation
            or connection.requests >= self._max_per_connection
            or connection.endpoint.state is _DRAINING
            or now >= self._open.get(connection, 0.0)
        ):
            connection.close()
            return
        if self._waiters:
            if not self._hand_over(connection):
                connection.close()
            return
        self._park(connection, now)

    def _park(self, connection: UpstreamConnection, now: float) -> None:
        connection.idle_since = now
        endpoint = connection.endpoint
        stack = self._idle.get(endpoint)
        if stack is None:
            stack = self._idle[endpoint] = {}
        stack[connection] = None
        self.idle += 1
        connection.park()
        if self._timer is None and self._idle_limit != NEVER:
            self._timer = self._loop.call_later(self._idle_limit, self._sweep)

    def _closed(self, connection: UpstreamConnection) -> None:
        """A connection is gone, whoever closed it. One that we close has left `_idle` before."""
        self._open.pop(connection, None)
        stack = self._idle.get(connection.endpoint)
        if stack is not None and connection in stack:
            del stack[connection]
            self.idle -= 1
            self._server_closed(monotonic() - connection.idle_since)
        self._grant_slots()
        self._ending.discard(connection)
        if self._ended is not None and not self._ended.done() and not self._ending:
            self._ended.set_result(None)

    # -- idle connections

    def went_stale(self, endpoint: Endpoint, idle_for: float) -> None:
        """A reused connection turned out to be dead after `idle_for` idle seconds.

        Those still idle are older: none of them is used any more, so that a replay gets a fresh one.
        """
        self._server_closed(idle_for)
        self.retire(endpoint)

    def announced(self, seconds: float) -> None:
        """A response said `Keep-Alive: timeout=seconds`."""
        self.keep_alive.announced(seconds)
        self._idle_limit = self.keep_alive.limit(monotonic())

    def _server_closed(self, idle_for: float) -> None:
        now = monotonic()
        self.keep_alive.closed_by_server(idle_for, now)
        self._idle_limit = self.keep_alive.limit(now)

    def _sweep(self) -> None:
        """Close what has been idle for too long. The timer runs only while something is idle."""
        self._timer = None
        now = monotonic()
        self._idle_limit = limit = self.keep_alive.limit(now)
        oldest = NEVER
        for endpoint, stack in list(self._idle.items()):
            expired = []
            for connection in stack:
                if now - connection.idle_since < limit:
                    oldest = min(oldest, connection.idle_since)
                    break
                expired.append(connection)
            self._drop_idle(endpoint, expired)
        if self.idle and limit != NEVER:
            self._timer = self._loop.call_later(max(oldest + limit - now, SWEEP_MIN), self._sweep)

    def _drop_idle(self, endpoint: Endpoint, connections: Iterable[UpstreamConnection]) -> None:
        stack = self._idle[endpoint]
        for connection in connections:
            del stack[connection]
            self.idle -= 1
            connection.close()
        if not stack:
            del self._idle[endpoint]

    # -- ending

    def retire(self, endpoint: Endpoint) -> None:
        """Close the idle connections of `endpoint`. While its state is DRAINING, the others close when they are released."""
        if endpoint in self._idle:
            self._drop_idle(endpoint, list(self._idle[endpoint]))

    def renew(self) -> None:
        """No connection that is open now is used again: idle ones close, the others when they are released."""
        self._generation += 1
        for endpoint in list(self._idle):
            self.retire(endpoint)

    async def aclose(self) -> None:
        """Close idle connections and wait until they are gone; the others close when they are released."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ending = {connection for stack in self._idle.values() for connection in stack}
        for endpoint in list(self._idle):
            self.retire(endpoint)
        if self._ending:
            self._ended = self._loop.create_future()
            await self._ended
