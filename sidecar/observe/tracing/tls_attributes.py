"""Attributes of spans about the TLS of a connection, by OpenTelemetry's registry (`tls.*`, in development in 1.44).

https://opentelemetry.io/docs/specs/semconv/registry/attributes/tls/
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.model.snapshot import HttpProtocol, Upstream
from sidecar.model.tls import Secured

_OPENSSL: Final = re.compile(r"(ECDHE|DHE)-(ECDSA|RSA)-AES(128|256)-(GCM-)?(SHA\d*)")
_CHACHA: Final = re.compile(r"(ECDHE|DHE)-(ECDSA|RSA)-CHACHA20-POLY1305")


def tls_attributes(secured: Secured | None) -> dict[str, str | bool]:
    """Of a span whose connection is secured like that; none of one in the clear."""
    if secured is None:
        return {}
    attributes: dict[str, str | bool] = {
        "tls.protocol.name": "tls",
        "tls.protocol.version": secured.version.removeprefix("TLSv"),
        "tls.resumed": secured.resumed,
    }
    if cipher := registered(secured.cipher):
        attributes["tls.cipher"] = cipher
    if secured.protocol:
        attributes["tls.next_protocol"] = secured.protocol
    return attributes


def http_version(upstream: Upstream | None, secured: Secured | None) -> str:
    """`network.protocol.version` of an attempt that was answered: what ALPN agreed on, or what is spoken in the clear."""
    if secured is None:
        return "2" if upstream is not None and upstream.protocol is HttpProtocol.H2C else "1.1"
    return "2" if secured.protocol == "h2" else "1.1"


def registered(cipher: str) -> str:
    """The name of a cipher suite in IANA's registry, from OpenSSL's; "" where we do not know it. TLS 1.3 has no other."""
    if cipher.startswith("TLS_"):
        return cipher
    if found := _CHACHA.fullmatch(cipher):
        return f"TLS_{found[1]}_{found[2]}_WITH_CHACHA20_POLY1305_SHA256"
    if found := _OPENSSL.fullmatch(cipher):
        return f"TLS_{found[1]}_{found[2]}_WITH_AES_{found[3]}_{'GCM' if found[4] else 'CBC'}_{found[5]}"
    return ""
