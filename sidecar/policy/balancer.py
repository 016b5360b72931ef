"""Load balancing: which endpoint the next try goes to. One balancer per upstream; it lives as long as the upstream.

Every policy takes only healthy endpoints with a weight, and prefers those that this request has not tried.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate
from math import exp
from typing import Final

from sidecar.model.endpoint import Endpoint, EndpointState
from sidecar.model.snapshot import Balancing, LoadBalancer
from sidecar.policy.hashing import Ring, hash_key

__all__ = ["Balancer", "hash_key", "make_balancer"]

_HEALTHY: Final = EndpointState.HEALTHY

DECAY: Final = 10.0
"""Seconds in which PeakEWMA forgets two thirds of a peak."""
_FAILURE: Final = 1.0
"""Seconds that a failed try counts as at least, so that an endpoint that fails fast does not look fast."""
_UNPROVEN: Final = 1000.0
"""Cost of an endpoint whose first response is still awaited: one request is a fair trial, more are a gamble."""

Random = Callable[[], float]


def eligible(endpoints: Sequence[Endpoint], exclude: Collection[Endpoint]) -> list[Endpoint]:
    """The healthy ones, without the tried ones unless there are no others."""
    healthy = [endpoint for endpoint in endpoints if endpoint.state is _HEALTHY and endpoint.weight > 0]
    if not exclude:
        return healthy
    return [endpoint for endpoint in healthy if endpoint not in exclude] or healthy


class Draw:
    """Draws endpoints in proportion to their weights; in constant time when these are equal."""

    __slots__ = ("_bounds", "_endpoints", "_total", "count")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = [endpoint for endpoint in endpoints if endpoint.weight > 0]
        self.count = len(self._endpoints)
        """Endpoints that can be drawn at all."""
        weights = [endpoint.weight for endpoint in self._endpoints]
        self._total = sum(weights)
        self._bounds = None if len(set(weights)) <= 1 else tuple(accumulate(weights))

    @property
    def weighted(self) -> bool:
        """Whether weights differ."""
        return self._bounds is not None

    def one(self, random: Random) -> Endpoint:
        """One endpoint. Only when `count` is not 0."""
        if self._bounds is None:
            return self._endpoints[int(random() * self.count)]
        return self._endpoints[bisect_right(self._bounds, random() * self._total)]

    def two(self, random: Random) -> tuple[Endpoint, Endpoint]:
        """Two different endpoints, the second drawn from the rest. Only when `count` is 2 or more."""
        endpoints = self._endpoints
        if self._bounds is None:
            first = int(random() * self.count)
            second = int(random() * (self.count - 1))
            return endpoints[first], endpoints[second + (second >= first)]
        first = bisect_right(self._bounds, random() * self._total)
        weight = endpoints[first].weight
        place = random() * (self._total - weight)
        if place >= self._bounds[first] - weight:  # step over the first one's share
            place += weight
        return endpoints[first], endpoints[min(bisect_right(self._bounds, place), self.count - 1)]


class Balancer(ABC):
    """Chooses endpoints. `random` returns floats in [0, 1), `now` is monotonic seconds."""

    __slots__ = ()

    @abstractmethod
    def pick(self, endpoints: Sequence[Endpoint], random: Random, now: float, key: bytes, exclude: Collection[Endpoint]) -> Endpoint | None:
        """The endpoint for a try; None when none is healthy.

        Pass a tuple that is replaced when the set or a weight changes: what is computed from it is kept for as long as
        it is the same object. Any other sequence is looked through at each call. `key`: `hash_key`, used by
        ConsistentHash only. `exclude`: endpoints that this request has tried.
        """

    def finished(self, endpoint: Endpoint, seconds: float, now: float, *, failed: bool = False) -> None:  # noqa: B027 - most policies learn nothing
        """A try at `endpoint` took `seconds` until its response's head (or its failure)."""


class RandomChoice(Balancer):
    """Random, by weight."""

    __slots__ = ("_draw", "_seen")

    def __init__(self) -> None:
        self._seen: Sequence[Endpoint] = ()
        self._draw = Draw(())

    def pick(self, endpoints: Sequence[Endpoint], random: Random, now: float, key: bytes, exclude: Collection[Endpoint]) -> Endpoint | None:  # noqa: ARG002
        """See Balancer. Looks at every endpoint only when the first one drawn will not do."""
        if not exclude and (draw := self._draw_from(endpoints)).count:
            endpoint = draw.one(random)
            if endpoint.state is _HEALTHY:
                return endpoint
        draw = Draw(eligible(endpoints, exclude))
        return draw.one(random) if draw.count else None

    def _draw_from(self, endpoints: Sequence[Endpoint]) -> Draw:
        if endpoints is not self._seen or type(endpoints) is not tuple:
            self._seen, self._draw = endpoints, Draw(endpoints)
        return self._draw


class LeastRequest(RandomChoice):
    """Power of two choices: of two endpoints drawn by weight, the one with fewer requests in flight per weight.

    Two choices are almost as good as looking at all, cost the same with a thousand endpoints, and do not make every
    client run to the same idle endpoint (Mitzenmacher 2001).
    """

    __slots__ = ()

    def pick(self, endpoints: Sequence[Endpoint], random: Random, now: float, key: bytes, exclude: Collection[Endpoint]) -> Endpoint | None:  # noqa: ARG002
        """See Balancer."""
        if len(endpoints) == 1:  # the usual sidecar: its application
            only = endpoints[0]
            return only if only.state is _HEALTHY and only.weight > 0 else None
        if not exclude and (draw := self._draw_from(endpoints)).count > 1:
            first, second = self._two(draw, random)
            if first.state is _HEALTHY and second.state is _HEALTHY:
                return self._better(first, second, now)
        choices = eligible(endpoints, exclude)
        if len(choices) < 2:
            return choices[0] if choices else None
        return self._better(*self._two(Draw(choices), random), now)

    def _two(self, draw: Draw, random: Random) -> tuple[Endpoint, Endpoint]:
        return draw.two(random)

    def _better(self, first: Endpoint, second: Endpoint, now: float) -> Endpoint:  # noqa: ARG002 - PeakEWMA's needs it
        return first if first.active * second.weight <= second.active * first.weight else second


class PeakEWMA(LeastRequest):
    """Power of two choices by expected wait: moving average of response times x requests in flight.

    Peak-sensitive as in Finagle: a response slower than the average becomes the average at once, a faster one lowers
    it little by little, over DECAY seconds; without responses it fades, so that a slow endpoint is tried again.
    """

    __slots__ = ()

    def finished(self, endpoint: Endpoint, seconds: float, now: float, *, failed: bool = False) -> None:
        """See Balancer."""
        seen = max(seconds, _FAILURE) if failed else seconds
        average = endpoint.ewma
        if seen < average:
            kept = exp((endpoint.ewma_at - now) / DECAY)
            seen = average * kept + seen * (1 - kept)
        endpoint.ewma, endpoint.ewma_at = seen, now

    def _two(self, draw: Draw, random: Random) -> tuple[Endpoint, Endpoint]:
        # Response times never tie, so weights must show in who is drawn: independently, perhaps the same one twice.
        return (draw.one(random), draw.one(random)) if draw.weighted else draw.two(random)

    def _better(self, first: Endpoint, second: Endpoint, now: float) -> Endpoint:
        return first if _cost(first, now) <= _cost(second, now) else second


def _cost(endpoint: Endpoint, now: float) -> float:
    """Seconds that one more request may expect."""
    average = endpoint.ewma
    if average == 0.0:
        return _UNPROVEN + endpoint.active if endpoint.active else 0.0
    return average * exp((endpoint.ewma_at - now) / DECAY) * (1 + endpoint.active / endpoint.weight)


class RoundRobin(Balancer):
    """In turn. With weights: smoothly, so that 3:1 gives a a b a, never a a a b in one burst."""

    __slots__ = ("_credit", "_equal", "_seen", "_spare", "_turn")

    def __init__(self) -> None:
        self._seen: Sequence[Endpoint] = ()
        self._equal = True
        self._turn = -1
        """-1: not begun. The first turn is random, so that many sidecars do not begin with the same endpoint."""
        self._spare = 0
        self._credit: dict[Endpoint, int] = {}

    def pick(self, endpoints: Sequence[Endpoint], random: Random, now: float, key: bytes, exclude: Collection[Endpoint]) -> Endpoint | None:  # noqa: ARG002
        """See Balancer."""
        if endpoints is not self._seen or type(endpoints) is not tuple:
            self._take_over(endpoints)
        if not self._equal:
            return self._by_credit(eligible(endpoints, exclude))
        if not endpoints:
            return None
        if self._turn < 0:
            self._turn = int(random() * len(endpoints))
        endpoint = endpoints[self._turn % len(endpoints)]
        self._turn += 1
        if endpoint.state is _HEALTHY and endpoint.weight and endpoint not in exclude:
            return endpoint
        choices = eligible(endpoints, exclude)
        if not choices:
            return None
        self._spare += 1  # who stands in takes turns too; else the next in line would get a double share
        return choices[self._spare % len(choices)]

    def _take_over(self, endpoints: Sequence[Endpoint]) -> None:
        self._seen = endpoints
        self._equal = len({endpoint.weight for endpoint in endpoints}) <= 1
        self._credit = {} if self._equal else {endpoint: self._credit.get(endpoint, 0) for endpoint in endpoints}

    def _by_credit(self, choices: list[Endpoint]) -> Endpoint | None:
        """Each gains its weight, the richest goes and pays what all have gained (the smooth algorithm of nginx)."""
        credit = self._credit
        best, gained, most = None, 0, 0
        for endpoint in choices:
            gained += endpoint.weight
            has = credit[endpoint] = credit[endpoint] + endpoint.weight
            if best is None or has > most:
                best, most = endpoint, has
        if best is not None:
            credit[best] -= gained
        return best


class ConsistentHash(RandomChoice):
    """The same key goes to the same endpoint, on every sidecar, and stays there when others come and go.

    When the owner is not healthy the key goes to the next on the ring until it is. Without a key: Random.
    """

    __slots__ = ("_ring", "_ring_of")

    def __init__(self) -> None:
        super().__init__()
        self._ring = Ring(())
        self._ring_of: Sequence[Endpoint] = ()

    def pick(self, endpoints: Sequence[Endpoint], random: Random, now: float, key: bytes, exclude: Collection[Endpoint]) -> Endpoint | None:
        """See Balancer."""
        if not key:
            return super().pick(endpoints, random, now, key, exclude)
        if endpoints is not self._ring_of or type(endpoints) is not tuple:
            self._ring = self._ring.updated(endpoints)
            self._ring_of = endpoints
        owner = self._ring.owner(key)
        if owner is None or (owner.state is _HEALTHY and owner not in exclude):
            return owner
        choices = eligible(endpoints, exclude)
        return self._ring.owner_among(key, choices) if choices else None


_POLICIES: Final[dict[Balancing, type[Balancer]]] = {
    Balancing.ROUND_ROBIN: RoundRobin,
    Balancing.LEAST_REQUEST: LeastRequest,
    Balancing.RANDOM: RandomChoice,
    Balancing.PEAK_EWMA: PeakEWMA,
    Balancing.CONSISTENT_HASH: ConsistentHash,
}


def make_balancer(policy: LoadBalancer) -> Balancer:
    """A fresh balancer for an upstream."""
    return _POLICIES[policy.policy]()
