"""ConfigStore: the active configuration, the newest rejected one, and the only way from one to the next (product.md 3.6).

One update at a time; while one is compiled only the newest of those that arrive is kept. A document that is invalid,
or that a subscriber cannot apply, changes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sidecar.config.built_in import BUILT_IN
from sidecar.config.compile import Origins
from sidecar.config.last_good import LastGood
from sidecar.config.load import Problems
from sidecar.config.loader import Compiled, load_async
from sidecar.config.packed import Packed
from sidecar.config.problem import ConfigRejected, Problem
from sidecar.model.snapshot import Snapshot
from sidecar.model.status import ConfigStatus

log = logging.getLogger("outrider")
_LOGGED_PROBLEMS: Final = 5
_REASONS: Final = 20
"""Why a source cannot be read, in one outage: so many different reasons are said, should each be another one."""
LAST_GOOD: Final = "last_good"
"""The source of a restored document. Restoring one says nothing about the newest document, so `rejected` stays."""

NOT_YET: Final = "it has not answered yet"
"""Of a source that was never heard of."""

_FALLBACKS: Final = frozenset((LAST_GOOD, BUILT_IN))
"""Sources that stand in for another: what they give is no news about the newest document, and is not kept."""


class Candidate(NamedTuple):
    """A document that is valid and may become active."""

    source: str
    snapshot: Snapshot
    origins: Origins
    packed: Packed


OnApply = Callable[[Candidate], Awaitable[Mapping[str, Any] | None]]
"""Makes a candidate effective. Raises ConfigRejected when it cannot (a port in use); then the old one stays active and
those that had already applied the new one are called again with the old one. What it returns is added to the log line."""


class Result(StrEnum):
    """What became of an offer; `superseded`: a newer one came before its turn."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"
    SUPERSEDED = "superseded"


class Outcome(NamedTuple):
    """`problems` is empty unless rejected."""

    result: Result
    problems: tuple[Problem, ...] = ()
    refused: Snapshot | None = None
    """Of a document that is valid, and was rejected by those who were to apply it: another time they may take it."""


class Active(NamedTuple):
    """The configuration that serves now. `loaded_at`: Unix seconds."""

    source: str
    revision: str
    loaded_at: float
    snapshot: Snapshot
    origins: Origins
    packed: Packed

    def document(self) -> dict[str, Any]:
        """The effective document, JSON-ready, secrets masked. Some 100 ms for 5,000 routes: call it in a thread then."""
        from sidecar.config.effective import effective  # noqa: PLC0415 - 0.2 MB until somebody asks

        return effective(self.packed.document())


class Rejected(NamedTuple):
    """The newest document, which was refused. `rejected_at`: Unix seconds."""

    source: str
    revision: str
    rejected_at: float
    problems: tuple[Problem, ...]


class ConfigStore:
    """See the top of this file. `on_apply` is called in order for each new snapshot."""

    def __init__(self, *, last_good: LastGood | None = None) -> None:
        self.active: Active | None = None
        self.rejected: Rejected | None = None
        self.on_apply: list[OnApply] = []
        self.connected: dict[str, bool] = {}
        """Whether each source could be read when it was last looked at."""
        self.updates: Counter[tuple[str, str]] = Counter()
        """Offers by (source, result), without superseded ones."""
        self._last_good = last_good
        self._trouble: dict[str, dict[str, None]] = {}
        """What has been said about each source that cannot be read, the newest last."""
        self._turn = asyncio.Lock()
        self._newest = 0
        self._active_bytes = b""
        self._refused_bytes = b""
        """Fingerprints of the active document, and of the one that `rejected` is about if it can never be valid."""

    def status(self) -> ConfigStatus:
        """For metrics and the admin surface."""
        active = self.active
        return ConfigStatus(
            source=active.source if active else "",
            revision=active.revision if active else "",
            hash=active.snapshot.hash if active else "",
            last_applied_timestamp=active.loaded_at if active else 0.0,
            rejected=self.rejected is not None,
            source_connected=dict(self.connected),
            updates=dict(self.updates),
        )

    def troubles(self) -> dict[str, str]:
        """Why each source cannot be read; "" when it can."""
        return {source: "" if up else next(reversed(self._trouble.get(source, {})), NOT_YET) for source, up in self.connected.items()}

    def expect(self, source: str) -> None:
        """A source that has not been looked at yet: not connected, which is not worth a word."""
        self.connected.setdefault(source, False)

    async def offer(self, source: str, revision: str, data: bytes, *, origin: str = "") -> Outcome:
        """Make `data` the active configuration if it is valid and new. `origin`: see `config.source.Offer`."""
        self.reachable(source)
        self._newest += 1
        mine = self._newest
        async with self._turn:
            if mine != self._newest:
                return Outcome(Result.SUPERSEDED)
            outcome = await self._consider(source, revision, data, origin)
        self.updates[source, outcome.result.value] += 1
        return outcome

    async def restore(self, origins: Collection[str] = ("",)) -> Outcome | None:
        """Take the last good document of an earlier run; None when there is none of these `origins`, or a newer one is active."""
        kept = None if self._last_good is None else await self._last_good.load(origins)
        return None if kept is None else await self.stand_in(LAST_GOOD, kept.revision, kept.data, kept.origin)

    async def stand_in(self, source: str, revision: str, data: bytes, origin: str = "") -> Outcome | None:
        """Make `data` active while there is no other document; None when there is. `source`: LAST_GOOD or BUILT_IN."""
        async with self._turn:
            if self.active is not None:
                return None
            outcome = await self._consider(source, revision, data, origin)
        self.updates[source, outcome.result.value] += 1
        return outcome

    async def settled(self, seconds: float) -> None:
        """Wait until the last good document is on the disk, but no longer than `seconds`."""
        if self._last_good is not None:
            await self._last_good.settled(seconds)

    def unavailable(self, source: str, message: str) -> None:
        """The source cannot be read; what is active stays. Each reason is said once until it is back."""
        said = self._trouble.setdefault(source, {})
        if message not in said and len(said) < _REASONS:
            log.warning("%s", message, extra={"event": "config_source_lost", "fields": {"source": source}})
        said.pop(message, None)
        said[message] = None
        if len(said) > _REASONS:
            del said[next(iter(said))]
        self.connected[source] = False

    def reachable(self, source: str) -> None:
        """The source can be read."""
        if self._trouble.pop(source, None) is not None:
            log.info("the document can be read again", extra={"event": "config_source_back", "fields": {"source": source}})
        self.connected[source] = True

    async def _consider(self, source: str, revision: str, data: bytes, origin: str) -> Outcome:
        fingerprint = hashlib.sha256(data).digest()
        if fingerprint == self._active_bytes:
            if source not in _FALLBACKS:
                self._take_over(source, revision)
            return Outcome(Result.UNCHANGED)
        if fingerprint == self._refused_bytes and self.rejected is not None:
            return Outcome(Result.REJECTED, self.rejected.problems)
        loaded = await load_async(data, revision=revision)
        if isinstance(loaded, Problems):
            self._refused_bytes = fingerprint
            return self._reject(source, revision, loaded.problems)
        try:
            fields = await self._apply(Candidate(source, *loaded))
        except ConfigRejected as error:
            outcome = self._reject(source, revision, [_placed(problem, loaded.origins) for problem in error.problems])
            return outcome._replace(refused=loaded.snapshot)
        self._activate(source, revision, loaded, fingerprint, fields)
        if self._last_good is not None and source not in _FALLBACKS:
            await self._last_good.save(data, source=source, revision=revision, origin=origin)
        return Outcome(Result.APPLIED)

    def _take_over(self, source: str, revision: str) -> None:
        """The same bytes again: nothing to do, but a rejected document in between is history."""
        assert self.active is not None
        if self.rejected is not None:
            fields = {"source": source, "revision": revision}
            log.info("the newest document is the active one again", extra={"event": "config_reverted", "fields": fields})
        self.rejected = None
        self._refused_bytes = b""
        self.active = self.active._replace(source=source, revision=revision)

    async def _apply(self, candidate: Candidate) -> dict[str, Any]:
        """Tell the subscribers; on a refusal take back what has been done."""
        fields: dict[str, Any] = {}
        done: list[OnApply] = []
        for subscriber in list(self.on_apply):
            try:
                fields.update(await subscriber(candidate) or {})
            except BaseException as error:
                await self._take_back(done)
                if isinstance(error, ConfigRejected) or not isinstance(error, Exception):
                    raise
                log.exception("a document could not be applied", extra={"event": "internal_error"})
                raise ConfigRejected(
                    [Problem("", 1, 1, "the document is valid but could not be applied (an internal error, see the log)")]
                ) from error
            done.append(subscriber)
        return fields

    async def _take_back(self, done: list[OnApply]) -> None:
        active = self.active
        if active is None:
            return
        for subscriber in reversed(done):
            try:
                await subscriber(Candidate(active.source, active.snapshot, active.origins, active.packed))
            except Exception:
                log.exception("the previous configuration could not be restored", extra={"event": "internal_error"})

    def _activate(self, source: str, revision: str, loaded: Compiled, fingerprint: bytes, fields: dict[str, Any]) -> None:
        self.active = Active(source, revision, time.time(), loaded.snapshot, loaded.origins, loaded.packed)
        self._active_bytes = fingerprint
        if source not in _FALLBACKS:
            self.rejected, self._refused_bytes = None, b""
        snapshot = loaded.snapshot
        told = {
            "source": source,
            "revision": revision,
            "hash": snapshot.hash,
            "routes": len(snapshot.routes),
            "upstreams": len(snapshot.upstreams),
        }
        log.info("configuration applied", extra={"event": "config_applied", "fields": told | fields})
        for warning in snapshot.warnings[:_LOGGED_PROBLEMS]:
            log.warning("%s", warning, extra={"event": "config_warning", "fields": {"source": source, "revision": revision}})

    def _reject(self, source: str, revision: str, problems: list[Problem]) -> Outcome:
        if source not in _FALLBACKS or self.rejected is None:
            self.rejected = Rejected(source, revision, time.time(), tuple(problems))
        kept = "the last good configuration stays active" if self.active is not None else "no configuration is active"
        told = [problem.render(source) for problem in problems[:_LOGGED_PROBLEMS]]
        fields = {"source": source, "revision": revision, "problems": told, "count": len(problems)}
        log.error("document rejected, %s", kept, extra={"event": "config_rejected", "fields": fields})
        return Outcome(Result.REJECTED, tuple(problems))


def _placed(problem: Problem, origins: Origins) -> Problem:
    """Who applies a snapshot knows paths, not lines."""
    return problem if problem.line else Problem(problem.path, origins.line(problem.path) or 1, 1, problem.message)
