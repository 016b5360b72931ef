"""What the reflector's tests share: a KubeApi that does what a script says, a sink that remembers, and the law of the request rate."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from sidecar.kube.api import ApiError, BadAnswer, KubeApi, KubeError, Unreachable
from sidecar.kube.objects import CONFIG_MAPS, OPENED, Json, ObjectList, Resource, Selection, WatchEvent
from sidecar.kube.reflector import Reflector
from sidecar.tasks import cancel_and_wait, create_task

HOUR: Final = 3600.0
ORDERS: Final = Selection(CONFIG_MAPS, "shop", name="orders")
FOREVER: Final = 1e9
BOOKMARKS: Final = 60.0


def config_map(version: int, text: str = "", name: str = "orders") -> Json:
    return {"metadata": {"name": name, "namespace": "shop", "resourceVersion": str(version)}, "data": {"text": text or f"v{version}"}}


def listed(version: int, *items: Json) -> ObjectList:
    return ObjectList(str(version), list(items))


def event(kind: str, version: int, text: str = "", name: str = "orders") -> WatchEvent:
    return WatchEvent(kind, config_map(version, text, name))


def bookmark(version: int) -> WatchEvent:
    return WatchEvent("BOOKMARK", {"kind": "ConfigMap", "metadata": {"resourceVersion": str(version)}})


Step = WatchEvent | float | KubeError
"""Of a watch that has been accepted: tell, wait so many seconds, fail."""
Watch = Sequence[Step] | KubeError
"""A KubeError alone: the watch is refused."""
QUIET: Final[Watch] = (FOREVER,)
"""Open, without a word for ever: no changes and no bookmarks, or half open."""


DOWN: Final = Unreachable("connection refused")
GONE = ApiError("too old resource version: 5 (9)", status=410, reason="Expired")
TOO_LARGE = ApiError("Timeout: Too large resource version: 9, current: 5", status=504, reason="Timeout")
UNAUTHORIZED = ApiError("Unauthorized", status=401, reason="Unauthorized")
FORBIDDEN = ApiError('configmaps "orders" is forbidden', status=403, reason="Forbidden")
NOT_FOUND = ApiError("the server could not find the requested resource", status=404, reason="NotFound")
BROKEN = ApiError("Internal Server Error", status=500, reason="InternalError")
NOT_NOW = ApiError("the server is currently unable", status=503, reason="ServiceUnavailable")
TRUNCATED = BadAnswer("a line of the watch ends in the middle")


def throttled(seconds: float | None) -> ApiError:
    """429; `seconds` is its Retry-After."""
    return ApiError("too many requests", status=429, reason="TooManyRequests", retry_after=seconds)


FIRST: Final = listed(5, config_map(5))


@dataclass
class Asked:
    """One request."""

    at: float
    verb: str
    version: str
    seconds: int = 0


@dataclass
class ScriptedApi:
    """The n-th list (watch) gets the n-th answer, later ones the last. Both may be changed at any time.

    `honest`: an open watch gets a bookmark each minute and ends after the seconds that were asked for, as a real one.
    """

    lists: Sequence[ObjectList | KubeError]
    watches: Sequence[Watch]
    honest: bool = False
    asked: list[Asked] = field(default_factory=list)
    open: int = 0
    """Watches that are open now."""
    most_open: int = 0

    def of(self, verb: str) -> list[Asked]:
        return [request for request in self.asked if request.verb == verb]

    async def list(self, selection: Selection, *, resource_version: str = "") -> ObjectList:
        answers = self.lists
        number = len(self.of("list"))
        self.asked.append(Asked(_now(), "list", resource_version))
        await asyncio.sleep(0.001)
        answer = answers[min(number, len(answers) - 1)]
        if isinstance(answer, KubeError):
            raise answer.with_traceback(None)
        return answer

    async def watch(self, selection: Selection, *, resource_version: str, timeout_seconds: int) -> AsyncGenerator[WatchEvent, None]:
        answers = self.watches
        number = len(self.of("watch"))
        self.asked.append(Asked(_now(), "watch", resource_version, timeout_seconds))
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await asyncio.sleep(0.001)
            answer = answers[min(number, len(answers) - 1)]
            if isinstance(answer, KubeError):
                raise answer.with_traceback(None)
            yield OPENED
            until = _now() + timeout_seconds
            for step in answer:
                if isinstance(step, WatchEvent):
                    yield step
                elif isinstance(step, KubeError):
                    raise step.with_traceback(None)
                elif not self.honest:
                    await asyncio.sleep(step)
                else:
                    async for told in self._live(until, _now() + step):
                        yield told
                    if _now() >= until:
                        return
        finally:
            self.open -= 1

    @staticmethod
    async def _live(until: float, step_ends: float) -> AsyncIterator[WatchEvent]:
        while (now := _now()) < min(until, step_ends):
            await asyncio.sleep(min(BOOKMARKS, until - now, step_ends - now))
            yield bookmark(int(_now()))

    async def create(self, resource: Resource, namespace: str, body: Json) -> Json:
        raise NotImplementedError

    async def patch(self, resource: Resource, namespace: str, name: str, body: Json) -> Json:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


@dataclass
class Heard:
    """A sink: what it was told, and when."""

    news: list[tuple[float, str, Any]] = field(default_factory=list)
    stirred: asyncio.Event = field(default_factory=asyncio.Event)

    def changed(self, objects: Mapping[str, Json]) -> None:
        self._note("changed", {name: item.get("data", {}).get("text") for name, item in objects.items()})

    def lost(self, message: str) -> None:
        self._note("lost", message)

    def regained(self) -> None:
        self._note("regained", None)

    def _note(self, kind: str, what: Any) -> None:
        self.news.append((_now(), kind, what))
        self.stirred.set()

    @property
    def kinds(self) -> list[str]:
        return [kind for _, kind, _ in self.news]

    @property
    def states(self) -> list[dict[str, str]]:
        """What `changed` said, in order."""
        return [what for _, kind, what in self.news if kind == "changed"]

    @property
    def messages(self) -> list[str]:
        return [what for _, kind, what in self.news if kind == "lost"]

    async def until(self, kind: str, what: Any = ..., *, count: int = 1, seconds: float = 60.0) -> None:
        """Wait for the `count`-th news of this kind (that says `what`)."""
        async with asyncio.timeout(seconds):
            while sum(k == kind and what in (..., w) for _, k, w in self.news) < count:
                self.stirred.clear()
                await self.stirred.wait()


class Timed:
    """A KubeApi before another one; `asked` has the time of each list and watch."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self.asked: list[float] = []
        self.create, self.patch, self.aclose = api.create, api.patch, api.aclose

    async def list(self, selection: Selection, *, resource_version: str = "") -> ObjectList:
        self.asked.append(_now())
        return await self._api.list(selection, resource_version=resource_version)

    def watch(self, selection: Selection, *, resource_version: str, timeout_seconds: int) -> AsyncGenerator[WatchEvent, None]:
        self.asked.append(_now())
        return self._api.watch(selection, resource_version=resource_version, timeout_seconds=timeout_seconds)


def _now() -> float:
    return asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def following(
    api: KubeApi, selection: Selection = ORDERS, *, seed: int = 1, **options: Any
) -> AsyncIterator[tuple[Reflector, Heard]]:
    """A reflector at work."""
    heard = Heard()
    reflector = Reflector(api, selection, heard, rng=Random(seed), **options)
    task = create_task(reflector.run(), name="reflector")
    try:
        yield reflector, heard
        assert not task.done(), "the reflector has ended by itself"
    finally:
        await cancel_and_wait([task])


def assert_paced(times: Sequence[float], *, slack: float = 1e-6, burst: int = 2) -> None:
    """Any T seconds hold at most T + `burst` requests: no two requests i < j with j - i + 1 > (their distance) + `burst`.

    `burst` is 3 where a client tries new credentials after a 401.
    """
    least = float("inf")
    for number, at in enumerate(times):
        least = min(least, number - at)
        asked = number - at - least + 1
        assert asked <= burst + slack, f"too many requests up to {at - times[0]:.3f} s after the first: {len(times)} in all"
