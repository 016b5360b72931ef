"""What the answers to health checks mean: so many failures in a row take an endpoint out, so many successes bring it back."""

from __future__ import annotations

from sidecar.model.health import HealthCheck


class CheckRecord:
    """The checks of one endpoint. It is healthy until they say otherwise, so that a start waits for nobody."""

    __slots__ = ("_against", "_policy", "healthy")

    def __init__(self, policy: HealthCheck) -> None:
        self._policy = policy
        self._against = 0
        """Answers in a row that speak against the present verdict."""
        self.healthy = True

    def learn(self, *, passed: bool) -> bool:
        """A check has ended. Whether the verdict has changed."""
        if passed is self.healthy:
            self._against = 0
            return False
        self._against += 1
        if self._against < (self._policy.unhealthy_threshold if self.healthy else self._policy.healthy_threshold):
            return False
        self.healthy, self._against = passed, 0
        return True


def passes(status: int) -> bool:
    """Whether a check with this answer has passed: any 2xx or 3xx, as for the kubelet's HTTP probes."""
    return 200 <= status < 400
