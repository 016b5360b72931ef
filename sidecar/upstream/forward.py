"""The implicit upstream `forward`: destinations of Forward listeners that `allow` lets through (product.md 3.1).

A host is resolved, every address is checked, and only addresses that were checked are connected to: there is no
second lookup in which a name could point elsewhere (http.md section 5).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from sidecar.errors import ProxyError, UpstreamError
from sidecar.model.endpoint import Endpoint
from sidecar.model.reason import Clock, Phase, Reason
from sidecar.model.snapshot import AllowEntry, Balancing, LoadBalancer, Upstream
from sidecar.observe.observer import Observer
from sidecar.policy.allow import HostDecision, check_address, decide_host
from sidecar.policy.balancer import make_balancer
from sidecar.policy.budget import RetryBudgetMeter
from sidecar.upstream.base import UpstreamRuntime
from sidecar.upstream.native import NativeTransport
from sidecar.upstream.resolver import Answer, Resolver

FORWARD: Final = "forward"
DESTINATIONS_MAX: Final = 1024
"""Destinations that are remembered, with their idle connections; the least recently used go first."""
CONFIG: Final = Upstream(name=FORWARD, load_balancer=LoadBalancer(policy=Balancing.ROUND_ROBIN))


class CheckedEndpoint(Endpoint):
    """A destination and the addresses that may be connected to for it."""

    __slots__ = ("addresses", "expires_at")

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.addresses: tuple[str, ...] = ()
        self.expires_at = 0.0
        """When they must be looked up and checked anew (loop time)."""


class Destination:
    """One `host:port`, as one `allow` list permits it."""

    __slots__ = ("allow", "endpoint", "runtime")

    def __init__(self, allow: Sequence[AllowEntry], endpoint: CheckedEndpoint, runtime: UpstreamRuntime) -> None:
        self.allow = allow
        self.endpoint = endpoint
        self.runtime = runtime


class Forward:
    """All destinations share one pool's limits, one retry budget and the name `forward`."""

    __slots__ = ("_balancer", "_budget", "_destinations", "_resolver", "transport")

    def __init__(self, resolver: Resolver, observer: Observer) -> None:
        self._resolver = resolver
        self._destinations: OrderedDict[tuple[str, int], Destination] = OrderedDict()
        self._budget = RetryBudgetMeter(CONFIG.retry_budget)
        self._balancer = make_balancer(CONFIG.load_balancer)
        self.transport = NativeTransport(CONFIG, _addresses, observer, self._connect_failed)

    async def destination(self, host: str, port: int, allow: Sequence[AllowEntry]) -> UpstreamRuntime:
        """The runtime for `host:port`. Does not suspend while an earlier answer and its check are still good.

        Raises ProxyError HTTP_REQUEST_DENIED or DESTINATION_IP_PROHIBITED, UpstreamError DNS_TIMEOUT or DNS_ERROR.
        """
        host = host.removeprefix("[").removesuffix("]").lower()
        known = self._destinations.get((host, port))
        if known is None or known.endpoint.expires_at <= asyncio.get_running_loop().time() or not _same(known.allow, allow):
            answer = await self._checked(host, port, allow)
            known = self._remember(host, port, allow, answer)
        self._destinations.move_to_end((host, port))
        return known.runtime

    async def _checked(self, host: str, port: int, allow: Sequence[AllowEntry]) -> Answer:
        decision = decide_host(allow, host, port)
        if decision is HostDecision.REFUSED:
            raise ProxyError(Reason.HTTP_REQUEST_DENIED, f"{host}:{port} is not in the listener's allow list")
        answer = await self._lookup(host)
        named = decision is HostDecision.NAMED
        for address in answer.addresses:
            if not check_address(allow, ip_address(address), port, named=named):
                reason = Reason.DESTINATION_IP_PROHIBITED if named else Reason.HTTP_REQUEST_DENIED
                raise ProxyError(reason, f"{host}:{port} has the address {address}, which the listener's allow list does not permit")
        return answer

    async def _lookup(self, host: str) -> Answer:
        """Within `connectTimeout`, although no attempt has begun whose `connect` clock could run."""
        try:
            async with asyncio.timeout(CONFIG.connect_timeout):
                return await self._resolver.lookup(host)
        except TimeoutError:
            raise UpstreamError(Reason.DNS_TIMEOUT, f"{host}: no answer", clock=Clock.CONNECT, phase=Phase.CONNECT) from None

    def _remember(self, host: str, port: int, allow: Sequence[AllowEntry], answer: Answer) -> Destination:
        key = (host, port)
        known = self._destinations.get(key)
        if known is None or not _same(known.allow, allow):
            self._forget(key)
            endpoint = CheckedEndpoint(host, port)
            runtime = UpstreamRuntime(CONFIG, self.transport, self._budget, self._balancer, (endpoint,))
            known = self._destinations[key] = Destination(allow, endpoint, runtime)
            if len(self._destinations) > DESTINATIONS_MAX:
                self._forget(next(iter(self._destinations)))
        known.endpoint.addresses, known.endpoint.expires_at = answer.addresses, answer.expires_at
        return known

    def _forget(self, key: tuple[str, int]) -> None:
        """What is in flight there goes on; its connections are not used again, and end by the idle timeout."""
        known = self._destinations.pop(key, None)
        if known is not None:
            self.transport.retire(known.endpoint)

    def _connect_failed(self, endpoint: Endpoint) -> None:
        """Look it up anew the next time."""
        assert isinstance(endpoint, CheckedEndpoint)
        endpoint.expires_at = 0.0
        self._resolver.forget(endpoint.host)

    async def aclose(self) -> None:
        """Close idle connections; what is in flight finishes."""
        await self.transport.aclose()


def _same(one: Sequence[AllowEntry], other: Sequence[AllowEntry]) -> bool:
    return one is other or one == other


async def _addresses(endpoint: Endpoint) -> Sequence[str]:
    assert isinstance(endpoint, CheckedEndpoint)
    return endpoint.addresses
