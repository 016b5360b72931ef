"""A drain over all workers: what server.lifecycle.Lifecycle decides, they do at the same time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from sidecar.model.snapshot import Mode
from sidecar.tasks import cancel_and_wait, create_task
from sidecar.workers.channel import ChannelError
from sidecar.workers.crew import Crew
from sidecar.workers.handle import Handle
from sidecar.workers.sockets import SharedSockets

_POLL_SECONDS: Final = 0.05
"""How often workers are asked what is in flight, while a drain waits for it."""


class FleetListeners:
    """See server.lifecycle.Drainable."""

    def __init__(self, crew: Crew, sockets: SharedSockets) -> None:
        self._crew = crew
        self._sockets = sockets
        self._said: set[Mode] = set()
        """Of these listeners' responses say `Connection: close`."""
        self._now = False
        self._polling: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """Ask no more."""
        if self._polling is not None:
            await cancel_and_wait([self._polling])

    def joined(self, handle: Handle) -> None:
        """A worker that comes late does as the others do."""
        if self._said:
            handle.say_close(self._said)
        if self._now:
            handle.now()

    def has(self, modes: Sequence[Mode] = tuple(Mode)) -> bool:
        """Whether a listener of these modes accepts."""
        return self._sockets.has(modes)

    def say_close(self, modes: Sequence[Mode]) -> None:
        """See Drainable."""
        self._sockets.closing = True
        self._said.update(modes)
        for handle in self._crew.serving.values():
            handle.in_flight = None  # what was heard before may be old: it is known again when it has been asked
            handle.say_close(modes)
        if self._polling is None:
            self._polling = create_task(self._poll(), name="what is in flight")

    def in_flight(self, modes: Sequence[Mode] = tuple(Mode)) -> int:
        """As last heard; a worker that has not told counts as one."""
        return sum(_in_flight(handle, modes) for handle in self._crew.serving.values())

    def last_opened(self, modes: Sequence[Mode]) -> float:
        """See Drainable; as last heard."""
        return max(
            (handle.opened_at.get(mode.value, -math.inf) for handle in self._crew.serving.values() for mode in modes), default=-math.inf
        )

    def stalled(self) -> list[str]:
        """Listeners whose clients wait in every worker: where one still accepts, nobody waits."""
        workers = [set(handle.stalled) for handle in self._crew.serving.values()]
        return sorted(set.intersection(*workers)) if workers else []

    async def close(self, modes: Sequence[Mode], deadline: float, now: asyncio.Event) -> int:
        """See Drainable."""
        loop = asyncio.get_running_loop()
        hurrying = create_task(self._hurry(now), name="now")
        try:
            seconds = max(deadline - loop.time(), 0.0)
            cut = await asyncio.gather(*(handle.close(modes, seconds) for handle in self._crew.serving.values()))
        finally:
            await cancel_and_wait([hurrying])
        self._sockets.close(modes)
        return sum(cut)

    async def _hurry(self, now: asyncio.Event) -> None:
        await now.wait()
        self._now = True
        for handle in self._crew.serving.values():
            handle.now()

    async def _poll(self) -> None:
        while True:
            await asyncio.gather(*(_ask(handle) for handle in self._crew.serving.values()))
            await asyncio.sleep(_POLL_SECONDS)


async def _ask(handle: Handle) -> None:
    with suppress(ChannelError, TimeoutError):
        await handle.pulse()


def _in_flight(handle: Handle, modes: Sequence[Mode]) -> int:
    if handle.in_flight is None:
        return 1
    return sum(handle.in_flight.get(mode.value, 0) for mode in modes)
