"""Rules for listeners and upstreams that types cannot express. Each finding is a place and a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from msgspec import UNSET

from sidecar.config import values
from sidecar.config.problem import Path, shown
from sidecar.config.rules_health import check_health
from sidecar.config.rules_reach import check_listener_tls, check_reach
from sidecar.config.rules_values import Finding, attempt
from sidecar.model.document_ends import ListenerDoc, LoadBalancerDoc, RetryBudgetDoc, ServiceDoc, UpstreamDoc
from sidecar.model.quantity import parse_size
from sidecar.model.snapshot import Balancing, HashOn, Mode

FORWARD: Final = "forward"
"""The implicit upstream of destinations that `allow` admits."""
_HEAD_MIN: Final = 1024
_HEAD_MAX: Final = 1024 * 1024
_NAMELESS: Final = frozenset({HashOn.SOURCE_IP, HashOn.PATH})


def unique(path: Path, names: Iterable[Any]) -> Iterator[Finding]:
    """A finding for each name that an earlier item has; UNSET is no name."""
    first: dict[Any, int] = {}
    for index, name in enumerate(names):
        if name is not UNSET and first.setdefault(name, index) != index:
            yield (*path, index, "name"), f"{shown(name)} is also the name of {path[-1]}[{first[name]}] (names are unique: write another)"


def bind_of(listener: ListenerDoc) -> str:
    """The address to bind, the default filled in: a way out is not opened to the network by accident."""
    if listener.bind is not UNSET:
        return listener.bind
    return "127.0.0.1" if listener.mode is Mode.FORWARD else "0.0.0.0"


def check_listeners(listeners: list[ListenerDoc]) -> Iterator[Finding]:
    """Names, addresses, sizes, networks and destinations of the listeners."""
    if not listeners:
        yield ("listeners",), "there is no listener (leave listeners out for the two default ones)"
    yield from unique(("listeners",), (listener.name for listener in listeners))
    for index, listener in enumerate(listeners):
        path: Path = ("listeners", index)
        yield from _check_address(path, listener)
        yield from _check_sizes(path, listener)
        for number, text in enumerate(listener.trusted_proxies or ()):
            yield from attempt((*path, "trustedProxies", number), values.network, text)
        for number, text in enumerate(listener.allow):
            yield from attempt((*path, "allow", number), values.allow_entry, text)
        if listener.tls is not None:
            yield from check_listener_tls((*path, "tls"), listener.tls)
        if listener.allow and listener.mode is Mode.REVERSE:
            yield (*path, "allow"), "allow is for listeners of mode Forward (remove it, or write mode: Forward)"
    yield from _collisions(listeners)


def _check_address(path: Path, listener: ListenerDoc) -> Iterator[Finding]:
    bind = bind_of(listener)
    yield from attempt((*path, "bind"), values.bind_address, bind)
    is_unix = bind.startswith("unix:")
    if listener.port is UNSET and not is_unix:
        yield (*path, "port"), "is required (write port: 15001, or 0 for any free one)"
    elif is_unix and listener.port:
        yield (*path, "port"), "a unix socket has no port (remove it)"


def _check_sizes(path: Path, listener: ListenerDoc) -> Iterator[Finding]:
    head, target = parse_size(listener.max_header_bytes), parse_size(listener.max_target_bytes)
    if not _HEAD_MIN <= head <= _HEAD_MAX:
        yield (*path, "maxHeaderBytes"), f"{listener.max_header_bytes} is out of range (write 1Ki to 1Mi)"
    elif not 0 < target <= head:
        yield (
            (*path, "maxTargetBytes"),
            f"{listener.max_target_bytes} is out of range (the target is part of the head: write 1 to maxHeaderBytes, {listener.max_header_bytes})",
        )


def _collisions(listeners: list[ListenerDoc]) -> Iterator[Finding]:
    """Two listeners on one address. Port 0 is never the same port."""
    seen: dict[int, list[tuple[int, str]]] = {}
    for index, listener in enumerate(listeners):
        bind, port = bind_of(listener), listener.port or 0
        is_unix = bind.startswith("unix:")
        if not port and not is_unix:
            continue
        others = seen.setdefault(port, [])
        taken = next((other for other, other_bind in others if _overlap(bind, other_bind)), None)
        if taken is None:
            others.append((index, bind))
        else:
            place = bind if is_unix else f"port {port}"
            yield ("listeners", index, "bind" if is_unix else "port"), f"{place} is taken by listeners[{taken}] (write another)"


def _overlap(one: str, two: str) -> bool:
    if one == two:
        return True
    try:
        first, second = ip_address(one), ip_address(two)
    except ValueError:
        return False
    return _covers(first, second) or _covers(second, first)


def _covers(wide: IPv4Address | IPv6Address, other: IPv4Address | IPv6Address) -> bool:
    return wide.is_unspecified and (wide.version == 6 or other.version == 4)  # `::` is bound for both families


def check_upstreams(upstreams: list[UpstreamDoc]) -> Iterator[Finding]:
    """Names, addresses, balancing and budgets of the upstreams."""
    yield from unique(("upstreams",), (upstream.name for upstream in upstreams))
    for index, upstream in enumerate(upstreams):
        path: Path = ("upstreams", index)
        if upstream.name == FORWARD:
            yield (*path, "name"), f"{FORWARD} is the name of the forward listeners' own upstream (write another)"
        yield from _check_source(path, upstream)
        yield from _check_targets(path, upstream)
        if upstream.dns is not None:
            yield from attempt((*path, "dns", "host"), values.hostname, upstream.dns.host)
        if upstream.service is not None:
            yield from _check_service((*path, "service"), upstream.service)
        yield from check_reach(path, upstream)
        yield from check_health(path, upstream)
        yield from _check_balancer((*path, "loadBalancer"), upstream.load_balancer)
        yield from _check_budget((*path, "retryBudget"), upstream.retry_budget)


def _check_source(path: Path, upstream: UpstreamDoc) -> Iterator[Finding]:
    given = [
        name for name, value in (("targets", upstream.targets), ("service", upstream.service), ("dns", upstream.dns)) if value is not None
    ]
    if not given:
        yield path, "has no endpoints (write exactly one of targets, service and dns)"
    elif len(given) > 1:
        yield (*path, given[1]), f"{' and '.join(given)} exclude each other (keep exactly one)"


def _check_targets(path: Path, upstream: UpstreamDoc) -> Iterator[Finding]:
    if upstream.targets is None:
        return
    path = (*path, "targets")
    for number, target in enumerate(upstream.targets):
        yield from attempt((*path, number, "url"), values.make_target, target.url)
    if not upstream.targets:
        yield path, 'there is no target (write for example [{url: "http://127.0.0.1:8000"}])'
    elif not any(target.weight for target in upstream.targets):
        yield path, "every weight is 0, so no target would get a request (write a weight above 0)"


def _check_service(path: Path, service: ServiceDoc) -> Iterator[Finding]:
    yield from attempt((*path, "name"), values.object_name, service.name)
    if service.namespace is not None:
        yield from attempt((*path, "namespace"), values.object_name, service.namespace)
    try:
        values.service_port(service.port)
    except ValueError as error:
        yield (*path, "port"), str(error)


def _check_balancer(path: Path, balancer: LoadBalancerDoc) -> Iterator[Finding]:
    hash_on = balancer.hash_on
    if balancer.policy is not Balancing.CONSISTENT_HASH:
        if hash_on is not None:
            yield (*path, "hashOn"), "hashOn is for the policy ConsistentHash (remove it, or write policy: ConsistentHash)"
    elif hash_on is None:
        yield path, "ConsistentHash needs to know what to hash (write for example hashOn: {type: Header, name: x-user})"
    elif hash_on.type in _NAMELESS:
        if hash_on.name is not None:
            yield (*path, "hashOn", "name"), f"{hash_on.type.value} has no name (remove it)"
    elif not hash_on.name:
        yield (*path, "hashOn"), f"{hash_on.type.value} needs a name (write name: ...)"
    elif hash_on.type is not HashOn.QUERY:
        yield from attempt((*path, "hashOn", "name"), values.header_name, hash_on.name)


def _check_budget(path: Path, budget: RetryBudgetDoc) -> Iterator[Finding]:
    for place, text in (((*path, "interval"), budget.interval), ((*path, "minRetryRate", "interval"), budget.min_retry_rate.interval)):
        if not values.seconds(text):
            yield place, "an interval cannot be 0s (write for example 10s)"
