"""UpstreamRuntime: what every exchange asks of its upstream. What becomes of an upstream meanwhile is runtime.py's."""

from __future__ import annotations

from collections.abc import Collection
from random import random

from sidecar.errors import UpstreamError
from sidecar.model.compiler import mypyc_attr
from sidecar.model.endpoint import Endpoint
from sidecar.model.reason import Phase, Reason
from sidecar.model.snapshot import Upstream
from sidecar.policy.balancer import Balancer
from sidecar.policy.budget import RetryBudgetMeter
from sidecar.upstream.health import UpstreamHealth
from sidecar.upstream.transport import Transport


@mypyc_attr(allow_interpreted_subclasses=True)  # runtime.py is never compiled: it is referred to weakly
class UpstreamRuntime:
    """What an exchange needs of its upstream: endpoints to pick from, a transport, the retry budget."""

    __slots__ = ("balancer", "budget", "config", "copies", "endpoints", "health", "transport")

    def __init__(
        self, config: Upstream, transport: Transport, budget: RetryBudgetMeter, balancer: Balancer, endpoints: tuple[Endpoint, ...]
    ) -> None:
        self.config = config
        self.transport = transport
        self.budget = budget
        self.balancer = balancer
        self.endpoints = endpoints
        """The current ones; replaced, never changed."""
        self.copies: dict[str, int] = {}
        """Copies of requests to others (RequestMirror), by what became of them."""
        self.health: UpstreamHealth | None = None
        """Who learns what becomes of each attempt; None where the document asks for nothing of the kind."""

    def pick(self, now: float, key: bytes, exclude: Collection[Endpoint]) -> Endpoint:
        """The endpoint for one attempt, counted as in flight until `finished` is called for it, exactly once.

        `key`: `hash_key` for a ConsistentHash upstream, else b"". `exclude`: endpoints that were tried, used only when there is no
        other. Raises UpstreamError, phase POOL: DESTINATION_UNAVAILABLE, CIRCUIT_OPEN, or the DNS error while nothing was resolved.
        """
        endpoint = self.balancer.pick(self.endpoints, random, now, key, exclude)
        if endpoint is None:
            raise self._nowhere()
        if self.health is not None:
            self.health.admit(now)
        endpoint.active += 1
        endpoint.requests += 1
        return endpoint

    def finished(self, endpoint: Endpoint, seconds: float, now: float, failed: bool) -> None:  # noqa: FBT001  # called per request
        """The attempt on `endpoint` is over after `seconds`. `failed`: it had no response, or a broken one."""
        endpoint.active -= 1
        if failed:
            endpoint.failures += 1
        self.balancer.finished(endpoint, seconds, now, failed=failed)

    def count_copy(self, result: str) -> None:
        """A copy of a request has ended, or was not made."""
        self.copies[result] = self.copies.get(result, 0) + 1

    def _nowhere(self) -> UpstreamError:
        return UpstreamError(Reason.DESTINATION_UNAVAILABLE, "no endpoint", phase=Phase.POOL)
