"""The one timer behind all clocks of all exchanges: a sweep, because a timer per request costs more than it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from sidecar.model.reason import Clock
from sidecar.policy.deadline import NEVER, Deadlines

TICK: Final = 0.025
"""Seconds at most between two looks at a running exchange: how late a clock armed meanwhile may fire."""
_SOON: Final = 0.001


class Timed(Protocol):
    """An exchange with deadlines."""

    deadlines: Deadlines

    def interrupt(self, clock: Clock) -> None:
        """`clock` has fired: stop what you do."""
        ...


class Timekeeper:
    """Sweeps while there is something to sweep. Tunnels, which are many and slow, are looked at only when one is due."""

    __slots__ = ("_loop", "_stir", "_timer", "_tunnel_timer", "running", "tunnels")

    def __init__(self, loop: asyncio.AbstractEventLoop, stir: Callable[[], None] | None = None) -> None:
        """`stir` is called when an exchange begins after a while without any."""
        self._loop = loop
        self._stir = stir
        self.running: dict[Timed, None] = {}
        self.tunnels: dict[Timed, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tunnel_timer: asyncio.TimerHandle | None = None

    def __iter__(self) -> Iterator[Timed]:
        yield from self.running
        yield from self.tunnels

    def __len__(self) -> int:
        return len(self.running) + len(self.tunnels)

    def enter(self, timed: Timed) -> None:
        """Watch `timed` from now on."""
        self.running[timed] = None
        if self._timer is None:
            self._timer = self._loop.call_later(TICK, self._sweep)
            if self._stir is not None:
                self._stir()

    def leave(self, timed: Timed) -> None:
        """`timed` is over."""
        if self.running.pop(timed, self) is self:
            self.tunnels.pop(timed, None)

    def become_tunnel(self, timed: Timed) -> None:
        """Only `tunnelIdle` matters for `timed` now."""
        del self.running[timed]
        self.tunnels[timed] = None
        timer = self._tunnel_timer
        if timer is None or timer.when() > timed.deadlines.next_at():
            if timer is not None:
                timer.cancel()
            self._sweep_tunnels()

    def close(self) -> None:
        """No clock fires any more."""
        for timer in (self._timer, self._tunnel_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._tunnel_timer = None

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        earliest = self._fire(self.running, now)
        if self.running:
            self._timer = self._loop.call_at(max(min(earliest, now + TICK), now + _SOON), self._sweep)

    def _sweep_tunnels(self) -> None:
        self._tunnel_timer = None
        now = self._loop.time()
        earliest = self._fire(self.tunnels, now)
        if earliest < NEVER:
            self._tunnel_timer = self._loop.call_at(max(earliest, now + _SOON), self._sweep_tunnels)

    def _fire(self, among: dict[Timed, None], now: float) -> float:
        """Interrupt what is due; return the earliest instant at which something else is."""
        earliest = NEVER
        for timed in list(among):
            at = timed.deadlines.next_at()
            if at > now:
                earliest = min(earliest, at)
                continue
            clock = timed.deadlines.fired(now)
            if clock is not None:
                timed.interrupt(clock)
        return earliest
