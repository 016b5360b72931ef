"""Metrics: counts what happens. The names and labels are the table of interface.md section 4; families.py renders them.

Label values come from the configuration or from closed lists, never from a peer, so the number of series is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from sidecar.model.exchange import Attempt, Exchange
from sidecar.model.reason import Reason, Rejection
from sidecar.model.snapshot import Snapshot
from sidecar.model.telemetry import DEFAULT_BUCKETS
from sidecar.model.tls import Handshake
from sidecar.observe.base import SilentObserver, TrafficKey, response_seconds, status_of, traffic_key
from sidecar.observe.series import Exemplar, Histogram, Table, add, pairs

METHODS: Final = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY")}
OTHER: Final = "_OTHER"
FORWARD: Final = "forward"
"""The implicit upstream of Forward listeners (product.md 3.1)."""
MAX_OUTCOMES: Final = 256
"""Combinations of method, code and reason that one series tells apart; an upstream may invent 900 status codes."""

Outcome = tuple[str, int, Reason | None]
"""(method, status, reason); status 0 is shown as `_OTHER`."""


class Traffic:
    """What is counted by (listener, route, upstream)."""

    __slots__ = ("bytes_in", "bytes_out", "durations", "labels", "requests")

    def __init__(self, key: TrafficKey, bounds: tuple[float, ...]) -> None:
        self.labels = pairs(listener=key[0], route=key[1], upstream=key[2])
        self.requests: dict[Outcome, int] = {}
        self.durations = Histogram(bounds)
        self.bytes_in = 0
        self.bytes_out = 0

    def count(self, outcome: Outcome) -> None:
        """One more request; what is too varied to tell apart goes together."""
        requests = self.requests
        if outcome not in requests and len(requests) >= MAX_OUTCOMES:
            outcome = (outcome[0], 0, outcome[2])
        requests[outcome] = requests.get(outcome, 0) + 1


class Trouble:
    """What is counted by (route, upstream), when something went wrong."""

    __slots__ = ("labels", "retries", "skipped", "timeouts")

    def __init__(self, key: tuple[str, str]) -> None:
        self.labels = pairs(route=key[0], upstream=key[1])
        self.retries: dict[str, int] = {}
        self.skipped: dict[str, int] = {}
        self.timeouts: dict[str, int] = {}


class Door:
    """What is counted by listener."""

    __slots__ = ("active", "connections", "connections_total", "handshakes", "labels", "rejected", "tunnels")

    def __init__(self, listener: str) -> None:
        self.labels = pairs(listener=listener)
        self.active = 0
        self.tunnels = 0
        self.connections = 0
        self.connections_total = 0
        self.rejected: dict[str, int] = {}
        self.handshakes: dict[str, int] = {}

    def busy(self) -> bool:
        """Whether a gauge is not at zero."""
        return bool(self.active or self.connections or self.tunnels)


class Far:
    """What is counted by upstream."""

    __slots__ = ("connect_times", "connects", "labels", "outcomes", "responses")

    def __init__(self, upstream: str, bounds: tuple[float, ...]) -> None:
        self.labels = pairs(upstream=upstream)
        self.outcomes: dict[str, int] = {}
        self.responses = Histogram(bounds)
        self.connects: dict[str, int] = {}
        self.connect_times = Histogram(bounds)


class Metrics(SilentObserver):
    """The observer that counts.

    `clock` is monotonic seconds, for forgetting series of what is no longer configured; `wall` is Unix seconds, for exemplars.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._bounds: tuple[float, ...] = DEFAULT_BUCKETS
        self._names: tuple[frozenset[str], frozenset[str], frozenset[str]] | None = None
        self._tunnels: set[Exchange] = set()
        self.traffic: Table[TrafficKey, Traffic] = Table(lambda key: Traffic(key, self._bounds), self._has_traffic, _never, clock)
        self.trouble: Table[tuple[str, str], Trouble] = Table(Trouble, lambda key: self._has("", *key), _never, clock)
        self.doors: Table[str, Door] = Table(Door, lambda name: self._has(name, "", ""), Door.busy, clock)
        self.far: Table[str, Far] = Table(lambda name: Far(name, self._bounds), lambda name: self._has("", "", name), _never, clock)

    def exchange_started(self, exchange: Exchange) -> None:
        """One more in flight."""
        self.doors[exchange.listener.name].active += 1

    def attempt_finished(self, exchange: Exchange, attempt: Attempt) -> None:
        """Counts the outcome and, when it got that far, the time to the response's head."""
        upstream = exchange.upstream
        far = self.far["" if upstream is None else upstream.name]
        # The pipeline names every outcome; one without is a fault of ours and shows as that.
        outcome = attempt.outcome or Reason.PROXY_INTERNAL_ERROR.value
        far.outcomes[outcome] = far.outcomes.get(outcome, 0) + 1
        seconds = response_seconds(attempt)
        if seconds is not None:
            far.responses.observe(seconds)
            if exchange.trace is not None:
                self._exemplify(far.responses, exchange, seconds, attempt.span_id)
        if attempt.clock is not None:
            add(self._trouble_of(exchange).timeouts, attempt.clock.value)

    def exchange_finished(self, exchange: Exchange) -> None:
        """Counts the request, its bytes and its duration (a tunnel's life is not a response time and is left out)."""
        key = traffic_key(exchange)
        self.doors[key[0]].active -= 1
        series = self.traffic[key]
        outcome = (METHODS.get(exchange.head.method, OTHER), exchange.status or status_of(exchange), exchange.reason)
        requests = series.requests
        if outcome in requests:
            requests[outcome] += 1
        else:
            series.count(outcome)
        series.bytes_in += exchange.bytes_in
        series.bytes_out += exchange.bytes_out
        if exchange.tunnel:
            self._tunnel_ended(exchange)
        else:
            seconds = exchange.ended_at - exchange.started_at
            series.durations.observe(seconds)
            if exchange.trace is not None:
                self._exemplify(series.durations, exchange, seconds)
        if len(exchange.attempts) > 1 or exchange.retries_skipped or exchange.clock is not None:
            self._count_trouble(exchange)

    def message_rejected(self, listener: str, kind: Rejection) -> None:
        """Counts the rule that was broken."""
        add(self.doors[listener].rejected, kind.value)

    def connection_opened(self, listener: str) -> None:
        """One more client."""
        door = self.doors[listener]
        door.connections += 1
        door.connections_total += 1

    def connection_closed(self, listener: str) -> None:
        """One client less."""
        self.doors[listener].connections -= 1

    def handshake_finished(self, listener: str, result: Handshake) -> None:
        """See Observer."""
        add(self.doors[listener].handshakes, result.value)

    def tunnel_started(self, exchange: Exchange) -> None:
        """One more tunnel; counted off at the exchange's end."""
        self._tunnels.add(exchange)
        self.doors[exchange.listener.name].tunnels += 1

    def config_applied(self, snapshot: Snapshot) -> None:
        """Forgets the series of what is gone; new bucket bounds start every histogram anew (a counter reset).

        Listeners have their series at once: a rate needs a zero to begin at.
        """
        self._names = (
            frozenset(["", *(listener.name for listener in snapshot.listeners)]),
            frozenset(["", *(route.name for route in snapshot.routes)]),
            frozenset(["", FORWARD, *snapshot.upstreams]),
        )
        for table in (self.traffic, self.trouble, self.doors, self.far):
            table.retain_known()
        if snapshot.telemetry.buckets != self._bounds:
            self._change_bounds(snapshot.telemetry.buckets)
        for listener in snapshot.listeners:
            self.doors[listener.name]

    def upstream_connected(self, upstream: str, result: str, seconds: float) -> None:
        """Counts the result; the histogram shows what a connection costs, so failures are not in it."""
        far = self.far[upstream]
        add(far.connects, result)
        if result == "success":
            far.connect_times.observe(max(seconds, 0.0))

    def sweep(self) -> None:
        """Before rendering: forget late series whose time is over."""
        for table in (self.traffic, self.trouble, self.doors, self.far):
            table.sweep()

    def _exemplify(self, histogram: Histogram, exchange: Exchange, seconds: float, attempt: int = 0) -> None:
        """`attempt`: the span that the time is of; 0: the exchange's own."""
        trace = exchange.trace
        if trace is not None and trace.sampled:
            span = f"{attempt:016x}" if attempt else trace.span_id
            histogram.exemplify(Exemplar(trace.trace_id, span, seconds, self._wall()))

    def _count_trouble(self, exchange: Exchange) -> None:
        trouble = self._trouble_of(exchange)
        attempts = exchange.attempts
        for failed in attempts[:-1]:
            add(trouble.retries, failed.outcome or Reason.PROXY_INTERNAL_ERROR.value)
        if exchange.retries_skipped:
            add(trouble.skipped, exchange.retries_skipped)
        # A clock that ended the last attempt too has been counted with it.
        if exchange.clock is not None and (not attempts or attempts[-1].clock is not exchange.clock):
            add(trouble.timeouts, exchange.clock.value)

    def _trouble_of(self, exchange: Exchange) -> Trouble:
        _, route, upstream = traffic_key(exchange)
        return self.trouble[route, upstream]

    def _tunnel_ended(self, exchange: Exchange) -> None:
        # `tunnel` may be set on an exchange whose upgrade failed before it became one.
        if exchange in self._tunnels:
            self._tunnels.discard(exchange)
            self.doors[exchange.listener.name].tunnels -= 1

    def _change_bounds(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        for series in self.traffic.values():
            series.durations = Histogram(bounds)
        for far in self.far.values():
            far.responses, far.connect_times = Histogram(bounds), Histogram(bounds)

    def _has_traffic(self, key: TrafficKey) -> bool:
        return self._has(*key)

    def _has(self, listener: str, route: str, upstream: str) -> bool:
        if self._names is None:
            return True
        listeners, routes, upstreams = self._names
        return listener in listeners and route in routes and upstream in upstreams


def _never(_: object) -> bool:
    return False
