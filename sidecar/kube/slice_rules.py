"""What the EndpointSlices of a Service mean: which addresses get requests now. Pure.

The rules are those of the API's own documentation (discovery.k8s.io/v1 EndpointSlice) and of kube-proxy, so that a
sidecar and a plain connection to the Service agree on who is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

from sidecar.kube.objects import Json
from sidecar.upstream.service import ServiceAddress

FQDN: Final = "FQDN"
_FAMILIES: Final = {"IPv4": 4, "IPv6": 6}
_NOBODY: Final[frozenset[str]] = frozenset()


class Place(NamedTuple):
    """Where we run, for topology hints; "" when it is not known."""

    zone: str = ""
    node: str = ""


ANYWHERE: Final = Place()


class Member(NamedTuple):
    """One endpoint of a slice."""

    host: str
    ready: bool
    leaving: bool
    """Still serving while it terminates."""
    zones: frozenset[str]
    nodes: frozenset[str]
    """Where its requests should come from; empty: no hint."""
    pod: str
    """What is behind the address, to recognise it in a slice of the other family; "" when the slice does not say."""


class Slice(NamedTuple):
    """One EndpointSlice: what its endpoints have in common, and they."""

    address_type: str
    ports: tuple[tuple[str, int | None], ...]
    """(name, number) of its TCP ports; None: every port."""
    members: tuple[Member, ...]


class Merged(NamedTuple):
    """The addresses for requests, sorted; or none, and why there are none."""

    addresses: tuple[ServiceAddress, ...] = ()
    problem: str = ""


class _Found(NamedTuple):
    member: Member
    port: int
    family: int


# -- reading one


def read_slice(slice_: Mapping[str, Any]) -> Slice:
    """The parts of an EndpointSlice that matter; what has not the shape that the API promises is left out."""
    address_type = slice_.get("addressType")
    family = _FAMILIES.get(address_type) if isinstance(address_type, str) else None
    members = () if family is None else tuple(_members(slice_, family))
    return Slice(str(address_type), tuple(_ports(slice_)), members)


def _ports(slice_: Mapping[str, Any]) -> Iterator[tuple[str, int | None]]:
    for port in _objects(slice_, "ports"):
        if (port.get("protocol") or "TCP") != "TCP":
            continue
        number = port.get("port")
        if number is None or (isinstance(number, int) and 0 < number < 65536):
            yield str(port.get("name") or ""), number


def _members(slice_: Mapping[str, Any], family: int) -> Iterator[Member]:
    for endpoint in _objects(slice_, "endpoints"):
        addresses = endpoint.get("addresses")
        first = addresses[0] if isinstance(addresses, list) and addresses else None
        host = _canonical(first, family) if isinstance(first, str) else ""
        if not host:  # further addresses have no meaning (the field's documentation)
            continue
        conditions, hints = _object(endpoint, "conditions"), _object(endpoint, "hints")
        yield Member(
            host,
            conditions.get("ready") is not False,
            conditions.get("serving") is not False and conditions.get("terminating") is True,
            _names(hints, "forZones") if hints else _NOBODY,
            _names(hints, "forNodes") if hints else _NOBODY,
            _identity(_object(endpoint, "targetRef")),
        )


@lru_cache(maxsize=4096)
def _canonical(text: str, family: int) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        return ""
    return str(address) if address.version == family else ""


def _identity(reference: Json) -> str:
    uid = reference.get("uid")
    return uid if isinstance(uid, str) else "/".join(str(reference[key]) for key in ("kind", "namespace", "name") if reference.get(key))


def _names(hints: Json, key: str) -> frozenset[str]:
    return frozenset(str(hint.get("name")) for hint in _objects(hints, key))


def _objects(parent: Mapping[str, Any], key: str) -> Iterator[Json]:
    found = parent.get(key)
    return (item for item in found if isinstance(item, dict)) if isinstance(found, list) else iter(())


def _object(parent: Mapping[str, Any], key: str) -> Json:
    found = parent.get(key)
    return found if isinstance(found, dict) else {}


# -- merging them all


def merge(slices: Iterable[Slice], port: int | str, place: Place = ANYWHERE) -> Merged:
    """The addresses that get requests for `port` (its name, or the number that the pods listen on).

    Ready endpoints; when there is none, those that still serve while they terminate. IPv4 where there is a choice
    of families, the same pod's IPv6 address as its alternate; of these, the ones that topology hints give to `place`.
    """
    slices = list(slices)
    found = _reachable(slices, port)
    ready = [one for one in found if one.member.ready]
    usable = ready or [one for one in found if one.member.leaving]
    if not usable:
        return Merged(problem=_why_none(slices, port, endpoints=bool(found)))
    family = min(one.family for one in usable)
    chosen = [one for one in usable if one.family == family]
    if ready:
        chosen = _near(chosen, place)
    others = {(one.member.pod, one.port): one.member.host for one in usable if one.family != family and one.member.pod}
    return Merged(tuple(sorted(ServiceAddress(one.member.host, one.port, others.get((one.member.pod, one.port), "")) for one in chosen)))


def _reachable(slices: Iterable[Slice], port: int | str) -> list[_Found]:
    """Each address and port once; while an endpoint moves it may be in two slices, and the better word counts."""
    best: dict[tuple[str, int], _Found] = {}
    for slice_ in slices:
        number = _number(slice_, port)
        if number is None:
            continue
        family = _FAMILIES.get(slice_.address_type, 0)
        for member in slice_.members:
            known = best.get((member.host, number))
            if known is None or _rank(member) > _rank(known.member):
                best[member.host, number] = _Found(member, number, family)
    return list(best.values())


def _rank(member: Member) -> int:
    return 2 if member.ready else 1 if member.leaving else 0


def _number(slice_: Slice, port: int | str) -> int | None:
    """The number behind `port` in this slice; None: it has no such port."""
    for name, number in slice_.ports:
        if isinstance(port, int):
            if number is None or number == port:
                return port
        elif name == port and number is not None:
            return number
    return None


def _near(ready: list[_Found], place: Place) -> list[_Found]:
    """Those that the hints give to our node, else to our zone; all of them unless every endpoint has a hint and one is for us."""
    if place.node and all(one.member.nodes for one in ready) and (mine := [one for one in ready if place.node in one.member.nodes]):
        return mine
    if place.zone and all(one.member.zones for one in ready) and (mine := [one for one in ready if place.zone in one.member.zones]):
        return mine
    return ready


def _why_none(slices: list[Slice], port: int | str, *, endpoints: bool) -> str:
    if not slices:
        return "there are no EndpointSlices of it (no such Service, one without a selector, or of type ExternalName: write dns: for that)"
    if all(slice_.address_type == FQDN for slice_ in slices):
        return "its EndpointSlices hold host names, which are not followed (write dns: for them)"
    if endpoints:
        return "none of its endpoints is ready"
    if not any(slice_.members for slice_ in slices):
        return "it has no endpoints (no pod matches its selector)"
    have = sorted({_shown(name, number) for slice_ in slices for name, number in slice_.ports})
    return f"there is no TCP port {port} (its EndpointSlices have: {', '.join(have) or 'none'})"


def _shown(name: str, number: int | None) -> str:
    text = "any number" if number is None else str(number)
    return f"{name} ({text})" if name else text
