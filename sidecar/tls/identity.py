"""Who a client is by its certificate: a name for logs, and the element of X-Forwarded-Client-Cert (Envoy's format) for whoever is behind us."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from sidecar.tls.names import alt_names, told

_SHORT: Final = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}
"""Of the attributes that have one (RFC 4514 section 3); the others go by their long name."""
_SPECIAL: Final = ',+"\\<>;='
_QUOTED: Final = frozenset(",;=")
_NAMES_MAX: Final = 16
"""Names of one kind that are passed on; a head has no room for more."""
ELEMENT_MAX: Final = 4096
"""Bytes of an element: what would make it longer is left out."""


class Identity(NamedTuple):
    """A verified client."""

    name: str
    """Its first URI, else its first DNS name, else its subject, else the certificate's digest."""
    element: bytes
    """`Hash=...;Subject="...";URI=...;DNS=...`: printable ASCII, and nothing in it can end it early.

    A certificate whose names cannot be read (they are not UTF-8) has its `Hash` alone.
    """


def identity_of(connection: ssl.SSLObject) -> Identity | None:
    """Of the peer of an established connection; None: it showed no certificate."""
    der = connection.getpeercert(binary_form=True)
    if der is None:
        return None
    certificate = told(connection)
    digest = hashlib.sha256(der).hexdigest()
    element = f"Hash={digest}"
    for part in _parts(certificate):
        if len(element) + 1 + len(part) <= ELEMENT_MAX:
            element += ";" + part
    hosts, uris = _names(certificate, "DNS"), _names(certificate, "URI")
    return Identity(next(iter((*uris, *hosts)), subject_of(certificate) or digest), element.encode("ascii"))


def _parts(certificate: Mapping[str, Any]) -> Iterator[str]:
    if certificate:
        yield f'Subject="{subject_of(certificate)}"'
    for key in ("URI", "DNS"):
        for name in _names(certificate, key):
            yield f"{key}={_value(name)}"


def _names(certificate: Mapping[str, Any], wanted: str) -> list[str]:
    return [value for kind, value in alt_names(certificate) if kind == wanted][:_NAMES_MAX]


def subject_of(certificate: Mapping[str, Any]) -> str:
    """The distinguished name (RFC 4514 section 2), in ASCII: what is special or no letter of it is written in hexadecimal."""
    relative = certificate.get("subject", ())
    return ",".join("+".join(f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in one) for one in reversed(relative))


def _escaped(text: str) -> str:
    return "".join(
        character if " " <= character <= "~" and character not in _SPECIAL else "".join(f"\\{byte:02X}" for byte in character.encode())
        for character in text
    )


def _value(text: str) -> str:
    """A name: characters that no URI and no host has are percent-encoded, the format's own are put in quotes."""
    text = quote(text, safe="!#$%&'()*+,/:;=?@[]~")
    return f'"{text}"' if _QUOTED & set(text) else text
