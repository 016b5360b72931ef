"""Consistent hashing: what of a request is hashed, and the ring that tells the owner of a hash.

The hash is BLAKE2b and not Python's own, which differs from process to process: all sidecars must agree.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Sequence
from hashlib import blake2b
from math import gcd
from struct import unpack
from typing import Final

from sidecar.model.endpoint import Endpoint
from sidecar.model.head import RequestHead
from sidecar.model.snapshot import HashOn, LoadBalancer
from sidecar.policy.matching import joined_header, query_values

_POINTS: Final = 128
"""Points of an endpoint with the least weight: shares differ by about 9 % (1 / sqrt(128))."""
_MAX_POINTS: Final = 16384
"""Of the whole ring, so that building it takes milliseconds, 200 KB in memory, however many endpoints there are."""
_PER_DIGEST: Final = 8


def hash_key(policy: LoadBalancer, head: RequestHead, client: str) -> bytes:
    """What `hashOn` names; b"" when the request has no such thing (then the choice is random)."""
    match policy.hash_on:
        case HashOn.HEADER:
            return joined_header(head.fields, policy.hash_name.lower().encode()) or b""
        case HashOn.COOKIE:
            return _cookie(head, policy.hash_name.encode())
        case HashOn.QUERY:
            return query_values(head.path).get(policy.hash_name.encode(), b"")
        case HashOn.SOURCE_IP:
            return client.encode()
        case HashOn.PATH:
            return head.path.partition(b"?")[0]
        case None:
            return b""


def _cookie(head: RequestHead, name: bytes) -> bytes:
    for _, lower, line in head.fields:
        if lower == b"cookie":
            for pair in line.split(b";"):
                key, _, value = pair.strip().partition(b"=")
                if key == name:
                    return value
    return b""


def _hash(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little")


def _points(label: str, count: int) -> list[int]:
    points: list[int] = []
    for piece in range(-(-count // _PER_DIGEST)):
        points += unpack("<8Q", blake2b(f"{piece} {label}".encode()).digest())
    return points[:count]


class Ring:
    """Points of endpoints on a circle; the owner of a hash is the owner of the next point."""

    __slots__ = ("_members", "_owners", "_points", "_signature")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._members = _in_order(endpoints)
        self._signature = [(member.label, member.weight) for member in self._members]
        share = _share([member.weight for member in self._members])
        ring = sorted(
            (point, index)
            for index, member in enumerate(self._members)
            for point in _points(member.label, max(1, int(member.weight * share)))
        )
        self._points = array("Q", (point for point, _ in ring))
        self._owners = array("L", (index for _, index in ring))

    def updated(self, endpoints: Sequence[Endpoint]) -> Ring:
        """The ring of `endpoints`; this one when labels and weights are the same."""
        members = _in_order(endpoints)
        if [(member.label, member.weight) for member in members] != self._signature:
            return Ring(endpoints)
        self._members = members
        return self

    def owner(self, key: bytes) -> Endpoint | None:
        """The endpoint that `key` belongs to, healthy or not; None on an empty ring."""
        if not self._points:
            return None
        place = bisect_left(self._points, _hash(key))
        return self._members[self._owners[place if place < len(self._owners) else 0]]

    def owner_among(self, key: bytes, choices: Collection[Endpoint]) -> Endpoint | None:
        """The first of `choices` on the way around the ring from `key`."""
        place = bisect_left(self._points, _hash(key))
        wanted = set(choices)
        for step in range(len(self._owners)):
            member = self._members[self._owners[(place + step) % len(self._owners)]]
            if member in wanted:
                return member
        return None


def _in_order(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    return sorted((endpoint for endpoint in endpoints if endpoint.weight > 0), key=lambda endpoint: endpoint.label)


def _share(weights: Sequence[int]) -> float:
    """Points per unit of weight. Halved until the ring is small enough, so that it changes seldom when the set does."""
    if not weights:
        return 0.0
    share = _POINTS / gcd(*weights)
    while sum(weights) * share > _MAX_POINTS and share > 2**-32:
        share /= 2
    return share
