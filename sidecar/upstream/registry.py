"""The registry of upstreams: brings what runs in line with a snapshot, and finds an upstream by its name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sidecar.errors import UpstreamError
from sidecar.model.reason import Phase, Reason
from sidecar.model.snapshot import AllowEntry, Snapshot
from sidecar.model.status import UpstreamStatus
from sidecar.observe.observer import Observer
from sidecar.tls.store import TlsStore
from sidecar.upstream.base import UpstreamRuntime
from sidecar.upstream.forward import Forward
from sidecar.upstream.resolver import Resolver
from sidecar.upstream.runtime import ConfiguredUpstream
from sidecar.upstream.service import FollowService


class Registry:
    """Level-triggered: only the difference between an upstream as it runs and as it should be counts, not what happened."""

    __slots__ = ("_draining", "_follow_service", "_forward", "_observer", "_reconciling", "_resolver", "_tls", "_upstreams")

    def __init__(
        self,
        observer: Observer,
        resolver: Resolver | None = None,
        follow_service: FollowService | None = None,
        tls: TlsStore | None = None,
    ) -> None:
        """`follow_service` is left out only where no upstream names a Kubernetes Service, `tls` only where none has TLS."""
        self._tls = TlsStore() if tls is None else tls
        self._tls.on_change.append(self._tls_changed)
        self._observer = observer
        self._resolver = resolver or Resolver()
        self._follow_service = follow_service
        self._upstreams: dict[str, ConfiguredUpstream] = {}
        self._draining: dict[str, ConfiguredUpstream] = {}
        """Removed from the document, still used by exchanges that began before."""
        self._forward: Forward | None = None
        self._reconciling = asyncio.Lock()

    async def reconcile(self, snapshot: Snapshot) -> None:
        """Bring upstreams in line with `snapshot`; call it before `snapshot` becomes the active one.

        An unchanged upstream is not touched. A changed one keeps the endpoints, connections, budget and balancer that
        its change does not concern. A removed one drains. New names are waited for a moment, never longer.
        """
        async with self._reconciling:
            self._forget_drained()
            new = [
                ConfiguredUpstream(config, self._resolver, self._observer, self._follow_service, self._tls)
                for name, config in snapshot.upstreams.items()
                if name not in self._upstreams
            ]
            self._upstreams.update({upstream.config.name: upstream for upstream in new})
            changed = [
                (upstream, config) for name, config in snapshot.upstreams.items() if (upstream := self._upstreams[name]).config != config
            ]
            for name in self._upstreams.keys() - snapshot.upstreams.keys():
                self._draining[name] = self._upstreams.pop(name)
            looks = (upstream.settled() for upstream in new)
            await asyncio.gather(*looks, *(upstream.reconfigure(config) for upstream, config in changed))
            for upstream in self._draining.values():
                await upstream.aclose()

    def get(self, name: str) -> UpstreamRuntime:
        """The upstream `name`, also while it drains. Raises UpstreamError DESTINATION_NOT_FOUND when there is none."""
        upstream = self._upstreams.get(name) or self._draining.get(name)
        if upstream is None:
            raise UpstreamError(Reason.DESTINATION_NOT_FOUND, f"no upstream {name!r}", phase=Phase.POOL)
        return upstream

    async def forward(self, host: str, port: int, allow: Sequence[AllowEntry]) -> UpstreamRuntime:
        """The implicit upstream `forward` for one destination; see Forward.destination."""
        if self._forward is None:
            self._forward = Forward(self._resolver, self._observer)
        return await self._forward.destination(host, port, allow)

    def statuses(self) -> list[UpstreamStatus]:
        """The upstreams of the document, in its order."""
        return [upstream.status() for upstream in self._upstreams.values()]

    def _tls_changed(self) -> None:
        for upstream in (*self._upstreams.values(), *self._draining.values()):
            upstream.tls_changed()

    def _forget_drained(self) -> None:
        self._draining = {name: upstream for name, upstream in self._draining.items() if not upstream.quiet}

    async def aclose(self) -> None:
        """Close idle connections, stop following names. Exchanges in flight must have ended, or end by themselves."""
        async with self._reconciling:
            for upstream in (*self._upstreams.values(), *self._draining.values()):
                await upstream.aclose()
            if self._forward is not None:
                await self._forward.aclose()
            await self._resolver.aclose()
