"""A KubeApi over objects in memory: lists and watches as a healthy API server does them, fails when told to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator

from sidecar.kube.api import KubeError
from sidecar.kube.hub import Access
from sidecar.kube.objects import OPENED, Json, ObjectList, Resource, Selection, WatchEvent

Place = tuple[Resource, str]


class Store:
    """`put` and `delete` change objects, `fail` makes every request fail until `mend`. `asked` counts requests by (verb, selection)."""

    def __init__(self, namespace: str = "shop") -> None:
        self.namespace = namespace
        self.asked: Counter[tuple[str, str]] = Counter()
        self.watching: Counter[str] = Counter()
        """Open watches by selection."""
        self.closed = False
        self.connects = 0
        self.no_access: KubeError | None = None
        self._objects: dict[tuple[Resource, str, str], Json] = {}
        self._history: list[tuple[Resource, str, WatchEvent]] = []
        self._news = asyncio.Condition()
        self._failure: KubeError | None = None

    async def connect(self) -> Access:
        """What a Hub calls."""
        self.connects += 1
        if self.no_access is not None:
            raise self.no_access
        return Access(self, self.namespace)

    async def put(self, resource: Resource, object_: Json, namespace: str = "shop") -> None:
        """Create an object, or replace the one of its name."""
        key = (resource, namespace, object_["metadata"]["name"])
        kind = "MODIFIED" if key in self._objects else "ADDED"
        version = str(len(self._history) + 1)
        stored = {**object_, "metadata": {**object_["metadata"], "namespace": namespace, "resourceVersion": version}}
        self._objects[key] = stored
        await self._tell(resource, namespace, WatchEvent(kind, stored))

    async def delete(self, resource: Resource, name: str, namespace: str = "shop") -> None:
        """Remove an object."""
        await self._tell(resource, namespace, WatchEvent("DELETED", self._objects.pop((resource, namespace, name))))

    async def fail(self, error: KubeError) -> None:
        """End every watch with `error`, and refuse what comes."""
        async with self._news:
            self._failure = error
            self._news.notify_all()

    def mend(self) -> None:
        """All is well again."""
        self._failure = None

    async def list(self, selection: Selection, *, resource_version: str = "") -> ObjectList:
        self.asked["list", str(selection)] += 1
        await asyncio.sleep(0)
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        found = [
            object_ for (resource, namespace, _), object_ in self._objects.items() if _selects(selection, resource, namespace, object_)
        ]
        return ObjectList(str(len(self._history)), found)

    async def watch(self, selection: Selection, *, resource_version: str, timeout_seconds: int) -> AsyncGenerator[WatchEvent, None]:
        self.asked["watch", str(selection)] += 1
        self.watching[str(selection)] += 1
        try:
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            yield OPENED
            seen = int(resource_version)
            while True:
                async with self._news:
                    await self._news.wait_for(lambda seen=seen: len(self._history) > seen or self._failure is not None)
                if self._failure is not None:
                    raise self._failure.with_traceback(None)
                news, seen = self._history[seen:], len(self._history)
                for resource, namespace, event in news:
                    if _selects(selection, resource, namespace, event.object):
                        yield event
        finally:
            self.watching[str(selection)] -= 1

    async def create(self, resource: Resource, namespace: str, body: Json) -> Json:
        raise NotImplementedError

    async def patch(self, resource: Resource, namespace: str, name: str, body: Json) -> Json:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.closed = True

    async def _tell(self, resource: Resource, namespace: str, event: WatchEvent) -> None:
        async with self._news:
            self._history.append((resource, namespace, event))
            self._news.notify_all()


def _selects(selection: Selection, resource: Resource, namespace: str, object_) -> bool:
    metadata = object_["metadata"]
    if (selection.resource, selection.namespace) != (resource, namespace) or selection.name not in ("", metadata["name"]):
        return False
    wanted = dict(pair.split("=") for pair in selection.labels.split(",") if pair)
    return wanted.items() <= metadata.get("labels", {}).items()
