"""Replies that the sidecar makes itself. `reply_for` is the only place where an error becomes a response."""

from __future__ import annotations

from time import time
from typing import Final

from sidecar.errors import ProxyError
from sidecar.model.exchange import Exchange
from sidecar.protocol import problem
from sidecar.protocol.http_date import imf_fixdate
from sidecar.protocol.proxy_status import render
from sidecar.protocol.status_line import status_line

ALLOWED: Final = (b"Allow", b"GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS")
"""What a 405 and an OPTIONS that we answer say (RFC 9110 section 10.2.1)."""
_GRPC: Final = b"application/grpc"
_GRPC_STATUS: Final = {400: 13, 401: 16, 403: 7, 404: 12, 408: 4, 413: 8, 429: 14, 431: 8, 499: 1, 502: 14, 503: 14, 504: 4}
"""HTTP status -> gRPC code (grpc/doc/http-grpc-status-mapping.md; time-outs are DEADLINE_EXCEEDED)."""
_GRPC_UNKNOWN: Final = 2


class Reply:
    """A whole response of ours: status, header lines without framing, body."""

    __slots__ = ("body", "fields", "status")

    def __init__(self, status: int, fields: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
        self.status = status
        self.fields = fields
        self.body = body

    def wire(self, *, head_only: bool, close: bool) -> bytes:
        """The bytes to send; `head_only` for HEAD (RFC 9110 section 9.3.2)."""
        parts = [status_line(self.status), b"Date: ", imf_fixdate(time()), b"\r\n"]  # RFC 9110 section 6.6.1
        for name, value in self.fields:
            parts += (name, b": ", value, b"\r\n")
        parts.append(b"Content-Length: %d\r\n" % len(self.body))
        if close:
            parts.append(b"Connection: close\r\n")
        parts.append(b"\r\n")
        if not head_only:
            parts.append(self.body)
        return b"".join(parts)


def reply_for(error: ProxyError, exchange: Exchange | None) -> Reply:
    """Status, `Proxy-Status` (RFC 9209), `x-request-id` and problem+json (RFC 9457), or trailers-only for gRPC.

    Says which clock or rule it was and of which upstream; never an address, a path or an exception's text. To peers
    that are not believed (product.md 3.8) not even which upstream.
    """
    request_id = exchange.request_id if exchange is not None else b""
    fields = [(b"Proxy-Status", render(error.reason, _details(error, exchange)))]
    if request_id:
        fields.append((b"x-request-id", request_id))
    if error.retry_after is not None:
        fields.append((b"Retry-After", b"%d" % error.retry_after))
    if error.status == 405:
        fields.append(ALLOWED)
    if exchange is not None and _is_grpc(exchange):
        code = _GRPC_STATUS.get(error.status, _GRPC_UNKNOWN)
        fields += ((b"content-type", _GRPC), (b"grpc-status", b"%d" % code), (b"grpc-message", error.reason.value.encode()))
        return Reply(200, fields)
    fields.append((b"Content-Type", problem.CONTENT_TYPE))
    return Reply(error.status, fields, problem.render(error.status, error.reason, request_id, clock=error.clock))


def _is_grpc(exchange: Exchange) -> bool:
    return any(lower == b"content-type" and value.startswith(_GRPC) for _, lower, value in exchange.head.fields)


def _details(error: ProxyError, exchange: Exchange | None) -> dict[str, object]:
    details: dict[str, object] = {}
    if exchange is not None and exchange.upstream is not None and exchange.peer_trusted:
        details["upstream"] = exchange.upstream.name
        if exchange.attempts:
            policy = exchange.route.retry if exchange.route is not None else None
            details["attempt"] = f"{len(exchange.attempts) - exchange.replays}/{1 + (policy.attempts if policy is not None else 1)}"
        if exchange.replays:
            details["replays"] = exchange.replays
    if error.clock is not None:
        details["clock"] = error.clock.value
    if error.direction:
        details["direction"] = error.direction
    if error.rejection is not None:
        details["rule"] = error.rejection.value
    return details
