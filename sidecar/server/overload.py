"""OverloadActions: does what the level of `policy/overload.py` asks for, to the listeners' connections.

The watchdog's thread looks at the limits and calls `due`; everything else happens on the event loop. Probes, metrics and
the admin surface have sockets of their own, which nothing here touches.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
from collections.abc import Callable
from typing import Final

from sidecar.http1.connection import BULK_READ, SMALL_READ, set_bulk_read
from sidecar.observe.logs import Event, event
from sidecar.policy.overload import FLOOR, KEPT_IDLE, Action, Level, Overload
from sidecar.server.listeners import Listeners

TRIM_EVERY: Final = 1.0
"""Seconds between two requests to the C library to give back what it holds free: without them a process stays as big as
it once was, and the level would never end."""
FULL_EVERY: Final = 10.0
"""Seconds between two lines of the log about requests that are refused because of their number."""
_WORDS: Final = {
    Level.RELIEVE: "connections of clients that have idled longest are closed",
    Level.SHED: "new requests are refused with 503 overloaded",
    Level.NARROW: "new requests are refused with 503 overloaded, hardly a connection is accepted, and exchanges with slow peers end",
}


class OverloadActions:
    """Made on the event loop that it acts on."""

    def __init__(
        self,
        overload: Overload,
        listeners: Listeners,
        excess: Callable[[], int],
        too_many: Callable[[], int],
        trim: Callable[[], None] | None = None,
    ) -> None:
        """`excess`: bytes of memory above where shedding begins. `too_many`: descriptors above where relief ends.

        `trim`: gives free memory back to the kernel; None: the C library's way.
        """
        self._loop = asyncio.get_running_loop()
        self._overload = overload
        self._listeners = listeners
        self._excess = excess
        self._too_many = too_many
        self._trim = trim_memory if trim is None else trim
        self._trimmed_at = float("-inf")
        self._strained = False
        self._told = Level.NONE
        self._refused = 0
        self._full_told_at = float("-inf")

    def due(self, now: float) -> None:
        """The limits have been looked at, at `now` (monotonic). Called by the thread that does it, never by two at a time."""
        overload = self._overload
        strained, before = bool(overload.levels.get("memory") or overload.tight), self._strained
        if (strained and now - self._trimmed_at >= TRIM_EVERY) or (before and not strained):
            self._trimmed_at = now
            self._trim()
        self._strained = strained
        if overload.level or overload.tight or self._told:
            self._loop.call_soon_threadsafe(self.act)

    def act(self) -> None:
        """Bring listeners and connections in line with the level; at each look, for as long as it is not NONE."""
        overload, listeners = self._overload, self._listeners
        level = overload.level
        self._tell(level)
        self._tell_full(level)
        overload.ease(listeners.running())
        set_bulk_read(SMALL_READ if overload.tight or level else BULK_READ)
        listeners.narrow(FLOOR if level >= Level.NARROW else None)
        if level >= Level.RELIEVE:
            # What a connection gives back of memory is not known before; of descriptors it is one, so no more are closed than it takes.
            most = None if overload.levels.get("memory") else self._too_many()
            overload.actions[Action.IDLE_CLOSED] += listeners.close_idle(KEPT_IDLE, most)
        if level >= Level.NARROW:
            overload.actions[Action.HEAD_REFUSED] += listeners.refuse_heads(overload.refusal)
            overload.actions[Action.EXCHANGE_CUT] += listeners.cut_largest(self._excess(), overload.refusal)

    def _tell(self, level: Level) -> None:
        if level == self._told:
            return
        self._told = level
        actions = {action.value: count for action, count in self._overload.actions.items()}
        if level is Level.NONE:
            event(Event.OVERLOAD_OVER, "memory and descriptors suffice again: everything is accepted", **actions)
        else:
            severity = logging.WARNING if level is Level.RELIEVE else logging.ERROR
            resource = self._overload.resource
            event(Event.OVERLOADED, f"{resource} is short: {_WORDS[level]}", level=severity, resource=resource, overload=level.name.lower())

    def _tell_full(self, level: Level) -> None:
        """Requests are refused because of their number: nothing is short yet, and nothing will be."""
        refused, before = self._overload.actions[Action.REQUEST_REFUSED], self._refused
        self._refused = refused
        now = self._loop.time()
        if level < Level.SHED and refused > before and now - self._full_told_at >= FULL_EVERY:
            self._full_told_at = now
            words = "as many requests are in flight as the memory limit has room for: new ones are refused with 503 overloaded"
            event(Event.OVERLOADED, words, level=logging.ERROR, resource="memory", overload="full", most_requests=self._overload.most)


def trim_memory() -> None:
    """Give back to the kernel what malloc holds free (glibc's malloc_trim(3); other C libraries do without)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
