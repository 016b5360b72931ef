"""Who is believed about where a request comes from, and what we tell the next hop (product.md 3.8)."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from sidecar.model.snapshot import Forwarded, Network
from sidecar.protocol.hop_by_hop import underscored

Address = IPv4Address | IPv6Address

X_FORWARDED_FOR: Final = b"X-Forwarded-For"
X_FORWARDED_PROTO: Final = b"X-Forwarded-Proto"
X_FORWARDED_HOST: Final = b"X-Forwarded-Host"
X_REAL_IP: Final = b"X-Real-IP"
X_FORWARDED_CLIENT_CERT: Final = b"X-Forwarded-Client-Cert"

_CLIENT_CERT: Final = b"x-forwarded-client-cert"
_WRITTEN: Final = frozenset((b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-real-ip"))
_WRITTEN_WITH_CERT: Final = _WRITTEN | {_CLIENT_CERT}
# Their relatives, which servers behind us believe as readily.
_RELATIVES: Final = frozenset(
    (
        b"forwarded",
        _CLIENT_CERT,
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-protocol",
        b"x-forwarded-scheme",
        b"x-forwarded-server",
        b"x-forwarded-ssl",
    )
)
_ALL: Final = _WRITTEN | _RELATIVES
_REMOVED: Final = _ALL | underscored(_ALL)
_NOTHING: Final[frozenset[bytes]] = frozenset()
_MAX_CHAIN: Final = 64
# A quote that is not closed would swallow what we append: the peer's words would be all that is left of it.
_closed: Final = re.compile(rb'(?:[^"]|"(?:[^"\\]|\\.)*+")*+', re.DOTALL).fullmatch


def unmapped(address: Address) -> Address:
    """The IPv4 address that an IPv4-mapped IPv6 one stands for, else the address itself."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def believed(trusted: tuple[Network, ...] | None, peer: Address | None) -> bool:
    """Whether a peer may describe itself: everybody when the list is unset, else those in it. None: a unix socket's peer."""
    if trusted is None:
        return True
    if peer is None:
        return False
    return _is_trusted(trusted, peer)


def _is_trusted(trusted: tuple[Network, ...], address: Address) -> bool:
    address = unmapped(address)
    return any(address in network for network in trusted)


def parse_node(text: bytes) -> Address | None:
    """The address in one element of X-Forwarded-For, with or without port; None when it is none."""
    text = text.strip(b" \t")
    if text.startswith(b"["):
        text = text[1:].partition(b"]")[0]
    elif text.count(b":") == 1:
        text = text.partition(b":")[0]
    try:
        return ip_address(text.decode("ascii"))
    except ValueError:
        return None


def real_ip(trusted: tuple[Network, ...] | None, chain: bytes, client: bytes) -> bytes:
    """The rightmost address of `chain` (which ends with `client`) that is not trusted; the leftmost when all are.

    An element that is no address ends the search: nobody vouches for what is left of it. At most 64 are looked at.
    """
    if trusted is None:
        return client
    best = client
    for element in reversed(chain.rsplit(b",", _MAX_CHAIN)[-_MAX_CHAIN:]):
        address = parse_node(element)
        if address is None:
            break
        best = str(address).encode("ascii")
        if not _is_trusted(trusted, address):
            break
    return best


class PeerRules:
    """What holds for the requests of one peer. Two exist per listener: for the believed, and for all others.

    `taken`: lower names to take out of a request (`own` of `hop_by_hop.sift`) before `apply`.
    """

    __slots__ = ("_appends", "_mode", "_scheme", "_trusted", "believed", "taken")

    def __init__(self, mode: Forwarded, trusted: tuple[Network, ...] | None, scheme: bytes, *, is_believed: bool, certified: bool) -> None:
        self._mode = mode
        self._trusted = trusted
        self._scheme = scheme
        self.believed = is_believed
        self._appends = mode is Forwarded.APPEND and is_believed
        if mode is Forwarded.PRESERVE:
            self.taken = _NOTHING
        elif self._appends:
            self.taken = _WRITTEN_WITH_CERT if certified else _WRITTEN
        else:
            self.taken = _REMOVED

    def apply(self, found: dict[bytes, bytes], client: bytes, host: bytes) -> list[tuple[bytes, bytes]]:
        """The (name, value) lines to write. `found` is what was taken, `client` the peer's address, `host` the request's."""
        mode = self._mode
        if mode is Forwarded.PRESERVE or mode is Forwarded.OFF:
            return []
        if client == b"unix":
            client = b""  # no address: RFC 7239 section 6.2 calls it unknown
        if found and self._appends:
            return self._append(found, client, host)
        lines = [(X_FORWARDED_FOR, client or b"unknown"), (X_FORWARDED_PROTO, self._scheme)]
        if host:
            lines.append((X_FORWARDED_HOST, host))
        if client:
            lines.append((X_REAL_IP, client))
        return lines

    def client_certificate(self, found: dict[bytes, bytes], element: bytes) -> bytes:
        """The value of X-Forwarded-Client-Cert for a client that showed the certificate of `element`; b"": none is written.

        Where a listener asks for certificates nobody gets past that by writing the field without showing one. What a believed
        peer says stands before ours, unless a quote in it is open.
        """
        mode = self._mode
        if mode is Forwarded.PRESERVE or mode is Forwarded.OFF:
            return b""
        before = found.get(_CLIENT_CERT, b"") if self._appends else b""
        return before + b"," + element if before and _closed(before) else element

    def _append(self, found: dict[bytes, bytes], client: bytes, host: bytes) -> list[tuple[bytes, bytes]]:
        chain = found.get(b"x-forwarded-for", b"").strip(b", \t")
        chain = chain + b", " + (client or b"unknown") if chain else client or b"unknown"
        lines = [(X_FORWARDED_FOR, chain), (X_FORWARDED_PROTO, found.get(b"x-forwarded-proto") or self._scheme)]
        host = found.get(b"x-forwarded-host") or host
        if host:
            lines.append((X_FORWARDED_HOST, host))
        real = found.get(b"x-real-ip") or real_ip(self._trusted, chain, client)
        if real:
            lines.append((X_REAL_IP, real))
        return lines


class ForwardedPolicy:
    """`forwarded` and `trustedProxies` of one listener, compiled. `scheme` is what a client speaks: http or https.

    `certified`: the listener asks clients for certificates, so that what they say about one is worth nothing.
    """

    __slots__ = ("_believed", "_others", "_trusted")

    def __init__(self, mode: Forwarded, trusted: tuple[Network, ...] | None, scheme: bytes = b"http", *, certified: bool = False) -> None:
        self._trusted = trusted
        self._believed = PeerRules(mode, trusted, scheme, is_believed=True, certified=certified)
        self._others = PeerRules(mode, trusted, scheme, is_believed=False, certified=certified)

    def for_peer(self, peer: Address | None) -> PeerRules:
        """The rules for a connection's peer (None: a unix socket's). Ask once per connection."""
        return self._believed if believed(self._trusted, peer) else self._others
