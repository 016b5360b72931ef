"""Request targets and authorities: their grammar, and the form of a path that routes are matched with (RFC 3986, RFC 9112 section 3.2)."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address
from typing import Final

MAX_HOST_BYTES: Final = 255
MAX_AUTHORITY_BYTES: Final = MAX_HOST_BYTES + 6

# RFC 3986 reg-name, less the comma: "a,b" is what somebody makes of two Host lines.
_authority: Final = re.compile(
    rb"(?:(?P<name>(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})+)|\[(?P<six>[0-9A-Fa-f:.]+)\])(?P<colon>:(?P<port>[0-9]{0,5}))?"
).fullmatch
_absolute: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)(.*)").fullmatch

_escape: Final = re.compile(rb"%([0-9A-Fa-f]{2})?")
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def valid_host(host: bytes) -> bool:
    """Whether `host` is `uri-host [":" port]` (RFC 9110 section 7.2), not empty, with a port of 1-65535 or an empty one."""
    if len(host) > MAX_AUTHORITY_BYTES:
        return False
    match = _authority(host)
    if match is None:
        return False
    if match["port"] and not 0 < int(match["port"]) < 65536:
        return False
    return match["six"] is None or _is_ipv6(match["six"])


def _is_ipv6(text: bytes) -> bool:
    try:
        IPv6Address(text.decode("ascii"))
    except AddressValueError:
        return False
    return True


def split_authority(host: bytes, default_port: int) -> tuple[bytes, int]:
    """Name or address (brackets of IPv6 removed) and port of a valid authority; no or an empty port: `default_port`."""
    if host.startswith(b"["):
        name, _, port = host[1:].partition(b"]")
        port = port[1:]
    else:
        name, _, port = host.partition(b":")
    return name, int(port) if port else default_port


def split_absolute(target: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Scheme (lower case), authority and the rest of an absolute-form target; None when it is not one."""
    match = _absolute(target)
    return None if match is None else (match[1].lower(), match[2], match[3])


def normalize_path(path: bytes) -> bytes:
    """The form of a request path that routes are matched with; what is forwarded keeps its own bytes.

    The query is cut off, percent-encoded unreserved characters are decoded once, other escapes get upper-case digits
    (`%2f` -> `%2F`, still not a slash), a `%` that begins no escape reads `%25`, dot segments are resolved
    (RFC 3986 section 5.2.4). `//` is kept. The result is a fixed point: normalising it again changes nothing.
    """
    path = path.partition(b"?")[0]
    if b"%" in path:
        path = _escape.sub(_decode_unreserved, path)
    if b"/." in path:
        path = _without_dot_segments(path)
    return path


def _decode_unreserved(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    if digits is None:
        return b"%25"
    byte = int(digits, 16)
    return bytes((byte,)) if byte in _UNRESERVED else b"%" + digits.upper()


def _without_dot_segments(path: bytes) -> bytes:
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)
