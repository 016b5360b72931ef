"""Overload: what the process gives up when memory or descriptors run short, in which order, and when it takes it back.

Nothing here is about one upstream: pools have limits of their own. A level begins at its share of the limit and ends
`RELIEF` below it, after `HOLD` seconds at least, so that a share around a threshold does not make it come and go.
Whatever the level, `FLOOR` requests at a time are served on as many connections: memory that does not come back (it may
be a neighbour's, or fragmented) makes the sidecar narrow, not dead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Final, NamedTuple

from sidecar.errors import ProxyError
from sidecar.model.reason import Reason

RELIEF: Final = 0.04
"""How far below its threshold a share must come before the level ends."""
HOLD: Final = 1.0
"""Seconds for which a level lasts at least."""
FLOOR: Final = 16
"""Requests at a time, and connections of a listener, that are served at every level."""
KEPT_IDLE: Final = 64
"""Idle connections of a listener that are left alone: closing fewer gives nothing back."""
FULL_EXCHANGE: Final = 160 * 1024
"""Bytes that an exchange with a slow peer takes at most while long bodies are read in large pieces."""
SMALL_EXCHANGE: Final = 48 * 1024
"""The same, while they are read in small ones."""
UNLIMITED: Final = 1 << 60
RETRY_AFTER: Final = 1
"""Seconds, for who was refused."""


class Level(IntEnum):
    """What is given up because of what is used; each level includes the ones before it."""

    NONE = 0
    RELIEVE = 1
    """Clients' connections that have idled longest are closed: nobody waits for an answer on them."""
    SHED = 2
    """New requests get 503 `overloaded`, and their connections end. What is in flight goes on."""
    NARROW = 3
    """Above `FLOOR` no connection is accepted, heads that come in pieces are refused, and exchanges whose peers are slow to
    take what we hold for them end, those that hold most first."""


class Action(StrEnum):
    """What was given up; label `action` of the metric."""

    IDLE_CLOSED = "idle_closed"
    REQUEST_REFUSED = "request_refused"
    HEAD_REFUSED = "head_refused"
    EXCHANGE_CUT = "exchange_cut"


class Band(NamedTuple):
    """The shares of a limit from which on each level holds."""

    relieve: float
    shed: float
    narrow: float


BANDS: Final[Mapping[str, Band]] = {
    "memory": Band(0.85, 0.90, 0.95),
    "file_descriptors": Band(0.85, 0.95, 0.98),
}
"""Above its memory limit the process is killed, and what has been admitted still grows: refusals begin early. Without
descriptors it only has to make clients wait."""


def level_of(share: float, band: Band, before: Level) -> Level:
    """The level for this share of the limit, when it was `before` until now."""
    for level, threshold in ((Level.NARROW, band.narrow), (Level.SHED, band.shed), (Level.RELIEVE, band.relieve)):
        if share >= threshold or (before >= level and share > threshold - RELIEF):
            return level
    return Level.NONE


class Overload:
    """The level of each resource and of all together. Written by one thread; what it says may be read by any."""

    def __init__(self) -> None:
        self.level = Level.NONE
        self.resource = ""
        """Which is shortest; "" at NONE."""
        self.shedding = False
        """Whether what is used is reason enough to refuse new requests."""
        self.roomy = UNLIMITED
        """Exchanges at a time that may take `FULL_EXCHANGE`; one more has to ask `admit`."""
        self.most = UNLIMITED
        """Exchanges at a time for which memory is enough, were all their peers slow: `roomy` of them full, the others small."""
        self.tight = False
        """There are, or were a moment ago, more exchanges than `roomy`: long bodies are to be read in small pieces."""
        self.levels: dict[str, Level] = {}
        """By resource, of those that have a limit."""
        self.actions: Counter[Action] = Counter(dict.fromkeys(Action, 0))
        self._since: dict[str, float] = {}

    def update(self, shares: Mapping[str, float], now: float, memory_limit: int | None = None) -> bool:
        """Take over the shares of the limits (0.0 to 1.0 and more); `now` is monotonic, `memory_limit` in bytes. True: the level of all has changed."""
        levels = {}
        for resource, band in BANDS.items():
            if resource in shares:
                before = self.levels.get(resource, Level.NONE)
                levels[resource] = self._held(resource, before, level_of(shares[resource], band, before), now)
        self.levels = levels
        worst = max(levels, key=lambda resource: (levels[resource], shares[resource]), default="")
        before, self.level = self.level, levels.get(worst, Level.NONE)
        self.resource = worst if self.level else ""
        self.shedding = self.level >= Level.SHED
        self._make_room(shares.get("memory"), memory_limit)
        return self.level != before

    def _held(self, resource: str, before: Level, after: Level, now: float) -> Level:
        if after < before and now - self._since[resource] < HOLD:
            return before
        if after != before:
            self._since[resource] = now
        return after

    def _make_room(self, share: float | None, limit: int | None) -> None:
        """What is used tells too late: exchanges that are there already may take more, all at once. Their number does not."""
        if share is None or limit is None:
            self.roomy = self.most = UNLIMITED
            self.tight = False
        else:
            half = int((BANDS["memory"].shed - share) * limit) // 2
            self.roomy = max(half // FULL_EXCHANGE, FLOOR)
            self.most = self.roomy + max(half // SMALL_EXCHANGE, 0)
        if self.shedding:
            self.roomy = FLOOR

    def admit(self, running: int) -> None:
        """A request has come and makes `running`, more than `roomy`, with those in flight. Raises ProxyError when it is refused."""
        if running > FLOOR and (self.shedding or running > self.most):
            self.actions[Action.REQUEST_REFUSED] += 1
            raise self.refusal()
        self.tight = self.most < UNLIMITED

    def ease(self, running: int) -> None:
        """`running` exchanges are in flight now: end `tight` when they are few enough for large pieces again."""
        if running <= self.roomy // 2 and not self.level:
            self.tight = False

    def refusal(self) -> ProxyError:
        """503 `overloaded`; the connection ends with it, for it is connections that take memory and descriptors."""
        return ProxyError(Reason.OVERLOADED, f"{self.resource or 'memory'} is short", retry_after=RETRY_AFTER, reusable=False)

    def document(self) -> dict[str, object]:
        """As `GET /runtime` shows it."""
        return {
            "level": self.level.name.lower(),
            "resource": self.resource or None,
            "mostRequests": None if self.most == UNLIMITED else self.most,
            "actions": {action.value: self.actions[action] for action in Action},
        }
