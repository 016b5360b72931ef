"""Connections that wait for their next request, oldest first: one timer for all of them, none when there are none."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Protocol


class Idling(Protocol):
    """Something that can be told that it has idled too long."""

    def idle_expired(self) -> None:
        """Close."""
        ...


class IdleQueue:
    """Everything in it idles for the same time, so insertion order is expiry order. `timeout` 0.0: for ever."""

    __slots__ = ("_loop", "_since", "_timer", "timeout")

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self._loop = loop
        self._since: dict[Idling, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.timeout = timeout

    def __len__(self) -> int:
        return len(self._since)

    def add(self, idler: Idling) -> None:
        """`idler` idles from now on."""
        now = self._loop.time()
        self._since[idler] = now
        if self._timer is None and self.timeout:
            self._timer = self._loop.call_at(now + self.timeout, self._expire)

    def discard(self, idler: Idling) -> None:
        """`idler` is busy, or gone."""
        self._since.pop(idler, None)

    def _expire(self) -> None:
        self._timer = None
        before = self._loop.time() - self.timeout
        expired = []
        for idler, since in self._since.items():
            if since > before:
                self._timer = self._loop.call_at(since + self.timeout, self._expire)
                break
            expired.append(idler)
        for idler in expired:
            del self._since[idler]
            idler.idle_expired()

    def expire_oldest(self, count: int) -> int:
        """Those that have idled longest have idled too long; returns how many there were."""
        expired = list(islice(self._since, count))
        for idler in expired:
            del self._since[idler]
            idler.idle_expired()
        return len(expired)

    def close(self) -> None:
        """Stop the timer; nothing expires any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._since.clear()
