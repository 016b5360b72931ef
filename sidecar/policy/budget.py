"""The retry budget of one upstream: retries in proportion to requests, so that retrying never makes an outage worse.

`percent` of the requests in the last `interval`, plus `minRetryRate` over its own interval (product.md 3.9, Gateway API
BackendTrafficPolicy retryConstraint).
"""

from __future__ import annotations

from typing import Final

from sidecar.model.snapshot import RetryBudget
from sidecar.policy.window import Window

_SLACK: Final = 1e-9


class RetryBudgetMeter:
    """Counts requests and grants retries. `now` is monotonic seconds and never goes back.

    Windows err on the careful side: requests count for up to a bucket less than `interval`, granted retries for up to
    a bucket more, so that no window of `interval` ever holds more retries than the policy says.
    """

    __slots__ = ("_by_percent", "_by_rate", "_fraction", "_min_retries", "_requests")

    def __init__(self, policy: RetryBudget) -> None:
        self._fraction = policy.percent / 100
        self._min_retries = policy.min_retries
        self._requests = Window(policy.interval, longer=False)
        self._by_percent = Window(policy.interval, longer=True)
        self._by_rate = Window(policy.min_interval, longer=True)

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
