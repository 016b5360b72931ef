"""The retry budget of one upstream: retries in proportion to requests, so that retrying never makes an outage worse.

`percent` of the requests in the last `interval`, plus `minRetryRate` over its own interval (product.md 3.9, Gateway API
BackendTrafficPolicy retryConstraint).
"""

from __future__ import annotations

from typing import Final

from sidecar.model.snapshot import RetryBudget

_BUCKETS: Final = 20
_SLACK: Final = 1e-9


class _Window:
    """Events of the last `seconds`, counted in a ring of buckets."""

    __slots__ = ("_counts", "_per_second", "_slot", "total")

    def __init__(self, seconds: float, *, longer: bool) -> None:
        """A ring cannot end between two buckets: `longer` says whether it counts up to one more or one less."""
        self._per_second = (_BUCKETS - longer) / seconds
        self._counts = [0] * _BUCKETS
        self._slot = 0
        self.total = 0

    def move(self, now: float) -> None:
        """Forget what is older than the window."""
        slot = int(now * self._per_second)
        ahead = slot - self._slot
        if ahead <= 0:
            return
        if ahead >= _BUCKETS or not self.total:
            if self.total:
                self._counts = [0] * _BUCKETS
                self.total = 0
        else:
            counts = self._counts
            for old in range(self._slot + 1, slot + 1):
                self.total -= counts[old % _BUCKETS]
                counts[old % _BUCKETS] = 0
        self._slot = slot

    def add(self, now: float) -> None:
        """Count one event."""
        self.move(now)
        self._counts[self._slot % _BUCKETS] += 1
        self.total += 1


class RetryBudgetMeter:
    """Counts requests and grants retries. `now` is monotonic seconds and never goes back.

    Windows err on the careful side: requests count for up to a bucket less than `interval`, granted retries for up to
    a bucket more, so that no window of `interval` ever holds more retries than the policy says.
    """

    __slots__ = ("_by_percent", "_by_rate", "_fraction", "_min_retries", "_requests")

    def __init__(self, policy: RetryBudget) -> None:
        self._fraction = policy.percent / 100
        self._min_retries = policy.min_retries
        self._requests = _Window(policy.interval, longer=False)
        self._by_percent = _Window(policy.interval, longer=True)
        self._by_rate = _Window(policy.min_interval, longer=True)

    def request(self, now: float) -> None:
        """A request (not a retry) goes to the upstream."""
        self._requests.add(now)

    def try_spend(self, now: float) -> bool:
        """Take one retry out of the budget, the minimum rate first; False when it is spent."""
        self._by_rate.move(now)
        if self._by_rate.total < self._min_retries:
            self._by_rate.add(now)
            return True
        if self._percent_left(now) >= 1 - _SLACK:
            self._by_percent.add(now)
            return True
        return False

    def available(self, now: float) -> float:
        """Retries that would be granted at once; the fraction is what the next requests will complete."""
        self._by_rate.move(now)
        return max(0, self._min_retries - self._by_rate.total) + self._percent_left(now)

    def _percent_left(self, now: float) -> float:
        self._requests.move(now)
        self._by_percent.move(now)
        return max(0.0, self._requests.total * self._fraction - self._by_percent.total)
