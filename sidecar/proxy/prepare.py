"""Stages filter and prepare: the request as it will leave us (RFC 9110 sections 7.6 and 7.7, product.md 3.4 and 3.8)."""

from __future__ import annotations

from typing import Final

from sidecar.model.head import Field
from sidecar.model.outbound import OutboundRequest
from sidecar.policy.filters import modify, redirect_location, rewrite_target
from sidecar.protocol import max_forwards, via
from sidecar.protocol.forwarded import X_FORWARDED_CLIENT_CERT
from sidecar.protocol.hop_by_hop import accepts_trailers
from sidecar.protocol.target import split_authority
from sidecar.protocol.upgrade import forwardable
from sidecar.proxy.body import Kept, OutgoingBody
from sidecar.proxy.flight import Flight
from sidecar.proxy.reply import Reply

DEFAULT_KEPT: Final = 64 * 1024
"""Body bytes kept for the replay that is allowed without a `retry` stanza (product.md 3.3)."""


def redirect(flight: Flight) -> Reply | None:
    """The answer of a RequestRedirect filter, if the route has one (Gateway API HTTPRequestRedirectFilter)."""
    rule = flight.rule
    if rule is None or rule.route.filters.redirect is None:
        return None
    filter_ = rule.route.filters.redirect
    head = flight.exchange.head
    host, port = split_authority(head.host, 0)
    scheme = head.scheme.decode() or ("https" if flight.connection.secure else "http")
    location = redirect_location(filter_, scheme, host, port or None, head.path, rule.prefix)
    return Reply(filter_.status, [(b"Location", location), (b"x-request-id", flight.exchange.request_id)])


def prepare(flight: Flight, store: Kept) -> OutboundRequest:
    """The raw target and the client's fields, filters applied, and behind them the lines that are ours."""
    exchange = flight.exchange
    head = exchange.head
    fields, target = flight.fields, head.path
    rule = flight.rule
    if not head.host:
        fields = _with_host(fields, _fallback_host(flight))
    if rule is not None and rule.payload.filtered:
        fields, target = _filtered(flight, fields)
    if head.method == b"OPTIONS" and (left := max_forwards.received(head.method, fields)) is not None:
        fields = max_forwards.decremented(fields, left)
    known = flight.known
    own = flight.peer.forwarding(known, exchange.client, head.host)
    identity = flight.connection.identity
    if identity is not None and (value := flight.peer.client_certificate(known, identity.element)):
        own.append((X_FORWARDED_CLIENT_CERT, value))
    own.append((b"Via", via.append(known.get(b"via"), head.minor)))
    own.append((b"x-request-id", exchange.request_id))
    flight.body = body = _body(flight, store)
    request = OutboundRequest(head.method, target, fields, own, head.length, body)
    if head.upgrade and head.length == 0:
        request.upgrade = forwardable(head.upgrade)
    if b"te" in known:
        request.wants_trailers = accepts_trailers(head.fields)
    return request


def _filtered(flight: Flight, fields: list[Field]) -> tuple[list[Field], bytes]:
    rule = flight.rule
    assert rule is not None
    target = flight.exchange.head.path
    for modifier in rule.payload.request_modifiers:
        fields = modify(fields, modifier)
    rewrite = rule.route.filters.rewrite
    if rewrite is not None:
        target = rewrite_target(rewrite, target, rule.prefix)
        if rewrite.hostname is not None:
            fields = _with_host(fields, rewrite.hostname.encode())
    return fields, target


def _fallback_host(flight: Flight) -> bytes:
    """HTTP/1.0 may come without Host; what we send is HTTP/1.1, which must not (RFC 9112 section 3.2)."""
    assert flight.upstream is not None
    return flight.upstream.config.name.encode()


def _with_host(fields: list[Field], host: bytes) -> list[Field]:
    """Replace `Host` where it stands; put it first when there is none."""
    line = (b"Host", b"host", host)
    for index, field in enumerate(fields):
        if field[1] == b"host":
            return [*fields[:index], line, *fields[index + 1 :]]
    return [line, *fields]


def _body(flight: Flight, store: Kept) -> OutgoingBody | None:
    source = flight.connection.body
    if source is None:
        return None
    exchange = flight.exchange
    policy = exchange.route.retry if exchange.route is not None else None
    keep = policy.max_buffered_body if policy is not None else DEFAULT_KEPT
    return OutgoingBody(source, exchange, flight.deadlines, keep, store)
