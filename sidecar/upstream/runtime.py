"""ConfiguredUpstream: one upstream as it runs, with all that survives a reload which does not concern it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from sidecar.errors import UpstreamError
from sidecar.model.endpoint import Endpoint, EndpointState
from sidecar.model.reason import Phase, Reason
from sidecar.model.snapshot import Target, Upstream
from sidecar.model.status import EndpointStatus, UpstreamStatus
from sidecar.observe.observer import Observer
from sidecar.policy.balancer import make_balancer
from sidecar.policy.budget import RetryBudgetMeter
from sidecar.tls.store import TlsStore
from sidecar.upstream.base import UpstreamRuntime
from sidecar.upstream.endpoints import DnsEndpoints, EndpointSet, StaticEndpoints
from sidecar.upstream.health import UpstreamHealth, all_away
from sidecar.upstream.resolver import Resolver
from sidecar.upstream.service import FollowService, ServiceEndpoints
from sidecar.upstream.transport import Transport
from sidecar.upstream.transports import make_transport, same_transport
from sidecar.upstream.weak import weakly


class ConfiguredUpstream(UpstreamRuntime):
    """An upstream of the document. A reload changes `config`, not the object; each part stays where what it depends on does."""

    __slots__ = ("__weakref__", "_context", "_follow_service", "_leaving", "_observer", "_resolver", "_retired", "_set", "_tls")

    def __init__(
        self,
        config: Upstream,
        resolver: Resolver,
        observer: Observer,
        follow_service: FollowService | None = None,
        tls: TlsStore | None = None,
    ) -> None:
        """`follow_service`: needed for a `config` (this or a later one) that names a Kubernetes Service; `tls` for one that has TLS."""
        self._tls = TlsStore() if tls is None else tls
        self._observer = observer
        transport = self._make_transport(config)
        super().__init__(config, transport, RetryBudgetMeter(config.retry_budget), make_balancer(config.load_balancer), ())
        self._context = self._tls.context(config)
        self._resolver = resolver
        self._follow_service = follow_service
        self._leaving: list[Endpoint] = []
        """Endpoints that are gone from the set, while requests are in flight on them."""
        self._retired: list[Transport] = []
        """Transports of another client or protocol, while requests are in flight on them."""
        self._set: EndpointSet = self._make_set()
        self.health = self._make_health()
        self._adopt()

    async def settled(self) -> None:
        """Wait until the first look for endpoints has ended, well or badly, or for as long as it may delay a start or a reload."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._set.first_look):
                await self._set.settled()

    def _nowhere(self) -> UpstreamError:
        if self.endpoints:
            return UpstreamError(Reason.DESTINATION_UNAVAILABLE, all_away(self.endpoints), phase=Phase.POOL)
        return UpstreamError(self._set.reason, self._set.problem or "no endpoint", phase=Phase.POOL)

    async def reconfigure(self, config: Upstream) -> None:
        """Become `config`; endpoints, connections, budget and balancer stay where what they depend on is the same."""
        before, self.config = self.config, config
        if config.retry_budget != before.retry_budget:
            self.budget = RetryBudgetMeter(config.retry_budget)
        if config.load_balancer != before.load_balancer:
            self.balancer = make_balancer(config.load_balancer)
        self._context = self._tls.context(config)
        same = same_transport(config, before)
        if same:
            self.transport.configure(config)
        else:
            former, self.transport = self.transport, self._make_transport(config)
            self._retired = [transport for transport in self._retired if not _quiet(transport)] + [former]
            await former.aclose()
        if not same or _judging(config) != _judging(before):
            old_health, self.health = self.health, self._make_health()
            if old_health is not None:
                await old_health.aclose()
            if self.health is not None:
                self.health.adopt(self.endpoints)
        if _whereabouts(config) != _whereabouts(before):
            old, self._set = self._set, self._make_set()
            await old.aclose()
            await self.settled()
            self._adopt()

    def _make_transport(self, config: Upstream) -> Transport:
        return make_transport(config, weakly(self._addresses), self._observer, weakly(self._connect_failed), self._tls.secure)

    def tls_changed(self) -> None:
        """Certificates have changed, perhaps ours: connections that were made with what is no longer current are not used again."""
        context = self._tls.context(self.config)
        if context is not self._context:
            self._context = context
            self.transport.renew()

    def _make_health(self) -> UpstreamHealth | None:
        return UpstreamHealth(self.config, self.transport) if any(_judging(self.config)) else None

    def _make_set(self) -> EndpointSet:
        tls = self.config.tls is not None
        if self.config.service is not None:
            assert self._follow_service is not None, "whoever admits upstreams of Services can follow them"
            return ServiceEndpoints(self.config.service, self._follow_service, weakly(self._adopt), self.endpoints, tls=tls)
        if self.config.dns is not None and self.config.proxy is not None:  # the proxy looks it up
            target = Target(host=self.config.dns.host, port=self.config.dns.port, tls=tls)
            return StaticEndpoints((target,), self._resolver, self.endpoints)
        if self.config.dns is not None:
            return DnsEndpoints(self.config.dns, self._resolver, weakly(self._adopt), self.endpoints, tls=tls)
        return StaticEndpoints(self.config.targets, self._resolver, self.endpoints)

    def _adopt(self) -> None:
        """Take the set's endpoints; those that are gone end when their requests do."""
        before, self.endpoints = self.endpoints, self._set.endpoints
        self._leaving = [endpoint for endpoint in self._leaving if endpoint.active]
        stay = set(self.endpoints)
        for endpoint in before:
            if endpoint not in stay:
                endpoint.state = EndpointState.DRAINING
                self.transport.retire(endpoint)
                self._leaving.append(endpoint)
        if self.health is not None:
            self.health.adopt(self.endpoints)

    async def _addresses(self, endpoint: Endpoint) -> Sequence[str]:
        if self.config.proxy is not None:
            return (await self._resolver.lookup(self.config.proxy.host)).addresses
        return await self._set.addresses(endpoint)

    def _connect_failed(self, endpoint: Endpoint) -> None:
        if self.config.proxy is not None:
            self._resolver.forget(self.config.proxy.host)
        self._set.connect_failed(endpoint)

    @property
    def quiet(self) -> bool:
        """Nothing is in flight and no connection is open."""
        return all(map(_quiet, (self.transport, *self._retired)))

    def status(self) -> UpstreamStatus:
        """For metrics, the admin surface and `outrider status`."""
        now = asyncio.get_running_loop().time()
        counts = self.transport.counts()
        leaving = [endpoint for endpoint in self._leaving if endpoint.active]
        return UpstreamStatus(
            name=self.config.name,
            source=self._set.source,
            endpoints=tuple(_endpoint_status(endpoint) for endpoint in (*self.endpoints, *leaving)),
            connections_active=counts.open - counts.idle + sum(transport.counts().open for transport in self._retired),
            connections_idle=counts.idle,
            connections_connecting=counts.connecting,
            pending=counts.pending,
            learned_idle_timeout=counts.learned_idle_timeout,
            budget_available=self.budget.available(now),
            problem=self._problem(),
            copies=dict(self.copies),
            health=None if self.health is None else self.health.status(),
        )

    def _problem(self) -> str:
        tls = "" if self.config.tls is None else self._tls.problem(self.config.tls)
        away = "" if any(map(_usable, self.endpoints)) else all_away(self.endpoints)
        return "; ".join(filter(None, (self._set.problem, away, tls)))

    async def aclose(self) -> None:
        """Stop following names and checking endpoints, and close idle connections; requests in flight finish."""
        await self._set.aclose()
        if self.health is not None:
            await self.health.aclose()
        await self.transport.aclose()


def _judging(config: Upstream) -> tuple[object, ...]:
    """What asks for health to be judged."""
    return config.outlier_detection, config.circuit_breaker, config.health_check


def _usable(endpoint: Endpoint) -> bool:
    return endpoint.state is EndpointState.HEALTHY


def _quiet(transport: Transport) -> bool:
    counts = transport.counts()
    return not (counts.active or counts.open or counts.pending)


def _whereabouts(config: Upstream) -> tuple[object, ...]:
    """What decides which endpoints there are."""
    return config.targets, config.service, config.dns, config.tls is not None, config.proxy is not None


def _endpoint_status(endpoint: Endpoint) -> EndpointStatus:
    return EndpointStatus(
        address=endpoint.label,
        state=endpoint.state.value,
        weight=endpoint.weight,
        active=endpoint.active,
        requests=endpoint.requests,
        failures=endpoint.failures,
    )
