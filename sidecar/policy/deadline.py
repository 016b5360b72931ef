"""Deadlines: the clocks of one exchange as a pure machine. The shell sweeps it (proxy/timekeeper.py).

Every clock is independent; the first to fire wins and is the one that is named (product.md 3.2). At most one phase
clock (`queue`, `connect`, `responseHeader`, `upgradeHandshake`) runs at a time, because an attempt is in one phase.
"""

from __future__ import annotations

from typing import Final

from sidecar.model.reason import Clock
from sidecar.model.snapshot import Timeouts

NEVER: Final = float("inf")
_RESPONSE_HEADER: Final = Clock.RESPONSE_HEADER
_STREAM_IDLE: Final = Clock.STREAM_IDLE


class Deadlines:
    """Instants on the monotonic clock at which an exchange is over. `NEVER` = the clock is off."""

    __slots__ = ("attempt_at", "body_at", "idle", "idle_clock", "moved_at", "phase_at", "phase_clock", "request_at", "timeouts")

    def __init__(self, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        """The route's clocks, for whoever enters a phase."""
        self.request_at = NEVER
        self.attempt_at = NEVER
        self.phase_at = NEVER
        self.phase_clock = _RESPONSE_HEADER
        self.body_at = NEVER
        """The client's next body bytes are due (bodyIdleTimeout)."""
        self.idle = 0.0
        """Seconds without a byte in either direction; 0.0 = off."""
        self.idle_clock = _STREAM_IDLE
        self.moved_at = 0.0
        """When a byte last moved."""

    def arm_phase(self, clock: Clock, now: float, seconds: float) -> None:
        """Start the clock of a phase; it takes the place of the one before. `seconds` 0.0: off."""
        self.phase_clock = clock
        self.phase_at = now + seconds if seconds else NEVER

    def disarm_phase(self) -> None:
        """The phase is over."""
        self.phase_at = NEVER

    def between_attempts(self, until: float) -> None:
        """An attempt has failed and the next begins at `until`: meanwhile no clock runs but `request`."""
        self.attempt_at = self.phase_at = NEVER
        self.moved_at = until

    def shorten_request(self, at: float) -> None:
        """A caller's own deadline can only shorten ours (product.md 3.8)."""
        self.request_at = min(self.request_at, at)

    def become_reply(self, now: float, idle: float) -> None:
        """We have answered ourselves: only a client that does not take it is waited for, `idle` seconds where no route says how long."""
        self.request_at = self.attempt_at = self.phase_at = self.body_at = NEVER
        self.idle, self.moved_at = self.idle or idle, now

    def become_tunnel(self, now: float, idle: float) -> None:
        """After an upgrade only `tunnelIdle` applies."""
        self.request_at = self.attempt_at = self.phase_at = self.body_at = NEVER
        self.idle, self.idle_clock, self.moved_at = idle, Clock.TUNNEL_IDLE, now

    def next_at(self) -> float:
        """The earliest instant at which something may fire."""
        idle_at = self.moved_at + self.idle if self.idle else NEVER
        return min(self.request_at, self.attempt_at, self.phase_at, self.body_at, idle_at)

    def fired(self, now: float) -> Clock | None:
        """The clock that fired first, or None. Ties go to the narrower clock, which says more."""
        idle_at = self.moved_at + self.idle if self.idle else NEVER
        at, clock = self.phase_at, self.phase_clock
        for other_at, other in (
            (self.body_at, Clock.BODY_IDLE),
            (idle_at, self.idle_clock),
            (self.attempt_at, Clock.BACKEND_REQUEST),
            (self.request_at, Clock.REQUEST),
        ):
            if other_at < at:
                at, clock = other_at, other
        return clock if at <= now else None
