"""Who a client is by its certificate: a name for logs, and the element of X-Forwarded-Client-Cert (Envoy's format) for whoever is behind us."""

from __future__ import annotations

import hashlib
import ssl
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from sidecar.tls.names import alt_names

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


class Identity(NamedTuple):
    """A verified client."""

    name: str
    """Its first URI, else its first DNS name, else its subject."""
    element: bytes
    """`Hash=...;Subject="...";URI=...;DNS=...`: printable ASCII, and nothing in it can end it early."""


def identity_of(connection: ssl.SSLObject) -> Identity | None:
    """Of the peer of an established connection; None: it showed no certificate."""
    der = connection.getpeercert(binary_form=True)
    if der is None:
        return None
    certificate = connection.getpeercert() or {}
    subject = subject_of(certificate)
    names = alt_names(certificate)
    uris = [value for kind, value in names if kind == "URI"][:_NAMES_MAX]
    hosts = [value for kind, value in names if kind == "DNS"][:_NAMES_MAX]
    parts = [f"Hash={hashlib.sha256(der).hexdigest()}", f'Subject="{subject}"']
    parts += [f"URI={_value(uri)}" for uri in uris] + [f"DNS={_value(host)}" for host in hosts]
    return Identity(next(iter((*uris, *hosts)), subject), ";".join(parts).encode("ascii"))


def subject_of(certificate: dict[str, Any]) -> str:
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
