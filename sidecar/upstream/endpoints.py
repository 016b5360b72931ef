"""Where an upstream's endpoints come from: static targets, or a DNS name that is asked again and again.

Kubernetes Services, the third kind, are in `service.py`.

A static target is one endpoint, also when it is a host name: its addresses are looked up when a connection is opened
(happy eyeballs over all of them). A `dns:` upstream has one endpoint per address of the name's preferred family, and
requests are balanced over them; an address of the other family is only raced against one that does not answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from sidecar.errors import UpstreamError
from sidecar.model.endpoint import Endpoint
from sidecar.model.reason import Reason
from sidecar.model.snapshot import DnsName, Target
from sidecar.tasks import cancel_and_wait, create_task
from sidecar.upstream.resolver import TTL_MAX, Resolver

log = logging.getLogger("outrider")

Key = tuple[str, int, str | None, int, bool]
"""Host, port, unix path, weight, TLS or not: endpoints that agree in these are the same one."""

REFRESH_GAP: Final = 1.0
"""Seconds between two questions for one name, however often connects fail."""
RETRY_MAX: Final = 30.0
"""Failed questions are repeated after 1, 2, 4 ... seconds, up to this."""
JITTER: Final = 0.1
"""Share by which a refresh comes later than the TTL says, at most."""


class EndpointSet(Protocol):
    """The current endpoints of one upstream."""

    source: str
    """`static`, `service` or `dns`."""
    endpoints: tuple[Endpoint, ...]
    reason: Reason
    """Why there are none, when there are none."""
    problem: str
    """The same in words, or why they may be old; "" when all is well."""
    first_look: float
    """Seconds for which a start or a reload waits for the first endpoints."""

    async def addresses(self, endpoint: Endpoint) -> Sequence[str]:
        """What to connect to. Raises UpstreamError DNS_TIMEOUT or DNS_ERROR."""
        ...

    def connect_failed(self, endpoint: Endpoint) -> None:
        """An endpoint could not be reached: what is known of it may be old."""
        ...

    async def settled(self) -> None:
        """Wait until the first look has ended, well or badly."""
        ...

    async def aclose(self) -> None:
        """Stop looking."""
        ...


def key_of(endpoint: Endpoint) -> Key:
    """What makes two endpoints the same one."""
    return endpoint.host, endpoint.port, endpoint.unix_path, endpoint.weight, endpoint.tls


class StaticEndpoints:
    """One endpoint per target of the document. `known`: endpoints of before, which are kept where they are the same."""

    source = "static"
    reason = Reason.DESTINATION_UNAVAILABLE
    problem = ""
    first_look = 0.0

    def __init__(self, targets: Iterable[Target], resolver: Resolver, known: Iterable[Endpoint] = ()) -> None:
        self._resolver = resolver
        before = {key_of(endpoint): endpoint for endpoint in known}
        self.endpoints = tuple(before.pop(key_of(endpoint), endpoint) for endpoint in map(_endpoint, targets))

    async def addresses(self, endpoint: Endpoint) -> Sequence[str]:
        """Literals are known; names are looked up, cached by TTL."""
        return (await self._resolver.lookup(endpoint.host)).addresses

    def connect_failed(self, endpoint: Endpoint) -> None:
        """The next connect asks DNS again."""
        self._resolver.forget(endpoint.host)

    async def settled(self) -> None:
        """They are there from the beginning."""

    async def aclose(self) -> None:
        """There is nothing to stop."""


def _endpoint(target: Target) -> Endpoint:
    return Endpoint(target.host, target.port, weight=target.weight, unix_path=target.unix_path, tls=target.tls)


class DnsEndpoints:
    """The addresses of a name, followed by TTL in a task of its own. The last answer stays while none better comes."""

    source = "dns"
    first_look = 0.5

    def __init__(
        self, name: DnsName, resolver: Resolver, changed: Callable[[], None], known: Iterable[Endpoint] = (), *, tls: bool = False
    ) -> None:
        """`changed` is called after `endpoints` has been replaced; `known` are taken over where their addresses appear."""
        self._name = name
        self._tls = tls
        self._resolver = resolver
        self._changed = changed
        self._alternates: tuple[str, ...] = ()
        """Addresses of the family that is not preferred."""
        self._poked = asyncio.Event()
        self._settled = asyncio.Event()
        self._failures = 0
        self._known = {endpoint.host: endpoint for endpoint in known if endpoint.port == name.port and endpoint.tls is tls}
        self.endpoints: tuple[Endpoint, ...] = ()
        self.reason = Reason.DESTINATION_UNAVAILABLE
        self.problem = f"{name.host}: not resolved yet"
        self._task = create_task(self._follow(), name=f"follow {name.host}")

    async def addresses(self, endpoint: Endpoint) -> Sequence[str]:
        """The endpoint's own, then one of the other family in case it does not answer (RFC 8305)."""
        alternates = self._alternates
        return (endpoint.host, random.choice(alternates)) if alternates else (endpoint.host,)

    def connect_failed(self, endpoint: Endpoint) -> None:  # noqa: ARG002  # the whole name is asked again
        """Ask again soon instead of waiting for the TTL."""
        self._poked.set()

    async def settled(self) -> None:
        """Wait until the first question has been answered, or has failed."""
        await self._settled.wait()

    async def aclose(self) -> None:
        """Stop following the name."""
        await cancel_and_wait([self._task])

    async def _follow(self) -> None:
        while True:
            delay = await self._look()
            self._settled.set()
            await asyncio.sleep(min(delay, REFRESH_GAP))
            try:
                async with asyncio.timeout(delay - REFRESH_GAP):
                    await self._poked.wait()
            except TimeoutError:
                continue

    async def _look(self) -> float:
        """Ask once; returns the seconds until the next time."""
        self._poked.clear()
        try:
            answer = await self._resolver.lookup(self._name.host, fresh=True)
        except UpstreamError as error:
            return self._keep_last(error)
        self._failures = 0
        self.problem = ""
        self._take(answer.addresses)
        ttl = max(answer.expires_at - asyncio.get_running_loop().time(), REFRESH_GAP)
        return min(ttl, TTL_MAX) * (1 + JITTER * random.random())

    def _keep_last(self, error: UpstreamError) -> float:
        self._failures += 1
        self.reason, self.problem = error.reason, error.detail
        if self._failures == 1:
            kept = f"keeping {len(self.endpoints)} endpoints" if self.endpoints else "no endpoints"
            log.warning("cannot resolve %s, %s", error.detail, kept, extra={"event": "dns_failed"})
        return float(min(2 ** min(self._failures - 1, 8), RETRY_MAX)) * (1 + JITTER * random.random())

    def _take(self, addresses: Sequence[str]) -> None:
        """The first address's family is the preferred one (RFC 6724)."""
        v6 = ":" in addresses[0]
        self._alternates = tuple(address for address in addresses if (":" in address) is not v6)
        wanted = sorted(address for address in addresses if (":" in address) is v6)  # servers rotate their answers
        if [endpoint.host for endpoint in self.endpoints] != wanted:
            self.endpoints = tuple(self._known.get(address) or Endpoint(address, self._name.port, tls=self._tls) for address in wanted)
            self._known = {endpoint.host: endpoint for endpoint in self.endpoints}
            self._changed()
