"""Pressure: how near the process is to what it may not exceed, and a warning before it gets there.

Once per crossing: a resource that was told about is told again only after it has been clearly below for a while.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable
from enum import StrEnum
from math import ceil
from typing import Any, Final, NamedTuple

log = logging.getLogger("outrider")

RELIEF: Final = 0.1
"""How far below its threshold a resource must come before the next crossing counts."""


class Resource(StrEnum):
    """What can run out; label `resource` of the metrics."""

    MEMORY = "memory"
    FILE_DESCRIPTORS = "file_descriptors"
    CPU = "cpu"


THRESHOLDS: Final = {Resource.MEMORY: 0.9, Resource.FILE_DESCRIPTORS: 0.8, Resource.CPU: 0.25}
"""Shares from which on it is near. Above its memory limit a process is killed and its descriptors only refuse new
connections, but both happen within seconds of a rush. For CPU it is the share of time that the quota took away."""

_ADVICE: Final = {
    Resource.MEMORY: "the memory of the container nears its limit: the kernel kills it there (raise the memory limit, or find what holds on to it: GET /runtime, GET /connections)",
    Resource.FILE_DESCRIPTORS: "open files near their limit: new connections fail there (raise the hard limit of RLIMIT_NOFILE, or bound maxConnections)",
    Resource.CPU: "the CPU quota stops the process for much of the time: every request gets slower (raise or remove the CPU limit)",
}


class Use(NamedTuple):
    """A resource now. `share` of its limit, 0.0 to 1.0 and more; `used` and `limit` in its own unit."""

    resource: Resource
    used: float
    limit: float

    @property
    def share(self) -> float:
        """How much of it is used."""
        return self.used / self.limit if self.limit else 0.0


class Pressure:
    """Remembers what is near its limit. `update` is called every few seconds; everything may be called from any thread.

    Of `quiet` resources somebody else tells: another process, which has the same limit.
    """

    def __init__(self, quiet: Collection[Resource] = ()) -> None:
        self._quiet = quiet
        self._uses: dict[Resource, Use] = {}
        self._near: set[Resource] = set()
        self._turn = threading.Lock()

    def update(self, uses: Iterable[Use]) -> None:
        """Take over how things are, and tell what has come near its limit or is well below again."""
        with self._turn:
            self._uses = {use.resource: use for use in uses}
            for use in self._uses.values():
                threshold = THRESHOLDS[use.resource]
                if use.resource not in self._near and use.share >= threshold:
                    self._near.add(use.resource)
                    self._tell(logging.WARNING, _ADVICE[use.resource], "resource_limit", use)
                elif use.resource in self._near and use.share < threshold - RELIEF:
                    self._near.discard(use.resource)
                    self._tell(logging.INFO, f"{use.resource.value} is well below its limit again", "resource_relieved", use)
            self._near &= self._uses.keys()  # a limit that was lifted

    def shares(self) -> dict[str, float]:
        """How much of each limited resource is used."""
        return {use.resource.value: use.share for use in self._uses.values()}

    def left(self, resource: Resource, share: float) -> int | None:
        """What is left of it below `share` of its limit, in its own unit; None: it has no limit."""
        use = self._uses.get(resource)
        return None if use is None else max(int(share * use.limit - use.used), 0)

    def excess(self, resource: Resource, share: float) -> int:
        """How much of it is used above `share` of its limit, in its own unit; 0 when less is."""
        use = self._uses.get(resource)
        return 0 if use is None else max(ceil(use.used - share * use.limit), 0)

    def near(self) -> dict[str, int]:
        """1 for each limited resource that is near its limit, else 0."""
        return {resource.value: int(resource in self._near) for resource in self._uses}

    def document(self) -> list[dict[str, Any]]:
        """As `GET /runtime` shows it."""
        return [
            {
                "resource": use.resource.value,
                "used": use.used,
                "limit": use.limit,
                "share": round(use.share, 4),
                "warnsAt": THRESHOLDS[use.resource],
                "near": use.resource in self._near,
            }
            for use in self._uses.values()
        ]

    def _tell(self, level: int, words: str, event: str, use: Use) -> None:
        if use.resource in self._quiet:
            return
        fields = {"resource": use.resource.value, "used": use.used, "limit": use.limit, "share": round(use.share, 4)}
        log.log(level, "%s", words, extra={"event": event, "fields": fields})
