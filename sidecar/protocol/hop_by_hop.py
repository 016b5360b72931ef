"""What belongs to one connection and must not travel on (RFC 9110 section 7.6.1), and what nobody may make us drop."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Final

from sidecar.model.head import Field

WRITTEN: Final = frozenset(
    (
        b"via",
        b"x-forwarded-client-cert",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-real-ip",
        b"x-request-id",
        b"x-request-timeout-ms",
    )
)
"""Request fields that we write or believe (interface.md section 3); traceparent and its kin have no dash."""

_ALWAYS: Final = frozenset(
    (b"connection", b"http2-settings", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
_PROTECTED: Final = frozenset(
    (
        b"authorization",
        b"content-length",
        b"cookie",
        b"forwarded",
        b"host",
        b"traceparent",
        b"tracestate",
        b"via",
        b"x-real-ip",
        b"x-request-id",
    )
)


def underscored(names: Iterable[bytes]) -> frozenset[bytes]:
    """Every way to write the names with `_` for some of their dashes: a WSGI server reads them all alike."""
    spelled: set[bytes] = set()
    for name in names:
        first, *rest = name.split(b"-")
        for marks in product((b"-", b"_"), repeat=len(rest)):
            spelled.add(first + b"".join(mark + part for mark, part in zip(marks, rest, strict=True)))
    return frozenset(spelled - set(names))


REQUEST_DROPPED: Final = (
    _ALWAYS
    | {b"proxy", b"proxy-authorization"}  # `Proxy` becomes HTTP_PROXY in a CGI environment (httpoxy)
    | underscored(_ALWAYS | WRITTEN | {b"proxy-authorization"})
)
RESPONSE_DROPPED: Final = _ALWAYS | {b"proxy-authenticate", b"proxy-authentication-info"}
_RESPONSE_407_DROPPED: Final = RESPONSE_DROPPED - {b"proxy-authenticate"}

# RFC 9110 section 6.5.1: framing, routing, authentication, request modifiers, content format, caching control.
_NOT_IN_TRAILERS: Final = (
    REQUEST_DROPPED
    | RESPONSE_DROPPED
    | _PROTECTED
    | WRITTEN
    | frozenset(
        (
            b"age",
            b"accept",
            b"accept-charset",
            b"accept-encoding",
            b"accept-language",
            b"authentication-info",
            b"cache-control",
            b"content-encoding",
            b"content-range",
            b"content-type",
            b"date",
            b"expect",
            b"expires",
            b"if-match",
            b"if-modified-since",
            b"if-none-match",
            b"if-range",
            b"if-unmodified-since",
            b"location",
            b"max-forwards",
            b"pragma",
            b"proxy-status",
            b"range",
            b"retry-after",
            b"set-cookie",
            b"vary",
            b"warning",
            b"www-authenticate",
        )
    )
)


def _nominated(tokens: tuple[bytes, ...]) -> frozenset[bytes]:
    """The names that `Connection` may remove: all it names but those of product.md 3.9."""
    return frozenset(token for token in tokens if token not in _PROTECTED and not token.startswith(b"x-forwarded-"))


def strip_request(fields: list[Field], tokens: tuple[bytes, ...]) -> list[Field]:
    """A request's end-to-end fields; `tokens` are its `connection_tokens`."""
    dropped = REQUEST_DROPPED | _nominated(tokens) if tokens else REQUEST_DROPPED
    return [field for field in fields if field[1] not in dropped]


def strip_response(fields: list[Field], tokens: tuple[bytes, ...], status: int = 200) -> list[Field]:
    """A response's end-to-end fields. `Proxy-Authenticate` stays with a 407: the client is who has the credentials."""
    dropped = _RESPONSE_407_DROPPED if status == 407 else RESPONSE_DROPPED
    if tokens:
        dropped |= _nominated(tokens)
    return [field for field in fields if field[1] not in dropped]


def sift(fields: list[Field], tokens: tuple[bytes, ...], own: frozenset[bytes]) -> tuple[list[Field], dict[bytes, bytes]]:
    """`strip_request` that also takes out the fields named in `own`: (the rest, lower name -> value).

    Repeated lines of a taken field are one list, joined by a comma and a blank (RFC 9110 section 5.3).
    """
    dropped = REQUEST_DROPPED | _nominated(tokens) if tokens else REQUEST_DROPPED
    kept: list[Field] = []
    keep = kept.append
    found: dict[bytes, bytes] = {}
    for field in fields:
        lower = field[1]
        if lower in own:
            found[lower] = found[lower] + b", " + field[2] if lower in found else field[2]
        elif lower not in dropped:
            keep(field)
    return kept, found


def accepts_trailers(fields: list[Field]) -> bool:
    """Whether `TE` says that the sender reads trailers (RFC 9110 section 10.1.4)."""
    codings = b",".join([value for _, lower, value in fields if lower == b"te"]).lower()
    return b"trailers" in [coding.strip(b" \t") for coding in codings.split(b",")]


def trailers_allowed(fields: list[Field], tokens: tuple[bytes, ...] = ()) -> list[Field]:
    """Trailer fields that may be passed on (RFC 9110 section 6.5.1), less those that `Connection` nominates."""
    if not fields:
        return fields
    dropped = _NOT_IN_TRAILERS | frozenset(tokens)
    return [field for field in fields if field[1] not in dropped and not field[1].startswith((b"x-forwarded-", b"x_forwarded_"))]
