"""A snapshot made ready for the hot path: routers per listener, routes bound to the upstreams that run now."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final, Protocol

from sidecar.model.snapshot import HeaderModifier, Listener, Route, Snapshot
from sidecar.policy.backends import WeightedChoice
from sidecar.policy.router import Router, routers_in_slices
from sidecar.policy.slices import Slices, at_once
from sidecar.protocol.forwarded import ForwardedPolicy, PeerRules
from sidecar.upstream.runtime import UpstreamRuntime

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

    __slots__ = ("choice", "only", "request_modifiers", "response_modifiers", "route")

    def __init__(self, route: Route, upstreams: Upstreams) -> None:
        self.route = route
        backends = [(upstreams.get(backend.name), backend.weight) for backend in route.backends]
        self.choice: WeightedChoice[UpstreamRuntime] = WeightedChoice(backends)
        self.only = backends[0][0] if len(backends) == 1 and backends[0][1] > 0 else None
        """The upstream when there is nothing to choose."""
        self.request_modifiers: tuple[HeaderModifier, ...] = route.filters.request_headers
        self.response_modifiers: tuple[HeaderModifier, ...] = route.filters.response_headers


class PeerPlan:
    """How a listener treats a peer that it believes, or one that it does not (product.md 3.8)."""

    __slots__ = ("_plain", "_rules", "believed", "taken")

    def __init__(self, rules: PeerRules) -> None:
        self._rules = rules
        self._plain: dict[tuple[str, bytes], list[tuple[bytes, bytes]]] = {}
        self.believed = rules.believed
        self.taken = rules.taken | _TAKEN
        """Request fields that we read and write ourselves, lower case."""

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


class ListenerPlan:
    """A listener's router and its rules about peers."""

    __slots__ = ("_forwarded", "_peers", "_plans", "listener", "router")

    def __init__(self, listener: Listener, router: Router[RoutePlan]) -> None:
        self.listener = listener
        self.router = router
        self._forwarded = ForwardedPolicy(listener.forwarded, listener.trusted_proxies)
        self._plans: dict[PeerRules, PeerPlan] = {}
        self._peers: dict[str, PeerPlan] = {}

    def peer(self, address: str) -> PeerPlan:
        """The plan for a peer's address ("unix" for a unix socket)."""
        known = self._peers.get(address)
        if known is None:
            rules = self._forwarded.for_peer(None if address == "unix" else ip_address(address.partition("%")[0]))
            known = self._plans.setdefault(rules, PeerPlan(rules))
            if len(self._peers) < _PEER_CACHE:
                self._peers[address] = known
        return known


class Plan:
    """What every new exchange is decided by. Replaced whole; exchanges in flight keep theirs."""

    __slots__ = ("listeners", "snapshot")

    def __init__(self, snapshot: Snapshot, upstreams: Upstreams) -> None:
        at_once(self._prepare(snapshot, upstreams))

    @classmethod
    def in_slices(cls, snapshot: Snapshot, upstreams: Upstreams) -> Slices[Plan]:
        """The same in small steps: 5,000 routes take longer than a request may wait."""
        plan = cls.__new__(cls)
        yield from plan._prepare(snapshot, upstreams)
        return plan

    def _prepare(self, snapshot: Snapshot, upstreams: Upstreams) -> Slices[None]:
        self.snapshot = snapshot
        rules = ((route, RoutePlan(route, upstreams)) for route in snapshot.routes)
        routers = yield from routers_in_slices(rules, [listener.name for listener in snapshot.listeners])
        self.listeners = {listener.name: ListenerPlan(listener, routers[listener.name]) for listener in snapshot.listeners}
