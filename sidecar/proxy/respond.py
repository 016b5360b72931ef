"""Stage respond: the response's head as the client gets it (RFC 9110 section 7.6, RFC 9112 sections 6 and 9)."""

from __future__ import annotations

from sidecar.model.head import CHUNKED, UNTIL_CLOSE, ResponseHead
from sidecar.policy.filters import modify
from sidecar.protocol import via
from sidecar.protocol.hop_by_hop import strip_response
from sidecar.protocol.status_line import status_line
from sidecar.proxy.flight import Flight

_SWITCHING = 101
_CONTINUE = 100


def response_head(flight: Flight, head: ResponseHead) -> list[bytes]:
    """Wire pieces up to and including the empty line. Decides `flight.keep_alive` and whether the body goes out chunked."""
    fields = strip_response(head.fields, head.connection_tokens, head.status)
    flight.nominated = head.connection_tokens
    rule = flight.rule
    if rule is not None:
        for modifier in rule.payload.response_modifiers:
            fields = modify(fields, modifier)
    parts = [status_line(head.status, head.reason)]
    passed: list[bytes] = []
    for name, lower, value in fields:
        if lower == b"via":
            passed.append(value)
        else:
            parts += (name, b": ", value, b"\r\n")
    parts += (b"Via: ", via.append(b", ".join(passed), head.minor), b"\r\n")
    if head.status == _SWITCHING:
        parts += (b"Connection: Upgrade\r\nUpgrade: ", head.upgrade, b"\r\n")
    else:
        _frame(flight, head, parts)
    parts.append(b"\r\n")
    return parts


def _frame(flight: Flight, head: ResponseHead, parts: list[bytes]) -> None:
    """An HTTP/1.1 client gets unknown lengths chunked; to an HTTP/1.0 client they end with the connection."""
    connection = flight.connection
    unknown = head.length in (CHUNKED, UNTIL_CLOSE)
    flight.chunked = unknown and flight.exchange.head.minor == 1
    if flight.chunked:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    body = flight.body
    # The client may well stop sending now, or, not told to go on, never begin (RFC 9110 section 10.1.1).
    no_need = head.status >= 400 or (flight.exchange.head.expect_continue and not flight.started)
    cut = body is not None and not body.done and no_need
    flight.keep_alive = flight.keep_alive and not (connection.draining or cut or (unknown and not flight.chunked))
    if not flight.keep_alive:
        parts.append(b"Connection: close\r\n")


def interim(flight: Flight, head: ResponseHead) -> None:
    """Relay a 1xx (RFC 9110 section 15.2) to clients that know what it is."""
    if head.status == _CONTINUE and flight.body is not None:
        flight.body.continued()
    if flight.exchange.head.minor == 0:
        return
    parts = [status_line(head.status, head.reason)]
    for name, _, value in strip_response(head.fields, head.connection_tokens, head.status):
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"\r\n")
    flight.started = True
    flight.connection.send(b"".join(parts))
