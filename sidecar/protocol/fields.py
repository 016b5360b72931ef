"""Header field lines: which bytes may stand in them, names and their lower case (RFC 9110 section 5, RFC 9112 section 5)."""

from __future__ import annotations

import re
from typing import Final

from sidecar.errors import BadMessage
from sidecar.model.head import Field
from sidecar.model.reason import Phase, Reason, Rejection

GOOD: Final = bytes([0x09, *(byte for byte in range(0x20, 0x100) if byte != 0x7F)])
"""What may stand in a head besides its line ends: HTAB, SP, VCHAR, obs-text."""

is_token: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
"""`token` of RFC 9110 section 5.6.2."""

CACHED_NAMES: Final = 1024
CACHED_NAME_BYTES: Final = 64
# Names that a WSGI or CGI server reads as `Content-Length` or `Transfer-Encoding` (product.md 3.9).
_FRAMING_UNDERSCORED: Final = frozenset(
    (b"content_length", b"transfer_encoding"),
)

_names: Final[dict[bytes, bytes]] = {}
known_name: Final = _names.get
"""Lower case of a name that has been seen and found good, else None. Never of one in `DECIDING`: parsers look closer at those."""

ALONE: Final = frozenset((b"host", b"content-length", b"transfer-encoding"))
"""Fields that decide about the message itself and must have one line only."""
DECIDING: Final = ALONE | {b"connection", b"upgrade", b"expect"}
"""`ALONE` and the lists that decide about the message."""
deciding_name: Final = {spelled: name for name in DECIDING for spelled in (name, name.title(), name.upper())}.get
"""Lower case of a usual spelling of a name in `DECIDING`, else None."""


def reject(rejection: Rejection, detail: str, *, reason: Reason = Reason.HTTP_REQUEST_ERROR, status: int | None = None) -> BadMessage:
    """The error for a broken rule: of a client's message, or, for an upstream `reason`, of a response's head."""
    phase = None if reason is Reason.HTTP_REQUEST_ERROR else Phase.HEADERS
    return BadMessage(rejection, detail, reason=reason, status=status, phase=phase)


def learn_name(name: bytes, colon: bytes, reason: Reason) -> bytes:
    """Lower case of a name that `known_name` does not know, or of a line without a colon.

    Raises BadMessage for what is no field name (RFC 9112 section 5.1), a folded line (5.2), or an underscored
    framing name in a request.
    """
    if name[:1] in (b" ", b"\t"):
        raise reject(Rejection.OBS_FOLD, "a field line begins with white space", reason=reason)
    if not colon:
        raise reject(Rejection.BAD_FIELD_NAME, "a field line has no colon", reason=reason)
    if not is_token(name):
        raise reject(Rejection.BAD_FIELD_NAME, "a field name is not a token", reason=reason)
    lower = name.lower()
    if b"_" in lower and lower.replace(b"-", b"_") in _FRAMING_UNDERSCORED:
        if reason is Reason.HTTP_REQUEST_ERROR:
            raise reject(Rejection.UNDERSCORE_NAME, "a field name reads as a framing field")
        return lower  # never cached: the cache serves requests too
    if len(name) <= CACHED_NAME_BYTES and lower not in DECIDING:
        if len(_names) >= CACHED_NAMES:
            _names.clear()  # somebody sends invented names; the real ones are back at once
        _names[name] = lower
    return lower


def parse_field(line: bytes, reason: Reason) -> Field:
    """One field line without its line end, for lines that are rare (trailers). Raises BadMessage."""
    name, colon, value = line.partition(b":")
    lower = known_name(name)
    if lower is None or not colon:
        lower = learn_name(name, colon, reason)
    return name, lower, value.strip(b" \t")
