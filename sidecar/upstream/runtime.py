"""UpstreamRuntime: one upstream as it runs, with all that survives a reload which does not concern it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from sidecar.errors import UpstreamError
from sidecar.model.endpoint import Endpoint, EndpointState
from sidecar.model.reason import Phase, Reason
from sidecar.model.snapshot import Upstream
from sidecar.model.status import EndpointStatus, UpstreamStatus
from sidecar.observe.observer import Observer
from sidecar.policy.balancer import Balancer, make_balancer
from sidecar.policy.budget import RetryBudgetMeter
from sidecar.tasks import cancel_and_wait, create_task
from sidecar.upstream.endpoints import DnsEndpoints, EndpointSet, StaticEndpoints
from sidecar.upstream.native import NativeTransport
from sidecar.upstream.resolver import Resolver
from sidecar.upstream.weak import weakly

FIRST_LOOK: Final = 0.5
"""Seconds for which a start or a reload waits for the first answers of new names."""


class UpstreamRuntime:
    """What an exchange needs of its upstream: endpoints to pick from, a transport, the retry budget."""

    __slots__ = ("__weakref__", "balancer", "budget", "config", "endpoints", "transport")

    def __init__(
        self, config: Upstream, transport: NativeTransport, budget: RetryBudgetMeter, balancer: Balancer, endpoints: tuple[Endpoint, ...]
    ) -> None:
        self.config = config
        self.transport = transport
        self.budget = budget
        self.balancer = balancer
        self.endpoints = endpoints
        """The current ones; replaced, never changed."""

    def pick(self, now: float, key: bytes, exclude: Collection[Endpoint]) -> Endpoint:
        """The endpoint for one attempt, counted as in flight until `finished` is called for it, exactly once.

        `key`: `hash_key` for a ConsistentHash upstream, else b"". `exclude`: endpoints that were tried, used only when there is no
        other. Raises UpstreamError, phase POOL: DESTINATION_UNAVAILABLE, or the DNS error while nothing was resolved.
        """
        endpoint = self.balancer.pick(self.endpoints, random.random, now, key, exclude)
        if endpoint is None:
            raise self._nowhere()
        endpoint.active += 1
        endpoint.requests += 1
        return endpoint

    def finished(self, endpoint: Endpoint, seconds: float, now: float, failed: bool) -> None:  # noqa: FBT001  # called per request
        """The attempt on `endpoint` is over after `seconds`. `failed`: it had no response, or a broken one."""
        endpoint.active -= 1
        if failed:
            endpoint.failures += 1
        self.balancer.finished(endpoint, seconds, now, failed=failed)

    async def settled(self) -> None:
        """Wait until the first look for endpoints has ended, well or badly. At once when it has."""

    def _nowhere(self) -> UpstreamError:
        return UpstreamError(Reason.DESTINATION_UNAVAILABLE, "no endpoint", phase=Phase.POOL)


class ConfiguredUpstream(UpstreamRuntime):
    """An upstream of the document. A reload changes `config`, not the object; each part stays where what it depends on does."""

    __slots__ = ("_leaving", "_resolver", "_set")

    def __init__(self, config: Upstream, resolver: Resolver, observer: Observer) -> None:
        transport = NativeTransport(config, weakly(self._addresses), observer, weakly(self._connect_failed))
        super().__init__(config, transport, RetryBudgetMeter(config.retry_budget), make_balancer(config.load_balancer), ())
        self._resolver = resolver
        self._leaving: list[Endpoint] = []
        """Endpoints that are gone from the set, while requests are in flight on them."""
        self._set: EndpointSet = self._make_set()
        self._adopt()

    async def settled(self) -> None:
        """Wait until the first look for endpoints has ended, well or badly. At once when it has."""
        await self._set.settled()

    def _nowhere(self) -> UpstreamError:
        return UpstreamError(self._set.reason, self._set.problem or "no endpoint", phase=Phase.POOL)

    async def reconfigure(self, config: Upstream) -> None:
        """Become `config`; endpoints, connections, budget and balancer stay where what they depend on is the same."""
        before, self.config = self.config, config
        if config.retry_budget != before.retry_budget:
            self.budget = RetryBudgetMeter(config.retry_budget)
        if config.load_balancer != before.load_balancer:
            self.balancer = make_balancer(config.load_balancer)
        self.transport.configure(config)
        if (config.targets, config.dns) != (before.targets, before.dns):
            old, self._set = self._set, self._make_set()
            await old.aclose()
            await first_look([self])
            self._adopt()

    def _make_set(self) -> EndpointSet:
        if self.config.dns is not None:
            return DnsEndpoints(self.config.dns, self._resolver, weakly(self._adopt), self.endpoints)
        return StaticEndpoints(self.config.targets, self._resolver, self.endpoints)

    def _adopt(self) -> None:
        """Take the set's endpoints; those that are gone end when their requests do."""
        before, self.endpoints = self.endpoints, self._set.endpoints
        self._leaving = [endpoint for endpoint in self._leaving if endpoint.active]
        for endpoint in before:
            if endpoint not in self.endpoints:
                endpoint.state = EndpointState.DRAINING
                self.transport.pool.retire(endpoint)
                self._leaving.append(endpoint)

    async def _addresses(self, endpoint: Endpoint) -> Sequence[str]:
        return await self._set.addresses(endpoint)

    def _connect_failed(self, endpoint: Endpoint) -> None:
        self._set.connect_failed(endpoint)

    @property
    def quiet(self) -> bool:
        """Nothing is in flight and no connection is open."""
        pool = self.transport.pool
        return not (pool.active or pool.open or pool.pending)

    def status(self) -> UpstreamStatus:
        """For metrics, the admin surface and `outrider status`."""
        now = asyncio.get_running_loop().time()
        pool = self.transport.pool
        leaving = [endpoint for endpoint in self._leaving if endpoint.active]
        return UpstreamStatus(
            name=self.config.name,
            source=self._set.source,
            endpoints=tuple(_endpoint_status(endpoint) for endpoint in (*self.endpoints, *leaving)),
            connections_active=pool.open - pool.idle,
            connections_idle=pool.idle,
            connections_connecting=pool.connecting,
            pending=pool.pending,
            learned_idle_timeout=pool.keep_alive.learned(now),
            budget_available=self.budget.available(now),
            problem=self._set.problem,
        )

    async def aclose(self) -> None:
        """Stop following names and close idle connections; requests in flight finish."""
        await self._set.aclose()
        await self.transport.aclose()


async def first_look(upstreams: Iterable[UpstreamRuntime]) -> None:
    """Give names a moment to be resolved, so that the first requests find endpoints; a dead DNS delays nothing for long."""
    looks = [create_task(upstream.settled(), name="first look") for upstream in upstreams]
    if looks:
        _, late = await asyncio.wait(looks, timeout=FIRST_LOOK)
        await cancel_and_wait(late)


def _endpoint_status(endpoint: Endpoint) -> EndpointStatus:
    return EndpointStatus(
        address=endpoint.label,
        state=endpoint.state.value,
        weight=endpoint.weight,
        active=endpoint.active,
        requests=endpoint.requests,
        failures=endpoint.failures,
    )
