"""Bodies of our own replies: `application/problem+json` (RFC 9457) as interface.md section 3 has it."""

from __future__ import annotations

import json
from typing import Final

from sidecar.model.reason import Clock, Reason
from sidecar.protocol.status_line import REASON_PHRASES

CONTENT_TYPE: Final = b"application/problem+json"

DETAILS: Final[dict[Reason, str]] = {
    Reason.DNS_TIMEOUT: "The upstream's name was not resolved in time.",
    Reason.DNS_ERROR: "The upstream's name could not be resolved.",
    Reason.DESTINATION_NOT_FOUND: "The route refers to an upstream that does not exist.",
    Reason.DESTINATION_UNAVAILABLE: "The upstream has no endpoint that could take the request.",
    Reason.DESTINATION_IP_PROHIBITED: "The destination's address is not allowed.",
    Reason.CONNECTION_REFUSED: "The upstream refused the connection.",
    Reason.CONNECTION_TERMINATED: "The upstream closed the connection before it answered.",
    Reason.CONNECTION_TIMEOUT: "No connection to the upstream could be made in time.",
    Reason.CONNECTION_READ_TIMEOUT: "The upstream sent nothing for too long.",
    Reason.CONNECTION_WRITE_TIMEOUT: "The upstream took nothing for too long.",
    Reason.CONNECTION_LIMIT_REACHED: "No connection to the upstream became free in time.",
    Reason.TLS_PROTOCOL_ERROR: "The TLS handshake with the upstream failed.",
    Reason.TLS_CERTIFICATE_ERROR: "The upstream's certificate was not accepted.",
    Reason.TLS_ALERT_RECEIVED: "The upstream ended the TLS handshake.",
    Reason.HTTP_REQUEST_ERROR: "The request is malformed or ambiguous.",
    Reason.HTTP_REQUEST_DENIED: "The request is not allowed here.",
    Reason.HTTP_RESPONSE_INCOMPLETE: "The upstream's response ended too early.",
    Reason.HTTP_RESPONSE_HEADER_SECTION_SIZE: "The header section of the upstream's response is too large.",
    Reason.HTTP_RESPONSE_TIMEOUT: "The upstream did not answer in time.",
    Reason.HTTP_UPGRADE_FAILED: "The protocol upgrade did not succeed.",
    Reason.HTTP_PROTOCOL_ERROR: "The upstream's response is not valid HTTP.",
    Reason.PROXY_INTERNAL_ERROR: "The sidecar failed; its log has more.",
    Reason.PROXY_CONFIGURATION_ERROR: "The sidecar's configuration does not allow to serve this request.",
    Reason.PROXY_LOOP_DETECTED: "The request has passed this proxy too often.",
    Reason.NO_ROUTE: "No route matches the request.",
    Reason.REQUEST_TIMEOUT: "The time for the whole request is over.",
    Reason.STREAM_IDLE_TIMEOUT: "Nothing was sent in either direction for too long.",
    Reason.OVERLOADED: "Too many requests are waiting.",
    Reason.CIRCUIT_OPEN: "The upstream failed too often and is given a rest.",
    Reason.RATE_LIMITED: "Too many requests.",
    Reason.DRAINING: "The sidecar is shutting down.",
    Reason.CLIENT_CLOSED: "The client went away.",
    Reason.REQUEST_HEADER_TIMEOUT: "The request's header section did not come in time.",
    Reason.REQUEST_BODY_TIMEOUT: "The request's body did not come in time.",
    Reason.REQUEST_TOO_LARGE: "The request's body is too large.",
    Reason.HEADER_SECTION_TOO_LARGE: "The request's header section is too large.",
    Reason.URI_TOO_LONG: "The request's target is too long.",
}
"""One sentence per reason that may be shown to anybody."""


def render(status: int, reason: Reason, request_id: bytes, *, clock: Clock | None = None, detail: str = "") -> bytes:
    """The body. `detail` takes the place of the reason's sentence: only for peers who may read addresses and names."""
    phrase = REASON_PHRASES.get(status, b"").decode("ascii")
    problem: dict[str, object] = {
        "type": "about:blank",
        "title": phrase or reason.value,
        "status": status,
        "detail": detail or DETAILS[reason],
        "reason": reason.value,
    }
    if clock is not None:
        problem["clock"] = clock.value
    problem["requestId"] = request_id.decode("latin-1")
    return json.dumps(problem, separators=(",", ":")).encode("ascii")
