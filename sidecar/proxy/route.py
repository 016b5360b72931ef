"""Stage route: which rule, which upstream, which clocks."""

from __future__ import annotations

from random import random
from typing import Final, Protocol

from sidecar.errors import ProxyError
from sidecar.model.exchange import State
from sidecar.model.reason import Clock, Reason
from sidecar.model.snapshot import AllowEntry, Mode, Timeouts
from sidecar.policy.deadline_header import parse_timeout
from sidecar.protocol.target import split_authority
from sidecar.proxy.flight import Flight
from sidecar.proxy.plan import Plan
from sidecar.proxy.states import move
from sidecar.upstream.base import UpstreamRuntime

_CONNECT_PATH: Final = b"/"
_DEFAULT_PORT: Final = 80
_ROUTED: Final = State.ROUTED
_COLON: Final = 0x3A
"""As a number: looking for b":" in bytes raises and catches an error inside the interpreter first."""


class Upstreams(Protocol):
    """Where the implicit upstream of allowed destinations comes from (upstream/registry.py)."""

    async def forward(self, host: str, port: int, allow: tuple[AllowEntry, ...]) -> UpstreamRuntime:
        """The upstream for one allowed destination. Raises ProxyError 403, or a DNS error."""
        ...


def find_upstream(flight: Flight) -> bool:
    """Set the flight's rule, upstream and clocks (product.md 3.1); False when only `allow` can say where it goes.

    Raises ProxyError NO_ROUTE when nothing matches.
    """
    head = flight.exchange.head
    host = head.host
    if _COLON in host:
        host = split_authority(host, 0)[0]
    rule = flight.plan.router.match(host, head.path or _CONNECT_PATH, head.method, head.fields)
    move(flight.exchange, _ROUTED)
    if rule is not None:
        flight.rule = rule
        flight.exchange.route = rule.route
        start_clocks(flight, rule.route.timeouts)
        if rule.route.filters.redirect is None:
            _use(flight, rule.payload.only or rule.payload.choice.pick(random))
        return True
    if flight.plan.listener.mode is Mode.FORWARD and (head.scheme or head.method == b"CONNECT"):
        return False
    raise ProxyError(Reason.NO_ROUTE)


async def find_destination(flight: Flight, plan: Plan, upstreams: Upstreams) -> None:
    """The implicit upstream of an allowed destination. Raises ProxyError 403 when it is not allowed."""
    head = flight.exchange.head
    if head.scheme == b"https":
        raise ProxyError(Reason.HTTP_REQUEST_DENIED, "an https target would leave us in the clear: CONNECT is the way")
    host, port = split_authority(head.host, _DEFAULT_PORT)
    start_clocks(flight, plan.snapshot.default_timeouts)
    _use(flight, await upstreams.forward(host.decode(), port, flight.plan.listener.allow))


def _use(flight: Flight, upstream: UpstreamRuntime | None) -> None:
    if upstream is None:
        raise ProxyError(Reason.DESTINATION_NOT_FOUND, "the route has no backend with a weight above 0")
    flight.upstream = upstream
    flight.exchange.upstream = upstream.config


def start_clocks(flight: Flight, timeouts: Timeouts) -> None:
    """The `request` clock runs from the request's head on; a believed caller's own deadline can only shorten it."""
    deadlines = flight.deadlines
    exchange = flight.exchange
    deadlines.timeouts = timeouts
    started = exchange.started_at
    deadlines.idle, deadlines.moved_at = timeouts.stream_idle, started
    if timeouts.request:
        deadlines.request_at = started + timeouts.request
    given = flight.known.get(b"x-request-timeout-ms")
    if given is not None and exchange.peer_trusted and (seconds := parse_timeout(given)) is not None:
        deadlines.shorten_request(started + seconds)
        if not seconds:  # spent before it came: nothing is sent that nobody waits for
            raise ProxyError(Reason.REQUEST_TIMEOUT, clock=Clock.REQUEST)
