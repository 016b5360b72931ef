"""Names in certificates: which of them match what is expected (RFC 9525 section 6), and what an endpoint is expected to be called."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from sidecar.model.endpoint import Endpoint
from sidecar.model.snapshot import Upstream
from sidecar.model.tls import AltName, AltNameType

_SERVICE_DOMAIN = "svc"


def covers(pattern: str, host: str) -> bool:
    """Whether a certificate for `pattern` is one for `host`: equal, or `*` as the whole leftmost label for exactly one label."""
    pattern, host = pattern.lower().removesuffix("."), host.lower().removesuffix(".")
    if not pattern.startswith("*."):
        return pattern == host
    label, dot, rest = host.partition(".")
    return bool(label and dot) and "." in rest and rest == pattern[2:]


def told(connection: ssl.SSLObject) -> Mapping[str, Any]:
    """The peer's certificate as `ssl` tells it; empty when it cannot: Python reads a certificate with a name that is no UTF-8 not at all."""
    try:
        return connection.getpeercert() or {}
    except ValueError:
        return {}


def alt_names(certificate: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The (type, value) pairs of `subjectAltName`, as `ssl.SSLObject.getpeercert` tells them."""
    return tuple(certificate.get("subjectAltName", ()))


def has_one_of(certificate: Mapping[str, Any], wanted: Iterable[AltName]) -> bool:
    """Whether a peer's certificate has at least one of the wanted names."""
    there = alt_names(certificate)
    return any(_has(there, name) for name in wanted)


def _has(there: tuple[tuple[str, str], ...], name: AltName) -> bool:
    if name.type is AltNameType.URI:
        return ("URI", name.value) in there
    if is_address(name.value):
        wanted = ip_address(name.value)
        return any(kind == "IP Address" and is_address(value.strip()) and ip_address(value.strip()) == wanted for kind, value in there)
    return any(kind == "DNS" and covers(value, name.value) for kind, value in there)


def is_address(host: str) -> bool:
    """Whether `host` is an IP literal: SNI cannot carry it (RFC 6066 section 3), and certificates have it as an address."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def server_name(config: Upstream, endpoint: Endpoint, namespace: str = "") -> str:
    """What an endpoint's certificate is for, and what SNI says unless it is an IP literal.

    `tls.hostname`, else the `dns` host, else `<service>.<namespace>.svc` (`namespace`: the pod's own), else the target's host.
    """
    if config.tls is not None and config.tls.hostname is not None:
        return config.tls.hostname
    if config.dns is not None:
        return config.dns.host
    if config.service is not None:
        return ".".join(filter(None, (config.service.name, config.service.namespace or namespace, _SERVICE_DOMAIN)))
    return endpoint.host
