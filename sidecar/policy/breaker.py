"""The circuit breaker of an upstream: after failures in a row, requests are refused at once instead of failing slowly.

Closed: everything passes. Open, for `openFor`: nothing does. Half-open: so many trials pass; when all of them succeed it closes,
and the first failure opens it again. Late results of requests that began before it opened count like any other: they
tell of the upstream, too.
"""

from __future__ import annotations

from enum import StrEnum
from math import ceil

from sidecar.model.health import CircuitBreaking


class Circuit(StrEnum):
    """`breaker.state` of `GET /upstreams`."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitBreaker:
    """For one upstream. `now` is monotonic seconds."""

    __slots__ = ("_failures", "_opened_at", "_policy", "_successes", "_trials", "opened", "state")

    def __init__(self, policy: CircuitBreaking) -> None:
        self._policy = policy
        self._failures = 0
        """In a row, while closed."""
        self._opened_at = 0.0
        self._trials = 0
        """Admitted since it is half-open, less those that ended without telling anything."""
        self._successes = 0
        self.state = Circuit.CLOSED
        self.opened = 0
        """How often it has opened."""

    def admit(self, now: float) -> int:
        """0: a request may pass, and `learn` or `unlearned` is called for it. Else seconds after which it is worth asking again."""
        if self.state is Circuit.CLOSED:
            return 0
        if self.state is Circuit.OPEN:
            left = self._opened_at + self._policy.open_for - now
            if left > 0:
                return max(ceil(left), 1)
            self.state, self._trials, self._successes = Circuit.HALF_OPEN, 0, 0
        if self._trials >= self._policy.half_open_requests:
            return 1
        self._trials += 1
        return 0

    def learn(self, now: float, *, failed: bool) -> bool:
        """A request has ended. Whether that changed the state."""
        if self.state is Circuit.OPEN:
            return False
        if failed:
            self._failures += 1
            if self.state is Circuit.CLOSED and self._failures < self._policy.consecutive_failures:
                return False
            self.state, self._opened_at, self._failures = Circuit.OPEN, now, 0
            self.opened += 1
            return True
        self._failures = 0
        if self.state is Circuit.CLOSED:
            return False
        self._successes += 1
        if self._successes < self._policy.half_open_requests:
            return False
        self.state = Circuit.CLOSED
        return True

    def unlearned(self) -> None:
        """A request has ended without telling anything of the upstream (its client left): another trial takes its place."""
        if self.state is Circuit.HALF_OPEN and self._trials > self._successes:
            self._trials -= 1
