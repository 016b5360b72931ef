"""Which `Host` a request to the admin surface may have: names of others can be rebound to our address by their owners."""

from __future__ import annotations

import ipaddress


def is_local(host: str, bound: str = "") -> bool:
    """Whether `host` (a Host field's value) is a loopback name or address, or `bound`, the address that the connection came to."""
    name = _without_port(host.strip().lower())
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or str(address) == bound.partition("%")[0]


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
