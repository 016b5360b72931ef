"""Which `Host` a request to the admin surface may have: names of others can be rebound to our address by their owners."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

_host: Final = re.compile(r"(?:\[([^][]*:[^][]*)\]|([^][:]*))(?::[0-9]*)?").fullmatch  # RFC 3986 section 3.2.2


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
    """Empty for what is no host with or without a port."""
    match = _host(host)
    return "" if match is None else match[1] or match[2] or ""
