"""Endpoints of a Kubernetes Service, as somebody who watches them reports them (`kube/endpoint_slices.py` in production)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from sidecar.model.endpoint import Endpoint
from sidecar.model.reason import Reason
from sidecar.model.snapshot import ServiceName

log = logging.getLogger("outrider")


class ServiceAddress(NamedTuple):
    """One address of a Service. `alternate`: another way to the same pod, for when it does not answer there."""

    host: str
    port: int
    alternate: str = ""


class ServiceView(NamedTuple):
    """A Service as far as it is known. `problem`: why there are no addresses, or why they may be old; "" when all is well."""

    addresses: tuple[ServiceAddress, ...]
    problem: str = ""


class Followed(Protocol):
    """A Service that is being followed."""

    def close(self) -> None:
        """Follow it no longer; nothing is reported from now on."""
        ...


FollowService = Callable[[ServiceName, Callable[[ServiceView], None]], Followed]
"""Calls its second argument with each new view of a Service until what it returned is closed.

Soon for the first time, also when nothing can be read, but never from within itself.
"""


class ServiceEndpoints:
    """The addresses of a Service. What was known stays while nothing newer can be read."""

    source = "service"
    first_look = 2.0
    """The first Service of all brings the Kubernetes client with it: a quarter of a second of CPU time, of which a pod may have little."""
    reason = Reason.DESTINATION_UNAVAILABLE

    def __init__(
        self, service: ServiceName, follow: FollowService, changed: Callable[[], None], known: Iterable[Endpoint] = (), *, tls: bool = False
    ) -> None:
        """`changed` is called after `endpoints` has been replaced; `known` are taken over where their addresses appear."""
        self._service = service
        self._tls = tls
        self._changed = changed
        self._addresses: tuple[ServiceAddress, ...] = ()
        self._alternates: dict[Endpoint, str] = {}
        self._known = {(endpoint.host, endpoint.port): endpoint for endpoint in known if endpoint.weight == 1 and endpoint.tls is tls}
        self._settled = asyncio.Event()
        self.endpoints: tuple[Endpoint, ...] = ()
        self.problem = f"{service}: not looked up yet"
        self._followed = follow(service, self._take)

    async def addresses(self, endpoint: Endpoint) -> Sequence[str]:
        """The endpoint's own, then its pod's address of the other family in case it does not answer (RFC 8305)."""
        alternate = self._alternates.get(endpoint)
        return (endpoint.host, alternate) if alternate else (endpoint.host,)

    def connect_failed(self, endpoint: Endpoint) -> None:
        """Changes are reported as they come; there is nobody to ask."""

    async def settled(self) -> None:
        """Wait until the first word has come, good or bad."""
        await self._settled.wait()

    async def aclose(self) -> None:
        """Follow the Service no longer."""
        self._followed.close()

    def _take(self, view: ServiceView) -> None:
        self._tell(view)
        if view.addresses != self._addresses:
            self._addresses = view.addresses
            known = self._known
            self.endpoints = tuple(known.get(at[:2]) or Endpoint(at.host, at.port, tls=self._tls) for at in view.addresses)
            self._known = {(endpoint.host, endpoint.port): endpoint for endpoint in self.endpoints}
            self._alternates = {endpoint: at.alternate for endpoint, at in zip(self.endpoints, view.addresses, strict=True) if at.alternate}
            self._changed()
        self._settled.set()

    def _tell(self, view: ServiceView) -> None:
        """Log what is wrong when it begins or becomes something else, and that it is over."""
        problem = f"{self._service}: {view.problem}" if view.problem else ""
        before, self.problem = self.problem, problem
        if problem == before:
            return
        if problem:
            kept = f"keeping {len(view.addresses)} endpoints" if view.addresses else "no endpoints"
            log.warning("%s; %s", problem, kept, extra={"event": "service_failed"})
        elif self._settled.is_set():
            log.info("%s: %d endpoints again", self._service, len(view.addresses), extra={"event": "service_restored"})
