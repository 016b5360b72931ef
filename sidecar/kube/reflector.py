"""Reflector: keeps a copy of a selection of objects current, whatever the API server and the network do (list, watch, repeat).

Its user is a Sink, which is level-triggered: it is told what there is, never what happened.

One request at a time, one place where requests wait for their turn (`_turn`): never more than one per second, and two at
once after a pause, so that a list and its watch follow each other without delay. Any T seconds hold at most T + 2
requests, in every failure there is (T + 3 when a client tries new credentials after a 401: that is deducted afterwards).
Behind that, a back-off makes failures much rarer than the law demands.

Nothing is logged here but bugs: the Sink says what an outage means, and `status` counts. Time is the event loop's, so that a loop
with a clock of its own runs hours in a moment.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from random import Random
from typing import Any, Final, Protocol

from sidecar.kube.api import ApiError, BadAnswer, KubeApi, KubeError
from sidecar.kube.backoff import Backoff, Pace
from sidecar.kube.failures import Bug, ShortWatch, SilentWatch, asked_to_wait, explain, is_stale, longest_wait, outcome_of
from sidecar.kube.objects import OPENED, Json, ObjectList, Selection, WatchEvent

log = logging.getLogger("outrider")
WATCH_SECONDS: Final = (300, 600)
"""The server is asked to end a watch after a random time in between: thousands that began together do not return together."""
SILENCE_SECONDS: Final = 150.0
"""A watch that says nothing for so long is given up and made anew from where it was.

A half-open connection is silent for ever, and so is one without changes, were it not for bookmarks: the API server sends
one a minute (not promised). 150 s are two of them lost and half a minute to spare. A server without bookmarks costs one
request in 150 s, which is no failure. Whole lines count, so one that drips in byte by byte does not help.
"""
WELL_SECONDS: Final = 1.0
"""A watch is well once it has told something or has been open for so long; one that ends earlier has failed."""
APART_SECONDS: Final = 5.0
"""Watches that end well begin at least so far apart: a proxy that cuts them after two seconds costs 12 requests a minute."""
PROMPT_SECONDS: Final = 0.5
"""After a watch that ended well the next one follows at a random time within this."""
HEALTHY_SECONDS: Final = 120.0
"""After so long without a failure the back-off starts small again."""


class Sink(Protocol):
    """Who wants to know. Calls are synchronous and quick; they come one at a time, in order."""

    def changed(self, objects: Mapping[str, Json]) -> None:
        """All objects of the selection by name, as they are now: after each list, and after each event that changed one."""
        ...

    def lost(self, message: str) -> None:
        """The selection cannot be read now; what was known stays. Called once, and again when the reason becomes another one."""
        ...

    def regained(self) -> None:
        """It can be read again."""
        ...


class ReflectorStatus:
    """What a reflector has seen; for metrics and for people."""

    __slots__ = ("connected", "problem", "requests", "restarts")

    def __init__(self) -> None:
        self.connected = False
        """A watch is open, or the last one ended as agreed and the next is on its way."""
        self.problem = ""
        """The newest failure; "" while connected."""
        self.requests: Counter[tuple[str, str]] = Counter()
        """How requests ended, by verb (`list`, `watch`) and outcome (failures.OUTCOMES). A watch that is open has not ended."""
        self.restarts: Counter[str] = Counter()
        """Watches that were well and are over, by outcome."""


class Reflector:
    """Follows `selection` for `sink` until `run` is cancelled; `status` may be read at any time.

    `spread`: the first request waits a random time up to so many seconds. 0 unless a fleet restarts at once, because a
    sidecar waits for its first document.
    """

    def __init__(self, api: KubeApi, selection: Selection, sink: Sink, *, spread: float = 0.0, rng: Random | None = None) -> None:
        self.selection = selection
        self.status = ReflectorStatus()
        self._api = api
        self._sink = sink
        self._spread = spread
        self._rng = rng or Random()
        self._backoff = Backoff(self._rng)
        self._pace = Pace()
        self._verb = "list"
        """Of the newest request."""
        self._objects: dict[str, Json] = {}
        self._version = ""
        """The newest resourceVersion; opaque, never compared. "": nothing has been read yet."""
        self._list_from = "0"
        """The first list may come from the server's cache; later ones must not show the past (`""`: the newest)."""
        self._failures = 0
        """In a row."""
        self._lost = ""
        """What the sink was told last of the outage; "" without one."""
        self._well = False
        """Whether the watch that is open has proved useful."""
        self._well_since: float | None = None
        """No failure since then."""
        self._settling: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """List, then watch until there is reason to list again; for ever. Errors of the outside end up in the sink's `lost`."""
        try:
            await asyncio.sleep(self._rng.uniform(0, self._spread))
            while True:
                try:
                    await self._list_until_answered()
                    await self._watch_until_stale()
                except Exception:  # ours or the sink's: what is followed must not stand still until a restart
                    log.exception("cannot follow %s", self.selection, extra={"event": "internal_error"})
                    await self._failed(Bug("an error of this program, see its log"))
        finally:
            self.status.connected = False

    async def _list_until_answered(self) -> None:
        while True:
            await self._turn("list")
            try:
                self._replace(await self._api.list(self.selection, resource_version=self._list_from))
            except KubeError as error:
                if is_stale(error):
                    self._list_from = ""
                await self._failed(error)
            else:
                return

    async def _watch_until_stale(self) -> None:
        """Watch from the newest version, again and again. Returns when that version is, or may be, the reason for a failure."""
        while True:
            await self._turn("watch")
            began = self._now()
            try:
                await self._watch()
            except KubeError as error:
                if self._well:
                    await self._ended(began, error)
                else:
                    await self._failed(error)
                if is_stale(error):
                    return
            else:
                await self._ended(began)

    async def _watch(self) -> None:
        """One watch, until the server ends it or it falls silent. Raises KubeError, ShortWatch when it was of no use."""
        self._well = False
        seconds = self._rng.randint(*WATCH_SECONDS)
        watch = self._api.watch(self.selection, resource_version=self._version, timeout_seconds=seconds)
        async with aclosing(watch) as stream:
            try:
                while (event := await _next(stream)) is not None:
                    if event.type == OPENED.type:
                        self._opened()
                    else:
                        self._apply(event)
            finally:
                self._stop_settling()
        if not self._well:
            raise ShortWatch("the API server, or a proxy on the way, ends each watch at once")

    async def _failed(self, error: KubeError) -> None:
        """Count a request that was of no use, tell the sink when that is an outage, and stay away for a while."""
        status = self.status
        status.requests[self._verb, outcome_of(error)] += 1
        status.connected = False
        status.problem = explain(error, self.selection)
        if isinstance(error, ApiError) and error.status == 401:
            self._pace.take(self._now())  # the client may have asked a second time, with credentials that had changed
        if self._well_since is not None and self._now() - self._well_since >= HEALTHY_SECONDS:
            self._backoff.reset()
        self._well_since = None
        self._failures += 1
        listed_next = self._verb == "watch" and is_stale(error)
        if self._lost != status.problem and not listed_next and (self._failures > 1 or not self._version):
            self._lost = status.problem
            self._sink.lost(status.problem)
        prompt = listed_next and self._failures == 1
        wait = self._rng.uniform(0, PROMPT_SECONDS) if prompt else self._backoff.next(longest=longest_wait(error))
        await asyncio.sleep(max(wait, asked_to_wait(error) * self._rng.uniform(1.0, 1.5)))

    async def _ended(self, began: float, error: KubeError | None = None) -> None:
        """Count a watch that was well and is over; the next one follows at once, unless this one was very short."""
        outcome = "ended" if error is None else outcome_of(error)
        self.status.requests["watch", outcome] += 1
        self.status.restarts[outcome] += 1
        wait = max(self._rng.uniform(0, PROMPT_SECONDS), began + APART_SECONDS - self._now())
        if error is not None and not isinstance(error, SilentWatch):
            self.status.connected = False
            self.status.problem = explain(error, self.selection)
            wait = max(wait, asked_to_wait(error))
        await asyncio.sleep(wait)

    def _replace(self, listed: ObjectList) -> None:
        """Take over what a list found. Raises BadAnswer."""
        objects = {_metadata(item, "name"): item for item in listed.items}
        if not listed.resource_version:
            raise BadAnswer("the API server's list has no resourceVersion")
        self._objects = objects
        self._version = listed.resource_version
        self._list_from = ""
        self._lost = ""
        self._sink.changed(dict(objects))
        self.status.requests["list", "ok"] += 1

    def _apply(self, event: WatchEvent) -> None:
        """Take over what one line of a watch tells; types that are unknown tell their version only. Raises BadAnswer."""
        version = _metadata(event.object, "resourceVersion")
        name = "" if event.type == "BOOKMARK" else _metadata(event.object, "name")
        self._prove()
        self._version = version
        if event.type in {"ADDED", "MODIFIED"}:
            self._objects[name] = dict(event.object)
        elif event.type != "DELETED" or self._objects.pop(name, None) is None:
            return
        self._sink.changed(dict(self._objects))

    def _opened(self) -> None:
        self.status.connected = True
        self.status.problem = ""
        self._settling = asyncio.get_running_loop().call_later(WELL_SECONDS, self._prove)

    def _prove(self) -> None:
        """The open watch is of use: an outage, if there was one, is over."""
        self._stop_settling()
        self._well = True
        self._failures = 0
        if self._well_since is None:
            self._well_since = self._now()
        if self._lost:
            self._lost = ""
            self._sink.regained()

    def _stop_settling(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None

    async def _turn(self, verb: str) -> None:
        """Every request to the API server waits here first: the one place that keeps the pace."""
        self._verb = verb
        await asyncio.sleep(self._pace.take(self._now()))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


async def _next(stream: AsyncGenerator[WatchEvent, None]) -> WatchEvent | None:
    """The next event; None: the server ended the watch. Raises KubeError."""
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            return await anext(stream, None)
    except TimeoutError:
        raise SilentWatch(f"the API server said nothing for {SILENCE_SECONDS:g} s") from None


def _metadata(item: Mapping[str, Any], field: str) -> str:
    """A field of an object's metadata. Raises BadAnswer: it is not there."""
    metadata = item.get("metadata")
    value = metadata.get(field) if isinstance(metadata, dict) else None
    if not isinstance(value, str) or not value:
        raise BadAnswer(f"the API server sent an object without metadata.{field}")
    return value
