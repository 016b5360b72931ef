"""A snapshot made ready for the hot path: routers per listener, routes bound to the upstreams that run now."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final, Protocol

from sidecar.model.snapshot import HeaderModifier, Listener, Route, Snapshot
from sidecar.observe.tracer import Tracer
from sidecar.policy.backends import WeightedChoice
from sidecar.policy.router import Router, routers_in_slices
from sidecar.policy.slices import Slices, at_once
from sidecar.protocol.forwarded import ForwardedPolicy, PeerRules
from sidecar.upstream.base import UpstreamRuntime

_PEER_CACHE: Final = 4096
_TAKEN: Final = frozenset((b"via", b"x-request-id", b"x-request-timeout-ms", b"te"))
"""Request fields that we read and write ourselves, besides the forwarding ones."""


class Upstreams(Protocol):
    """Where a plan finds the running upstreams (upstream/registry.py)."""

    def get(self, name: str) -> UpstreamRuntime:
        """The upstream called `name`. Raises UpstreamError when there is none."""
        ...


class RoutePlan:
    """A route and what it leads to."""

    __slots__ = ("choice", "filtered", "mirrors", "only", "request_modifiers", "response_modifiers", "route")

    def __init__(self, route: Route, upstreams: Upstreams) -> None:
        self.route = route
        backends = [(upstreams.get(backend.name), backend.weight) for backend in route.backends]
        self.choice: WeightedChoice[UpstreamRuntime] = WeightedChoice(backends)
        self.only = backends[0][0] if len(backends) == 1 and backends[0][1] > 0 else None
        """The upstream when there is nothing to choose."""
        self.mirrors = tuple((upstreams.get(mirror.name), mirror.share) for mirror in route.filters.mirrors)
        self.filtered = bool(route.filters)
        self.request_modifiers: tuple[HeaderModifier, ...] = route.filters.request_headers
        self.response_modifiers: tuple[HeaderModifier, ...] = route.filters.response_headers


class PeerPlan:
    """How a listener treats a peer that it believes, or one that it does not (product.md 3.8)."""

    __slots__ = ("_plain", "_rules", "believed", "taken", "traced")

    def __init__(self, rules: PeerRules, tracer: Tracer | None) -> None:
        self._rules = rules
        self._plain: dict[tuple[str, bytes], list[tuple[bytes, bytes]]] = {}
        self.believed = rules.believed
        self.taken = rules.taken | _TAKEN
        """Request fields that we read and write ourselves, lower case."""
        self.traced = self.taken if tracer is None else self.taken | tracer.fields(believed=rules.believed)
        """The same for a request that is traced."""

    def client_certificate(self, known: dict[bytes, bytes], element: bytes) -> bytes:
        """See PeerRules."""
        return self._rules.client_certificate(known, element)

    def forwarding(self, known: dict[bytes, bytes], client: str, host: bytes) -> list[tuple[bytes, bytes]]:
        """The forwarding lines for a request of `client` for `host`, from whose fields `known` was taken: a new list.

        Without any of them they are the same for every request of a client: kept, which is a fifth of the cost.
        """
        if known:
            return self._rules.apply(known, client.encode(), host)
        plain = self._plain.get((client, host))
        if plain is None:
            plain = self._rules.apply(known, client.encode(), host)
            if len(self._plain) >= _PEER_CACHE:
                self._plain.clear()
            self._plain[client, host] = plain
        return plain.copy()


class PeerPlans:
    """The plans for the peers of a listener whose connections are all secured, or all not."""

    __slots__ = ("_forwarded", "_peers", "_plans", "_tracer")

    def __init__(self, forwarded: ForwardedPolicy, tracer: Tracer | None) -> None:
        self._forwarded = forwarded
        self._tracer = tracer
        self._plans: dict[PeerRules, PeerPlan] = {}
        self._peers: dict[str, PeerPlan] = {}

    def of(self, address: str) -> PeerPlan:
        """The plan for a peer's address ("unix" for a unix socket)."""
        known = self._peers.get(address)
        if known is None:
            rules = self._forwarded.for_peer(None if address == "unix" else ip_address(address.partition("%")[0]))
            known = self._plans.setdefault(rules, PeerPlan(rules, self._tracer))
            if len(self._peers) < _PEER_CACHE:
                self._peers[address] = known
        return known


class ListenerPlan:
    """A listener's router and its rules about peers: `plain` for connections in the clear, `secure` for those with TLS.

    Both, because a reload that turns TLS on or off leaves the connections that are open as they are.
    """

    __slots__ = ("listener", "plain", "router", "secure", "tracer")

    def __init__(self, listener: Listener, router: Router[RoutePlan], tracer: Tracer | None) -> None:
        self.listener = listener
        self.router = router
        self.tracer = tracer
        """None while tracing is off."""
        mode, trusted = listener.forwarded, listener.trusted_proxies
        certified = listener.tls is not None and listener.tls.client_ca is not None
        self.plain = PeerPlans(ForwardedPolicy(mode, trusted, b"http", certified=certified), tracer)
        self.secure = PeerPlans(ForwardedPolicy(mode, trusted, b"https", certified=certified), tracer)


class Plan:
    """What every new exchange is decided by. Replaced whole; exchanges in flight keep theirs."""

    __slots__ = ("listeners", "snapshot")

    def __init__(self, snapshot: Snapshot, listeners: dict[str, ListenerPlan]) -> None:
        self.snapshot = snapshot
        self.listeners = listeners


def make_plan(snapshot: Snapshot, upstreams: Upstreams, tracer: Tracer | None = None) -> Plan:
    """The plan of `snapshot`, at once."""
    return at_once(plan_in_slices(snapshot, upstreams, tracer))


def plan_in_slices(snapshot: Snapshot, upstreams: Upstreams, tracer: Tracer | None = None) -> Slices[Plan]:
    """The same in small steps: 5,000 routes take longer than a request may wait."""
    routers = yield from routers_in_slices(_rules(snapshot, upstreams), [listener.name for listener in snapshot.listeners])
    return Plan(snapshot, {listener.name: ListenerPlan(listener, routers[listener.name], tracer) for listener in snapshot.listeners})


def _rules(snapshot: Snapshot, upstreams: Upstreams) -> Iterator[tuple[Route, RoutePlan]]:
    """One by one as they are asked for, compiled too: there a generator expression makes them all at once."""
    for route in snapshot.routes:
        yield route, RoutePlan(route, upstreams)
