"""Follows Kubernetes Services through their EndpointSlices; what these mean is in `slice_rules.py`.

Changes go straight to the balancer, without a new snapshot. The first one after a pause goes at once, further ones
together a moment later: a rollout of a thousand pods costs ten merges a second, not a thousand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from sidecar.kube.hub import Hub
from sidecar.kube.objects import ENDPOINT_SLICES, Json, Selection
from sidecar.kube.slice_rules import ANYWHERE, Merged, Place, Slice, merge, read_slice
from sidecar.model.snapshot import ServiceName
from sidecar.upstream.service import ServiceView

SERVICE_NAME: Final = "kubernetes.io/service-name"
"""The label that says whose slices they are, whoever manages them."""
GATHER_SECONDS: Final = 0.1
"""The shortest time between two merges."""

Report = Callable[[ServiceView], None]


class EndpointSlices:
    """Follows Services for upstreams. `place`: where we run, for topology hints; `namespace`: the default one, "" as the hub says."""

    def __init__(self, hub: Hub, place: Place = ANYWHERE, namespace: str = "") -> None:
        self._hub = hub
        self._place = place
        self._namespace = namespace

    def follow(self, service: ServiceName, report: Report) -> FollowedService:
        """See `upstream.service.FollowService`. Upstreams of the same Service share one watch."""
        selection = Selection(ENDPOINT_SLICES, service.namespace or self._namespace, labels=f"{SERVICE_NAME}={service.name}")
        return FollowedService(self._hub, selection, service.port, self._place, report)


class FollowedService:
    """One Service and the port that is wanted of it; a Sink."""

    def __init__(self, hub: Hub, selection: Selection, port: int | str, place: Place, report: Report) -> None:
        self._port = port
        self._place = place
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._objects: Mapping[str, Json] = {}
        self._read: dict[str, tuple[Json, Slice]] = {}
        """By name: the object, and what it says; an object that is the same is not read again."""
        self._merged = Merged()
        self._lost = ""
        self._earliest = 0.0
        """When the next merge may be (loop time)."""
        self._timer: asyncio.TimerHandle | None = None
        self._subscription = hub.follow(selection, self)

    def close(self) -> None:
        """See Followed."""
        self._subscription.close()
        if self._timer is not None:
            self._timer.cancel()

    def changed(self, objects: Mapping[str, Json]) -> None:
        """See Sink."""
        self._objects = dict(objects)  # what we were given changes under us
        self._lost = ""
        if self._timer is None:
            if self._loop.time() >= self._earliest:
                self._merge()
            else:
                self._timer = self._loop.call_at(self._earliest, self._merge)

    def lost(self, message: str) -> None:
        """See Sink."""
        self._lost = message
        self._say()

    def regained(self) -> None:
        """See Sink."""
        self._lost = ""
        self._say()

    def _merge(self) -> None:
        self._timer = None
        self._earliest = self._loop.time() + GATHER_SECONDS
        before, self._read = self._read, {}
        for name, slice_ in sorted(self._objects.items()):
            known = before.get(name)
            self._read[name] = known if known is not None and known[0] is slice_ else (slice_, read_slice(slice_))
        self._merged = merge((one for _, one in self._read.values()), self._port, self._place)
        self._say()

    def _say(self) -> None:
        self._report(ServiceView(self._merged.addresses, self._lost or self._merged.problem))
