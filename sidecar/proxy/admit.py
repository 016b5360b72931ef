"""Stages admit and check: a head becomes a flight, and what no configuration could permit is refused."""

from __future__ import annotations

from random import getrandbits
from time import monotonic

from sidecar.errors import ProxyError
from sidecar.http1.server_connection import ServerConnection
from sidecar.model.exchange import Exchange
from sidecar.model.head import RequestHead
from sidecar.model.reason import Reason
from sidecar.model.snapshot import Mode
from sidecar.protocol import max_forwards, via
from sidecar.protocol.hop_by_hop import sift
from sidecar.protocol.request_id import maker, valid
from sidecar.proxy.flight import Flight
from sidecar.proxy.plan import ListenerPlan
from sidecar.proxy.reply import ALLOWED, Reply

new_id = maker(getrandbits)
"""The process's source of ids."""


def admit(connection: ServerConnection, head: RequestHead, plan: ListenerPlan, revision: str) -> Flight:
    """Everything that an exchange starts with: who asks, which id it has, which fields stages will ask for."""
    exchange = Exchange(plan.listener, head, connection.peer, monotonic())
    exchange.revision = revision
    peer = (plan.secure if connection.secure else plan.plain).of(connection.peer)
    if connection.identity is not None:
        exchange.identity = connection.identity.name
    exchange.peer_trusted = trusted = peer.believed
    tracer = plan.tracer
    if tracer is None or tracer.excludes(head):
        fields, known = sift(head.fields, head.connection_tokens, peer.taken)
    else:
        fields, known = sift(head.fields, head.connection_tokens, peer.traced)
        exchange.trace = tracer.begin(known, believed=trusted)
        exchange.secured = connection.secured
    given = known.get(b"x-request-id")
    exchange.request_id = given if given is not None and trusted and valid(given) else new_id()
    return Flight(exchange, connection, plan, peer, fields, known)


def check(flight: Flight) -> Reply | None:
    """Refuse TRACE, misplaced CONNECT, loops and bodies that announce themselves as too long; answer OPTIONS whose `Max-Forwards` is used up (RFC 9110 section 7.6.2)."""
    head = flight.exchange.head
    method = head.method
    body = flight.connection.body
    if body is not None and body.error is not None:
        raise body.error
    if method == b"TRACE":
        raise ProxyError(Reason.HTTP_REQUEST_DENIED, "TRACE is refused: it would echo credentials", status=405)
    if method == b"CONNECT" and flight.plan.listener.mode is Mode.REVERSE:
        raise ProxyError(Reason.HTTP_REQUEST_DENIED, "CONNECT on a Reverse listener", status=405, reusable=False)
    if method == b"OPTIONS" and max_forwards.received(method, head.fields) == 0:
        return Reply(200, [ALLOWED, (b"x-request-id", flight.exchange.request_id)])
    if b"via" in flight.known and via.is_loop(flight.known[b"via"]):
        raise ProxyError(Reason.PROXY_LOOP_DETECTED, "the request has passed through us too often")
    return None
