"""The life of the process: listen -> ready -> draining -> closed (product.md 3.7 and 3.9 Drain), and what probes see of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final, Protocol

from msgspec import Struct

from sidecar.model.snapshot import Lifecycle as Timing
from sidecar.model.snapshot import Mode
from sidecar.observe.logs import Event, event
from sidecar.tasks import cancel_and_wait, create_task

_POLL_SECONDS: Final = 0.02
"""How often a drain looks for exchanges. Looking costs the hot path nothing; being told by each of them would."""
_LONGER: Final = 0.5
"""The share of drainTimeout for which Reverse listeners may accept beyond drainDelay; exchanges have the rest at least."""
_STUCK_SECONDS: Final = 10.0
"""`/livez` fails when the event loop has not come round for this long."""


class Stage(StrEnum):
    """`drained`: what `POST /drain` can do is done, the process stays."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DRAINED = "drained"
    CLOSED = "closed"


class Check(Struct, frozen=True):
    """One condition of a probe; `detail` says why it does not hold."""

    name: str
    ok: bool
    detail: str = ""


class Drainable(Protocol):
    """The listeners, as a drain sees them (server/listeners.py; those of several processes: workers/fleet.py)."""

    def has(self, modes: Sequence[Mode] = ...) -> bool:
        """Whether a listener of these modes accepts, or has connections."""
        ...

    def say_close(self, modes: Sequence[Mode]) -> None:
        """Responses say `Connection: close` from now on, and reloads bind nothing."""
        ...

    def in_flight(self, modes: Sequence[Mode] = ...) -> int:
        """Exchanges and tunnels that run."""
        ...

    def last_opened(self, modes: Sequence[Mode]) -> float:
        """When the last connection came since `say_close` (the loop's time); -inf: none did."""
        ...

    def stalled(self) -> list[str]:
        """Names of listeners whose clients wait to be accepted because something is short."""
        ...

    async def close(self, modes: Sequence[Mode], deadline: float, now: asyncio.Event) -> int:
        """Stop accepting, let what runs finish until `deadline` or `now`, cut the rest; returns how many were cut."""
        ...


class Lifecycle:
    """Decides when what closes. The composition root says what has happened; probes and admin ask."""

    def __init__(self, listeners: Drainable, timing: Callable[[], Timing], heartbeat_age: Callable[[], float]) -> None:
        """`timing`: the active document's `lifecycle`, asked when a drain begins. `heartbeat_age`: the event loop's, seconds."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._listeners = listeners
        self._timing = timing
        self._heartbeat_age = heartbeat_age
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        """No drainDelay."""
        self._now = asyncio.Event()
        """No drainTimeout either."""
        self._inbound: asyncio.Task[int] | None = None
        self._deadline = 0.0
        """When what is still in flight is cut; known once drainDelay is over."""
        self.listening = False
        """Status, admin and the first document's listeners are bound (there may be no document)."""
        self.configured = False
        """A valid document is active."""
        self.stage = Stage.STARTING

    # -- what has happened

    def config_active(self) -> None:
        """A document is in force; its listeners listen."""
        self.configured = self.listening = True
        if self.stage is Stage.STARTING:
            self.stage = Stage.READY

    def first_decision(self) -> None:
        """The first look for a document has ended, whatever it found."""
        self.listening = True

    # -- what probes see

    @property
    def draining(self) -> bool:
        """From the beginning of a drain on: readiness fails."""
        return self.stage in (Stage.DRAINING, Stage.DRAINED, Stage.CLOSED)

    def startup(self) -> list[Check]:
        """`/startupz`."""
        return [Check("listening", self.listening, "the first look for a document has not ended")]

    def readiness(self) -> list[Check]:
        """`/readyz`: never an upstream's health, and not whether requests are shed: that is answered, and others would get the load."""
        stalled = ", ".join(self._listeners.stalled())
        return [
            Check("config", self.configured, "no valid document yet"),
            Check("not-draining", not self.draining, f"the sidecar is {self.stage.value}"),
            Check("accepting", not stalled, f"short of memory or file descriptors: clients wait to be accepted ({stalled})"),
        ]

    def liveness(self) -> list[Check]:
        """`/livez`."""
        age = self._heartbeat_age()
        return [Check("event-loop", age < _STUCK_SECONDS, f"no heartbeat for {age:.0f}s")]

    # -- drain

    def drain(self) -> bool:
        """Begin to drain the Reverse listeners (POST /drain), once; True when that is done."""
        self._begin()
        return self.stage in (Stage.DRAINED, Stage.CLOSED)

    def stop(self, *, hurry: bool = False) -> None:
        """Drain everything, then `wait` returns. `hurry`: skip drainDelay. Asked again: now."""
        if self._stop.is_set():
            self._now.set()
            hurry = True
        self._stop.set()
        if hurry:
            self._hurry.set()

    def _begin(self) -> None:
        if self._inbound is None:
            self.stage = Stage.DRAINING
            self._listeners.say_close((Mode.REVERSE,))
            self._inbound = create_task(self._drain_inbound(), name="drain")

    async def _drain_inbound(self) -> int:
        """Close the Reverse listeners; the number of connections cut."""
        timing = self._timing()
        event(Event.DRAINING, "not ready any more", drain_delay_s=timing.drain_delay, drain_timeout_s=timing.drain_timeout)
        begun = self._loop.time()
        if self._listeners.has():
            await self._until_nobody_comes(timing, begun)
        self._deadline = min(self._loop.time(), begun + timing.drain_delay) + timing.drain_timeout
        cut = await self._listeners.close((Mode.REVERSE,), self._deadline, self._now)
        self.stage = Stage.DRAINED
        return cut

    async def _until_nobody_comes(self, timing: Timing, begun: float) -> None:
        """Accept until drainDelay has passed without a new connection: not everybody has heard of the drain before (decision 0021)."""
        first = begun + timing.drain_delay
        latest = first + timing.drain_timeout * _LONGER
        close_at = first
        while not self._hurry.is_set() and (left := close_at - self._loop.time()) > 0:
            await _pause(self._hurry, left)
            quiet_at = self._listeners.last_opened((Mode.REVERSE,)) + timing.drain_delay
            if close_at == first < quiet_at:
                event(Event.DRAINING, "new connections still come, accepting on", accepts_for_s=round(latest - self._loop.time(), 3))
            close_at = min(max(close_at, quiet_at), latest)

    async def wait(self) -> int:
        """Wait for `stop`, drain, and return the number of connections that were cut (exit code 1 when not 0).

        Forward listeners take new connections until nothing is in flight: the application may be still at work.
        """
        await self._stop.wait()
        self._listeners.say_close(tuple(Mode))
        own_deadline = self._loop.time() + self._timing().drain_timeout
        self._begin()
        assert self._inbound is not None
        cut = await self._inbound
        deadline = max(self._deadline, own_deadline)
        while self._listeners.in_flight() and not self._now.is_set() and self._loop.time() < deadline:
            await _pause(self._now, _POLL_SECONDS)
        cut += await self._listeners.close(tuple(Mode), deadline, self._now)
        self.stage = Stage.CLOSED
        event(Event.DRAINED, "nothing is in flight" if not cut else "what was left has been cut", connections_cut=cut)
        return cut

    async def aclose(self) -> None:
        """Nothing of ours runs afterwards."""
        if self._inbound is not None:
            await cancel_and_wait([self._inbound])


async def _pause(until: asyncio.Event, seconds: float) -> None:
    """Wait for `until`, but not longer than `seconds`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await until.wait()
