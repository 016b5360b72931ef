"""Cited settings: what the configuration of the time said about how a request ended, and where it said so.

A record of the flight recorder outlives the configuration that it happened under, so paths, values and lines are
written down as text when it is made. Failures come in crowds that look alike: what they cite is worked out once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from sidecar.model.exchange import Exchange
from sidecar.model.quantity import format_duration
from sidecar.model.reason import Clock, Reason
from sidecar.model.snapshot import Listener, RetryPolicy, Route, Snapshot, Timeouts, Upstream

REMEMBERED: Final = 1024
"""Different combinations of route, upstream and outcome; thousands of routes may fail at once."""

Origin = Callable[[str], str]
"""Path in the document -> `line 14`, `defaults (line 40)` or `built-in`."""


class Setting(NamedTuple):
    """`routes[2].timeouts.responseHeader`, `1s`, `line 14`."""

    path: str
    value: str
    origin: str


class Source(NamedTuple):
    """A configuration and where its values come from."""

    name: str
    """`file`, `configmap` or `last_good`."""
    snapshot: Snapshot
    origin: Origin


_ROUTE_CLOCKS: Final = {
    Clock.REQUEST: "request",
    Clock.BACKEND_REQUEST: "backend_request",
    Clock.QUEUE: "queue",
    Clock.RESPONSE_HEADER: "response_header",
    Clock.STREAM_IDLE: "stream_idle",
    Clock.TUNNEL_IDLE: "tunnel_idle",
    Clock.UPGRADE_HANDSHAKE: "upgrade_handshake",
}
_LISTENER_CLOCKS: Final = {Clock.HEADER: "header_timeout", Clock.BODY_IDLE: "body_idle_timeout"}


class Cited:
    """Answers for one configuration."""

    def __init__(self, source: Source) -> None:
        self.source = source
        snapshot = source.snapshot
        self._listeners = {listener.name: f"listeners[{index}]" for index, listener in enumerate(snapshot.listeners)}
        self._upstreams = {name: f"upstreams[{index}]" for index, name in enumerate(snapshot.upstreams)}
        self._known: dict[tuple[object, ...], tuple[Setting, ...]] = {}

    def by(self, exchange: Exchange) -> tuple[Setting, ...]:
        """What the exchange's end has to do with: its route and upstream, the clock that fired, the limit that was hit."""
        route, upstream = exchange.route, exchange.upstream
        key = (
            exchange.listener.name,
            -1 if route is None else route.index,
            "" if upstream is None else upstream.name,
            exchange.clock,
            exchange.reason,
            exchange.retries_skipped,
            len(exchange.attempts) > 1,
        )
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            origin = self.source.origin
            found = self._known[key] = tuple(Setting(path, value, origin(path)) for path, value in dict(self._settings(exchange)).items())
        return found

    def _settings(self, exchange: Exchange) -> Iterator[tuple[str, str]]:
        route, upstream = exchange.route, exchange.upstream
        rule = "" if route is None else f"routes[{route.index}]"
        if route is not None:
            yield rule, route.name
        place = "" if upstream is None else self._upstreams.get(upstream.name, "")
        if upstream is not None and place:
            yield place, upstream.name
        door = self._listeners.get(exchange.listener.name, "")
        timeouts = self.source.snapshot.default_timeouts if route is None else route.timeouts
        clocks = dict.fromkeys(clock for clock in (exchange.clock, *(tried.clock for tried in exchange.attempts)) if clock is not None)
        for clock in clocks:
            yield from _clock(
                clock, timeouts, f"{rule}.timeouts" if rule else "defaults.timeouts", upstream, place, exchange.listener, door
            )
        if exchange.reason is not None:
            yield from _limits(exchange.reason, exchange.listener, door, upstream, place)
        if route is not None and (len(exchange.attempts) > 1 or exchange.retries_skipped):
            yield from _retries(route, rule, exchange.retries_skipped, upstream, place)
        if exchange.reason is Reason.DRAINING:
            yield "lifecycle.drainDelay", _duration(self.source.snapshot.lifecycle.drain_delay)
            yield "lifecycle.drainTimeout", _duration(self.source.snapshot.lifecycle.drain_timeout)


def _clock(
    clock: Clock, timeouts: Timeouts, path: str, upstream: Upstream | None, place: str, listener: Listener, door: str
) -> Iterator[tuple[str, str]]:
    if clock in _ROUTE_CLOCKS:
        yield f"{path}.{clock.value}", _duration(getattr(timeouts, _ROUTE_CLOCKS[clock]))
    elif clock in _LISTENER_CLOCKS and door:
        yield f"{door}.{clock.value}", _duration(getattr(listener, _LISTENER_CLOCKS[clock]))
    elif clock is Clock.CONNECT and upstream is not None and place:
        yield f"{place}.connectTimeout", _duration(upstream.connect_timeout)


def _limits(reason: Reason, listener: Listener, door: str, upstream: Upstream | None, place: str) -> Iterator[tuple[str, str]]:
    """The limits that make for a reason."""
    if door and reason is Reason.REQUEST_TOO_LARGE:
        yield f"{door}.maxRequestBody", _bytes(listener.max_request_body)
    elif door and reason is Reason.HEADER_SECTION_TOO_LARGE:
        yield f"{door}.maxHeaderBytes", _bytes(listener.max_header_bytes)
        yield f"{door}.maxHeaderCount", str(listener.max_header_count)
    elif door and reason is Reason.URI_TOO_LONG:
        yield f"{door}.maxTargetBytes", _bytes(listener.max_target_bytes)
    elif door and reason in (Reason.HTTP_REQUEST_DENIED, Reason.DESTINATION_IP_PROHIBITED):
        yield f"{door}.allow", f"{len(listener.allow)} entries"
    elif upstream is not None and place and reason in (Reason.OVERLOADED, Reason.CONNECTION_LIMIT_REACHED):
        pool = upstream.pool
        yield f"{place}.connectionPool.maxConnections", _count(pool.max_connections)
        yield f"{place}.connectionPool.maxPendingRequests", _count(pool.max_pending_requests)
        yield f"{place}.connectionPool.maxRequests", _count(pool.max_requests)


def _retries(route: Route, rule: str, skipped: str, upstream: Upstream | None, place: str) -> Iterator[tuple[str, str]]:
    policy: RetryPolicy | None = route.retry
    yield f"{rule}.retry", "none" if policy is None else f"{policy.attempts} retries"
    if skipped == "budget" and upstream is not None and place:
        budget = upstream.retry_budget
        yield f"{place}.retryBudget.percent", f"{budget.percent:g}"
        yield f"{place}.retryBudget.minRetryRate", f"{budget.min_retries} per {_duration(budget.min_interval)}"
    elif skipped == "body" and policy is not None:
        yield f"{rule}.retry.maxBufferedBody", _bytes(policy.max_buffered_body)
    elif skipped == "method" and policy is not None:
        yield f"{rule}.retry.methods", policy.methods.value
    elif skipped == "time":
        yield f"{rule}.timeouts.request", _duration(route.timeouts.request)


def _duration(seconds: float) -> str:
    return format_duration(seconds) if seconds else "off"


def _bytes(count: int) -> str:
    return f"{count} bytes" if count else "unlimited"


def _count(count: int) -> str:
    return str(count) if count else "unlimited"
