"""How long a body is: RFC 9112 section 6.3, decided from the few fields that may speak about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidecar.errors import BadMessage
from sidecar.model.head import CHUNKED, UNTIL_CLOSE
from sidecar.model.reason import Reason, Rejection
from sidecar.protocol.fields import is_token, reject

MAX_LENGTH_DIGITS: Final = 18
"""Below 2^63 whatever the digits, so no recipient's integer overflows."""


def content_length(value: bytes, reason: Reason = Reason.HTTP_REQUEST_ERROR) -> int:
    """Octets that one `Content-Length` line announces. Raises BadMessage for lists, signs, blanks and 19 digits or more."""
    if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
        raise reject(Rejection.BAD_CONTENT_LENGTH, "Content-Length is not a plain number of at most 18 digits", reason=reason)
    return int(value)


def bad_transfer_encoding(value: bytes, reason: Reason) -> BadMessage:
    """Why a `Transfer-Encoding` that is not `chunked` is refused: 501 for codings before a final chunked, else 400."""
    *before, last = [coding.strip(b" \t") for coding in value.lower().split(b",")]
    if last == b"chunked" and all(is_token(coding) and coding != b"chunked" for coding in before):
        status = 501 if reason is Reason.HTTP_REQUEST_ERROR else None
        return reject(Rejection.UNKNOWN_TRANSFER_ENCODING, "a transfer coding other than chunked", reason=reason, status=status)
    return reject(Rejection.BAD_TRANSFER_ENCODING, "Transfer-Encoding is not exactly chunked", reason=reason)


def declared_length(found: Mapping[bytes, bytes], minor: int, reason: Reason = Reason.HTTP_REQUEST_ERROR) -> int | None:
    """What `Content-Length` and `Transfer-Encoding` say together: n, CHUNKED, or None when neither is there.

    Raises BadMessage when they contradict each other (RFC 9112 section 6.1: the classic of request smuggling).
    """
    length = found.get(b"content-length")
    coding = found.get(b"transfer-encoding")
    if coding is None:
        return None if length is None else content_length(length, reason)
    if length is not None:
        raise reject(Rejection.CL_TE_CONFLICT, "both Content-Length and Transfer-Encoding", reason=reason)
    if minor == 0:
        raise reject(Rejection.TE_IN_HTTP10, "Transfer-Encoding in an HTTP/1.0 message", reason=reason)
    if coding.lower() != b"chunked":
        raise bad_transfer_encoding(coding, reason)
    return CHUNKED


def repeated(lower: bytes, reason: Reason = Reason.HTTP_REQUEST_ERROR) -> BadMessage:
    """The error for a second line of a field that must be alone."""
    rejection = {
        b"host": Rejection.BAD_HOST,
        b"content-length": Rejection.BAD_CONTENT_LENGTH,
        b"transfer-encoding": Rejection.BAD_TRANSFER_ENCODING,
    }[lower]
    return reject(rejection, f"more than one {lower.decode('ascii')} line", reason=reason)


def is_bodyless(status: int, request_method: bytes) -> bool:
    """RFC 9112 section 6.3 rules 1 and 2: responses that end with their head whatever their fields say."""
    return status < 200 or status in (204, 304) or request_method == b"HEAD" or (request_method == b"CONNECT" and status < 300)


def forbids_length(status: int, request_method: bytes) -> bool:
    """Responses that must carry neither `Content-Length` nor `Transfer-Encoding` (RFC 9110 8.6, RFC 9112 6.1)."""
    return status < 200 or status == 204 or (request_method == b"CONNECT" and status < 300)


def response_length(declared: int | None, status: int, request_method: bytes) -> int:
    """Body length of a response: 0, n, CHUNKED or UNTIL_CLOSE (RFC 9112 section 6.3)."""
    if is_bodyless(status, request_method):
        return 0
    return UNTIL_CLOSE if declared is None else declared
