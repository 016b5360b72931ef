"""Outlier detection: which endpoint has failed so often that it gets no traffic for a while, and for how long.

Two criteria: failures in a row, and the share of successes over a window. The penalty doubles with every ejection that follows soon
on the one before. An endpoint that comes back is on probation: real requests are the probe, and one failure sends it away
again. Never is the last healthy endpoint ejected, nor more than the policy's share: bad answers of some are better
than none at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sidecar.model.endpoint import Endpoint
from sidecar.model.health import OutlierDetection
from sidecar.policy.window import Window

CONSECUTIVE: Final = "consecutive_failures"
SUCCESS_RATE: Final = "success_rate"
_JITTER: Final = 0.1
"""Share by which a penalty is longer at most, so that endpoints that fell together do not come back together."""
_DOUBLINGS_MAX: Final = 32


class _Record:
    """What is remembered of one endpoint."""

    __slots__ = ("ejections", "failures_in_a_row", "requests", "returned_at", "successes")

    def __init__(self, policy: OutlierDetection) -> None:
        self.failures_in_a_row = 0
        self.ejections = 0
        """Those that followed soon on one another."""
        self.returned_at = 0.0
        """When its last ejection ended (monotonic seconds)."""
        rate = policy.success_rate
        self.requests = None if rate is None else Window(rate.window)
        self.successes = None if rate is None else Window(rate.window)


class OutlierDetector:
    """For the endpoints of one upstream. `now` is monotonic seconds; `random` returns floats in [0, 1)."""

    __slots__ = ("_policy", "_records")

    def __init__(self, policy: OutlierDetection) -> None:
        self._policy = policy
        self._records: dict[Endpoint, _Record] = {}

    def learn(self, endpoint: Endpoint, now: float, *, failed: bool) -> str:
        """A request to `endpoint`, which is not ejected, has ended. The criterion by which it should be ejected, else ""."""
        record = self._records.get(endpoint)
        if record is None:
            record = self._records[endpoint] = _Record(self._policy)
        record.failures_in_a_row = record.failures_in_a_row + 1 if failed else 0
        low = self._success_is_low(record, now, failed=failed)
        if record.failures_in_a_row >= self._policy.consecutive_failures:
            return CONSECUTIVE
        return SUCCESS_RATE if low else ""

    def _success_is_low(self, record: _Record, now: float, *, failed: bool) -> bool:
        rate = self._policy.success_rate
        if rate is None:
            return False
        assert record.requests is not None
        assert record.successes is not None
        record.requests.add(now)
        record.successes.move(now)
        if not failed:
            record.successes.add(now)
        total = record.requests.total
        return failed and total >= rate.min_requests and record.successes.total < rate.threshold * total

    def may_eject(self, *, away: int, total: int) -> bool:
        """Whether one more endpoint may go when `away` of `total` get no traffic already, for whatever reason."""
        return away + 1 <= self._policy.max_ejection * total and away + 1 < total

    def eject(self, endpoint: Endpoint, now: float, random: Callable[[], float]) -> float:
        """Seconds for which `endpoint` gets no traffic."""
        record = self._records[endpoint]
        if now - record.returned_at > self._policy.max_penalty:
            record.ejections = 0
        penalty = min(self._policy.min_penalty * 2.0 ** min(record.ejections, _DOUBLINGS_MAX), self._policy.max_penalty)
        record.ejections += 1
        return penalty * (1 + _JITTER * random())

    def restore(self, endpoint: Endpoint, now: float) -> None:
        """The penalty is over: one failure is enough for the next one, one success ends the probation."""
        record = self._records.get(endpoint)
        if record is None:
            return
        record.returned_at = now
        record.failures_in_a_row = self._policy.consecutive_failures - 1
        for window in (record.requests, record.successes):
            if window is not None:
                window.clear()

    def forget(self, endpoint: Endpoint) -> None:
        """`endpoint` has left the upstream."""
        self._records.pop(endpoint, None)
