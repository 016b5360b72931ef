"""What a certificate says about itself: how long it is valid, and for which names. A small reader of DER (X.690, RFC 5280 section 4.1).

`ssl` tells these things of a verified peer only, and the sidecar has no other library for them at run time.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final, NamedTuple

_SEQUENCE: Final = 0x30
_OCTETS: Final = 0x04
_UTC_TIME: Final = 0x17
_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3
_SUBJECT_ALT_NAME: Final = bytes.fromhex("551d11")
_DNS, _URI, _ADDRESS = 0x82, 0x86, 0x87
_CENTURY: Final = 50
"""A two-digit year from here on is of the last century (RFC 5280 section 4.1.2.5.1)."""


class Certificate(NamedTuple):
    """`not_before` and `not_after` are Unix seconds; `dns`, `uris` and `addresses` are its alternative names."""

    not_before: float
    not_after: float
    dns: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


def read_certificate(pem: str) -> Certificate:
    """Of the first certificate in `pem`. Raises ValueError when it is not one."""
    try:
        return _read(ssl.PEM_cert_to_DER_cert(pem))
    except (IndexError, KeyError, StopIteration) as error:
        raise ValueError("not a certificate") from error


def _read(der: bytes) -> Certificate:
    _, whole = next(_elements(der))
    _, signed = next(_elements(whole))
    parts = [(tag, value) for tag, value in _elements(signed) if tag != _VERSION]
    validity = list(_elements(parts[3][1]))  # serial number, algorithm, issuer, validity, subject, key, extensions
    names = next((value for tag, value in parts if tag == _EXTENSIONS), b"")
    dns, uris, addresses = _alt_names(names)
    return Certificate(_time(*validity[0]), _time(*validity[1]), dns, uris, addresses)


def _alt_names(extensions: bytes) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    found: dict[int, list[str]] = {_DNS: [], _URI: [], _ADDRESS: []}
    for _, listed in _elements(extensions):
        for _, extension in _elements(listed):
            parts = list(_elements(extension))
            if parts[0][1] == _SUBJECT_ALT_NAME and parts[-1][0] == _OCTETS:
                _, names = next(_elements(parts[-1][1]))
                for tag, value in _elements(names):
                    if tag in found:
                        found[tag].append(str(ip_address(value)) if tag == _ADDRESS else value.decode("ascii"))
    return tuple(found[_DNS]), tuple(found[_URI]), tuple(found[_ADDRESS])


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The (tag, content) pairs that `data` is made of. Raises ValueError for a length that it does not have."""
    at = 0
    while at < len(data):
        tag, size = data[at], data[at + 1]
        at += 2
        if size & 0x80:
            more = size & 0x7F
            size = int.from_bytes(data[at : at + more])
            at += more
        if at + size > len(data):
            raise ValueError("cut short")
        yield tag, data[at : at + size]
        at += size


def _time(tag: int, value: bytes) -> float:
    text = value.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if int(text[:2]) >= _CENTURY else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
