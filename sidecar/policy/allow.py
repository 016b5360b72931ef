"""Where a Forward listener may go without a route: its `allow` list (product.md 3.1 and 3.9, http.md section 5).

Two questions, because a name says nothing about the address behind it. Before looking a host up: may this name be
asked for (`decide_host`)? After: may this address be connected to (`check_address`)? The address that was checked is
the one to connect to, so that a name cannot be bound anew in between.

"Private ranges and metadata addresses need naming": a special address is reachable only if a CIDR (or an address
literal) of the list names it. A host name, even without a wildcard, is not enough: whoever owns its zone could point
it into the pod network. An entry names a special address when it lies inside the narrowest special range around it:
`10.1.0.0/16` and `10.0.0.0/8` do, `0.0.0.0/0` means the public addresses, and `169.254.0.0/16` leaves the metadata
service out, which only `169.254.169.254` names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from sidecar.model.snapshot import AllowEntry, Network

Address = IPv4Address | IPv6Address


class HostDecision(Enum):
    """What `allow` says to a host before it is looked up."""

    REFUSED = "refused"
    """Nothing in the list can allow it: 403 `http_request_denied`, without a lookup."""
    NAMED = "named"
    """Its name is allowed; an address that is not: 403 `destination_ip_prohibited`."""
    BY_ADDRESS = "by address"
    """Only a CIDR can allow it; an address outside: 403 `http_request_denied`."""


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ip_network(part) for part in text.split())


SPECIAL: Final[tuple[Network, ...]] = tuple(
    sorted(
        _networks(
            "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.168.0.0/16 198.18.0.0/15 224.0.0.0/4 240.0.0.0/4"
        )
        + _networks("::/96 64:ff9b:1::/48 2001::/32 fc00::/7 fe80::/10 fec0::/10 ff00::/8 ::/128 ::1/128")
        # metadata services: most clouds, tasks and pods of AWS, Azure, Alibaba, Oracle, Google
        + _networks("169.254.169.254/32 169.254.170.2/32 169.254.170.23/32 168.63.129.16/32 100.100.100.200/32 192.0.0.192/32")
        + _networks("fd00:ec2::254/128 fd00:ec2::23/128 fd20:ce::254/128"),
        key=lambda network: -network.prefixlen,
    )
)
"""Ranges that need naming, narrow ones first. Addresses that carry an IPv4 one inside are taken apart before."""

_NAT64: Final = IPv6Network("64:ff9b::/96")
_LAST_32_BITS: Final = 0xFFFFFFFF
_NO_NAME: Final = frozenset(":%[]/@")


def decide_host(allow: Sequence[AllowEntry], host: str, port: int) -> HostDecision:
    """Whether `host` (a name or an address literal, any case, IPv6 in brackets or not) may be looked up for `port`.

    Other spellings of an IPv4 address (`127.1`, `0x7f.0.0.1`, `2130706433`) are refused: resolvers take them for one.
    """
    name = _plain(host)
    literal = literal_address(name)
    if literal is None and (not name or not _NO_NAME.isdisjoint(name) or _looks_numeric(name)):
        return HostDecision.REFUSED
    entries = [entry for entry in allow if entry.ports is None or port in entry.ports]
    if any(entry.host is not None and fnmatchcase(name, entry.host) for entry in entries):
        return HostDecision.NAMED
    if literal is None:
        possible = any(_network(entry) is not None for entry in entries)
    else:
        possible = check_address(entries, literal, port, named=False)
    return HostDecision.BY_ADDRESS if possible else HostDecision.REFUSED


def check_address(allow: Sequence[AllowEntry], address: Address, port: int, *, named: bool) -> bool:
    """Whether `address` may be connected to. `named`: `decide_host` said NAMED for the host that it belongs to."""
    forms = tuple(_forms(address))
    special = [(form, narrowest) for form in forms if (narrowest := _special(form)) is not None]
    if named and not special:
        return True
    networks = [network for entry in allow if (entry.ports is None or port in entry.ports) and (network := _network(entry)) is not None]
    if not special:
        return any(form in network for network in networks for form in forms)
    return all(any(form in network and network.prefixlen >= narrowest.prefixlen for network in networks) for form, narrowest in special)


def literal_address(host: str) -> Address | None:
    """The address that `host` spells out, None for a name. Zone identifiers are no part of an authority (RFC 9110)."""
    try:
        return None if "%" in host else ip_address(_plain(host))
    except ValueError:
        return None


def _plain(host: str) -> str:
    if host.startswith("[") and host.endswith("]") and ":" in host:
        return host[1:-1].lower()
    return host.lower().removesuffix(".")


def _looks_numeric(name: str) -> bool:
    """Whether a resolver may take `name` for a number (WHATWG URL "ends in a number"; inet_aton takes hex and octal)."""
    last = name.rpartition(".")[2]
    if last.isdigit():
        return True
    return last.startswith("0x") and all(char in "0123456789abcdef" for char in last[2:])


def _network(entry: AllowEntry) -> Network | None:
    if entry.network is not None:
        return entry.network
    return None if entry.host is None else _literal_network(entry.host)


@lru_cache(maxsize=1024)
def _literal_network(host: str) -> Network | None:
    """An entry that is an address stands for itself, however the document's compiler filed it."""
    address = literal_address(host)
    return None if address is None else ip_network(address)


def _forms(address: Address) -> Iterator[Address]:
    """The address, and the IPv4 one that it leads to (mapped, NAT64 RFC 6052, 6to4 RFC 3056)."""
    yield address
    if isinstance(address, IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if embedded is None and address in _NAT64:
            embedded = IPv4Address(int(address) & _LAST_32_BITS)
        if embedded is not None:
            yield embedded


def _special(address: Address) -> Network | None:
    """The narrowest special range around `address`."""
    for network in SPECIAL:
        if address in network:
            return network
    return None
