"""How long to wait before the next request: a back-off after failures, and a pace that holds whatever the back-off says.

Both are arithmetic: no clock, no sleep. Seconds everywhere.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Final

FIRST_SECONDS: Final = 0.8
MAX_SECONDS: Final = 30.0
"""The longest wait after an answer that is of no use (as client-go's reflector)."""
AWAY_SECONDS: Final = 5.0
"""The longest wait after no answer at all: edits made in an outage are in force so soon after it (docs/decisions/0024)."""
FACTOR: Final = 2.0
PER_SECOND: Final = 1.0
BURST: Final = 2
"""A list and the watch that follows it."""


class Backoff:
    """Exponential: 0.8 s, doubled with each failure up to a cap, each shortened at random to no less than half.

    Shortened rather than lengthened, so that the cap is the longest wait there is, and a server that comes back is found
    within about the time it was away. Halves are enough to spread a thousand clients that lost the same server.

    Failures are counted for each cap by itself: the first answers of a server that comes up are often 403 or 503, and must not be taken
    for the next of many.
    """

    __slots__ = ("_failures", "_rng")

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._failures: Counter[float] = Counter()
        """By their cap."""

    def next(self, *, longest: float = MAX_SECONDS) -> float:
        """The wait after one more failure, at most `longest`."""
        wait = min(FIRST_SECONDS * FACTOR ** min(self._failures[longest], 16), longest)
        self._failures[longest] += 1
        return wait * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start small again."""
        self._failures.clear()


class Pace:
    """At most one request per second, and two at once after a pause: any T seconds hold at most T + 2 requests.

    A bucket of two tokens that gets one each second, written as the time up to which the future is spoken for (GCRA).
    """

    __slots__ = ("_spoken_for",)

    def __init__(self) -> None:
        self._spoken_for = float("-inf")

    def take(self, now: float) -> float:
        """Take a turn; the wait until it comes. Whoever takes it keeps to it."""
        self._spoken_for = max(self._spoken_for, now) + 1 / PER_SECOND
        return max(0.0, self._spoken_for - now - BURST / PER_SECOND)
