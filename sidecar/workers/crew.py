"""Crew: keeps as many workers alive as were asked for. One that dies is replaced, at once at first, later with a back-off."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from sidecar.errors import OutriderError
from sidecar.model.status import WorkersStatus
from sidecar.observe.logs import Event, event
from sidecar.server.lifecycle import Check
from sidecar.tasks import cancel_and_wait, create_task
from sidecar.workers.channel import ChannelError
from sidecar.workers.forkserver import ForkFailed, ForkServer
from sidecar.workers.handle import STUCK_SECONDS, Handle
from sidecar.workers.outside import Outside
from sidecar.workers.seats import Seats

PULSE_SECONDS: Final = 2.0
STEADY_SECONDS: Final = 10.0
"""A worker that lived so long did not die of being started."""
FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 10.0
_EXIT_SECONDS: Final = 3.0
"""How long the word about a dead worker's exit status may take."""


class WorkerUnfit(OutriderError):
    """A worker cannot do what the others do, so it must go."""


def delay(quick_ends: int) -> float:
    """Seconds until the next try, after so many workers in a row that lived for less than STEADY_SECONDS."""
    return min(FIRST_DELAY * 2 ** min(quick_ends - 1, 16), LONGEST_DELAY) if quick_ends else 0.0


class Crew:
    """`start` once, `aclose` once. `configure` makes a new worker serve and is awaited; `lost` hears of each that does no more."""

    def __init__(
        self,
        size: int,
        forks: ForkServer,
        seats: Seats,
        turn: int,
        log_format: str,
        namespace: str,
        outside: Outside,
        *,
        configure: Callable[[Handle], Awaitable[None]],
        lost: Callable[[Handle], None],
    ) -> None:
        self.size = size
        self.serving: dict[int, Handle] = {}
        """By number: those that have the configuration in force."""
        self.exits = 0
        self._forks = forks
        self._seats = seats
        self._turn = turn
        self._log_format = log_format
        self._namespace = namespace
        self._outside = outside
        self._configure = configure
        self._lost = lost
        self._ending = False
        self._complete = False
        """All have served at the same time once."""
        self._untried = set(range(size))
        self._tried = asyncio.Event()
        self._changed = asyncio.Event()
        self._statuses: dict[int, int] = {}
        self._tasks: list[asyncio.Task[Any]] = []

    def start(self) -> None:
        """Begin to make workers."""
        self._forks.attach(self._exited)
        self._tasks = [create_task(self._keep(number), name=f"worker {number}") for number in range(self.size)]

    async def tried(self, seconds: float) -> None:
        """Wait until each has been tried once, but no longer than `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._tried.wait()

    async def full(self, seconds: float) -> None:
        """Wait until all serve, but no longer than `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while len(self.serving) < self.size:
                    self._changed.clear()
                    await self._changed.wait()

    async def aclose(self) -> None:
        """End all."""
        self._ending = True
        await asyncio.gather(*(handle.end() for handle in self.serving.values()))
        await cancel_and_wait(self._tasks)
        await self._forks.aclose()

    def status(self) -> WorkersStatus:
        """For metrics."""
        return WorkersStatus(serving=len(self.serving), exits=self.exits)

    def readiness(self) -> list[Check]:
        """All serve before the first request is let in; later as many as there are share the work while one is replaced."""
        ok = bool(self.serving) and self._complete
        return [Check("workers", ok, f"{len(self.serving)} of {self.size} workers serve")]

    def liveness(self) -> list[Check]:
        """Each comes round."""
        silent = {number: handle.silent_seconds for number, handle in sorted(self.serving.items())}
        stuck = [
            f"worker {number} has not answered for {age:.0f}s" for number, age in silent.items() if age >= STUCK_SECONDS + PULSE_SECONDS
        ]
        return [Check("workers", not stuck, ", ".join(stuck))]

    # -- one worker after the other

    async def _keep(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        quick = 0
        while True:
            began = loop.time()
            handle = Handle(number, self._forks, self._outside)
            try:
                why = await self._live(handle)
            finally:
                await self._bury(handle)
            if self._ending:
                return
            quick = 0 if loop.time() - began >= STEADY_SECONDS else quick + 1
            self.exits += 1
            self._tell(handle, why or self._ending_of(handle), delay(quick))
            await asyncio.sleep(delay(quick))

    async def _live(self, handle: Handle) -> str:
        """Until the worker is gone; why it never served, or ""."""
        try:
            await handle.start(self.size, self._log_format, self._namespace, self._turn, self._seats.descriptor)
            await self._configure(handle)
        except (ForkFailed, ChannelError, WorkerUnfit) as error:
            return "" if handle.gone.is_set() else str(error)
        except TimeoutError:
            return "it did not answer"
        finally:
            self._try_over(handle.number)
        event(Event.WORKER_STARTED, f"worker {handle.number} serves", worker=handle.number, pid=handle.pid)
        while not handle.gone.is_set():
            with suppress(ChannelError, TimeoutError):
                await handle.beat()
            with suppress(TimeoutError):
                async with asyncio.timeout(PULSE_SECONDS):
                    await handle.gone.wait()
        return ""

    def serves(self, handle: Handle) -> None:
        """It has the configuration in force."""
        self.serving[handle.number] = handle
        self._complete = self._complete or len(self.serving) == self.size
        self._changed.set()

    def _try_over(self, number: int) -> None:
        self._untried.discard(number)
        if not self._untried:
            self._tried.set()

    async def _bury(self, handle: Handle) -> None:
        """Nothing is left of it, whatever state it is in."""
        await handle.ended()
        if self.serving.get(handle.number) is handle:
            del self.serving[handle.number]
        self._seats.absent(handle.number)
        self._lost(handle)
        await handle.aclose()
        if handle.pid and handle.pid not in self._statuses:
            handle.kill()
            await self._status_of(handle.pid)

    async def _status_of(self, pid: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_SECONDS):
                while pid not in self._statuses:
                    self._changed.clear()
                    await self._changed.wait()
        _reap(pid)

    def _exited(self, pid: int, status: int) -> None:
        self._statuses[pid] = status
        self._changed.set()

    def _ending_of(self, handle: Handle) -> str:
        status = self._statuses.pop(handle.pid, None)
        if status is None:
            return "nobody knows how"
        return f"signal {_signal_name(-status)}" if status < 0 else f"exit status {status}"

    def _tell(self, handle: Handle, why: str, seconds: float) -> None:
        self._statuses.pop(handle.pid, None)
        soon = f"again in {seconds:g} s" if seconds else "another takes its place"
        event(
            Event.WORKER_EXITED,
            f"worker {handle.number} has ended ({why}), {soon}",
            level=logging.ERROR,
            worker=handle.number,
            pid=handle.pid,
            why=why,
            restart_in_s=seconds,
        )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _reap(pid: int) -> None:
    """Who forked it may have died before it; then it is a child of process 1, which we may be."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
