"""The hub: one client and the reflectors behind everything that is read of the API server, made when somebody asks, shared by all who do.

A sidecar that asks for nothing of Kubernetes never connects, and never loads the client library.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Final, NamedTuple

from sidecar.kube.api import KubeApi, KubeError
from sidecar.kube.backoff import Backoff
from sidecar.kube.objects import Json, Selection
from sidecar.kube.reflector import Reflector, ReflectorStatus, Sink
from sidecar.tasks import cancel_and_wait, create_task

NO_ACCESS_SECONDS: Final = 60.0
"""The longest wait before a configuration that gave no access to an API server is read again: only a person can mend it."""


class Access(NamedTuple):
    """A way to the API server."""

    api: KubeApi
    namespace: str
    """Where objects are that name no namespace: the pod's own, or the context's of the kubeconfig."""


Connect = Callable[[], Awaitable[Access]]
"""Finds the API server and the credentials; sends nothing yet. Raises KubeError when there is no way to tell."""


class Hub:
    """Owns the client and all reflectors; one per process. Loop-bound, nothing in it is for threads."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._watches: dict[Selection, Watch] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._access: asyncio.Task[Access] | None = None
        self._no_access = ""
        """Why there is none."""
        self._past: Counter[tuple[str, str, str]] = Counter()
        """Requests of watches that nobody follows any more."""

    def follow(self, selection: Selection, sink: Sink) -> Subscription:
        """Keep `sink` informed about `selection` until the subscription is closed. `namespace` "" is the default one (see Access).

        All who follow the same selection share one watch; whoever comes later is soon told what is known already. Never
        calls `sink` from within.
        """
        watch = self._watches.get(selection)
        if watch is None:
            watch = self._watches[selection] = Watch(selection, self)
            if self._no_access:
                watch.lost(self._no_access)
        return watch.join(sink)

    async def access(self) -> Access:
        """The client, once there is a way to the API server; waits for as long as there is none."""
        if self._access is None:
            self._access = create_task(self._find_access(), name="find the API server")
        return await asyncio.shield(self._access)

    def statuses(self) -> dict[Selection, ReflectorStatus]:
        """What each watch has seen; those that have no access yet are not among them."""
        return {selection: watch.status for selection, watch in self._watches.items() if watch.status is not None}

    def requests(self) -> Counter[tuple[str, str, str]]:
        """Lists and watches that have ended, by resource, verb and outcome (failures.OUTCOMES)."""
        total = Counter(self._past)
        for watch in self._watches.values():
            total.update(watch.requests())
        return total

    def states(self) -> Counter[tuple[str, str]]:
        """What is followed now, by resource and `connected` or `lost`."""
        watches = self._watches.values()
        connected = ((watch, watch.status is not None and watch.status.connected) for watch in watches)
        return Counter((watch.selection.resource.plural, "connected" if up else "lost") for watch, up in connected)

    async def aclose(self) -> None:
        """End every watch and close the client."""
        for watch in list(self._watches.values()):
            self.end(watch)
        await cancel_and_wait(self._ending)
        if self._access is not None:
            await cancel_and_wait([self._access])
            if not self._access.cancelled() and self._access.exception() is None:
                await self._access.result().api.aclose()

    def end(self, watch: Watch) -> None:
        """The last one who followed it has left."""
        del self._watches[watch.selection]
        self._past.update(watch.requests())
        watch.task.cancel()
        self._ending.add(watch.task)
        watch.task.add_done_callback(self._ending.discard)

    async def _find_access(self) -> Access:
        backoff = Backoff(Random())
        while True:
            try:
                access = await self._connect()
            except KubeError as error:
                self._no_access = str(error)
                for watch in tuple(self._watches.values()):
                    watch.lost(self._no_access)
            else:
                self._no_access = ""
                return access
            await asyncio.sleep(backoff.next(longest=NO_ACCESS_SECONDS))


class Watch:
    """One selection and all who follow it; the Sink of its reflector."""

    def __init__(self, selection: Selection, hub: Hub) -> None:
        self.selection = selection
        self.status: ReflectorStatus | None = None
        self._hub = hub
        self._sinks: dict[Subscription, Sink] = {}
        self._objects: Mapping[str, Json] | None = None
        """None: not read yet."""
        self._problem = ""
        self.task = create_task(self._run(), name=f"watch {selection}")

    def join(self, sink: Sink) -> Subscription:
        """One more; it is told what is known in the loop's next turn."""
        subscription = Subscription(self)
        self._sinks[subscription] = sink
        asyncio.get_running_loop().call_soon(self._tell, subscription)
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """One less; nothing more is said to it. With the last one the watch ends."""
        if self._sinks.pop(subscription, None) is not None and not self._sinks:
            self._hub.end(self)

    def requests(self) -> dict[tuple[str, str, str], int]:
        """Its share of the hub's."""
        ended = self.status.requests if self.status is not None else {}
        return {(self.selection.resource.plural, verb, outcome): count for (verb, outcome), count in ended.items()}

    def changed(self, objects: Mapping[str, Json]) -> None:
        """See Sink."""
        self._objects, self._problem = objects, ""
        for sink in tuple(self._sinks.values()):
            sink.changed(objects)

    def lost(self, message: str) -> None:
        """See Sink. The same message twice is told once."""
        if message == self._problem:
            return
        self._problem = message
        for sink in tuple(self._sinks.values()):
            sink.lost(message)

    def regained(self) -> None:
        """See Sink."""
        self._problem = ""
        for sink in tuple(self._sinks.values()):
            sink.regained()

    async def _run(self) -> None:
        access = await self._hub.access()
        selection = self.selection._replace(namespace=self.selection.namespace or access.namespace)
        reflector = Reflector(access.api, selection, self)
        self.status = reflector.status
        await reflector.run()

    def _tell(self, subscription: Subscription) -> None:
        sink = self._sinks.get(subscription)
        if sink is None:
            return
        if self._objects is not None:
            sink.changed(self._objects)
        if self._problem:
            sink.lost(self._problem)


class Subscription:
    """One who follows a selection."""

    __slots__ = ("_watch",)

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def close(self) -> None:
        """Follow it no longer; the sink is not called any more. More than once is harmless."""
        self._watch.leave(self)
