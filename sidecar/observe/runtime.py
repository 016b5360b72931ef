"""RuntimeSampler: CPU, memory, descriptors and network of this process, and how late the event loop is.

Files are read when somebody asks (a scrape, `/runtime`); between that the only work is a heartbeat twice a second.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sidecar.model.snapshot import Listener
from sidecar.observe.runtime_files import (
    Traffic,
    cgroup_folders,
    parse_cgroup,
    parse_limit,
    parse_mountinfo,
    parse_network,
    parse_resident_pages,
    parse_throttled,
)
from sidecar.observe.series import Histogram

HEARTBEAT_SECONDS: Final = 0.5
WINDOW: Final = 240
"""Heartbeats that p50, p99 and max look back on: two minutes."""
LAG_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
MAX_INTERFACES: Final = 64
"""A pod in the host's network sees an interface for every other pod."""
MAX_DESCRIPTORS: Final = 1 << 20
"""Some runtimes allow a billion; programs that prepare a table of that size would not live, and we need no more."""
OWN_DESCRIPTORS: Final = 64
COMFORTABLE: Final = 1024
"""Concurrent exchanges below which a warning is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSample:
    """One look at the process. None: no limit, or the kernel does not say."""

    cpu_seconds: float
    throttled_seconds: float | None
    rss_bytes: int
    memory_limit_bytes: int | None
    descriptors: int
    descriptors_limit: int
    network: Mapping[str, Traffic] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoopLag:
    """Seconds by which heartbeats came late, over the last two minutes."""

    p50: float
    p99: float
    max: float


class RuntimeSampler:
    """`root` is where /proc and /sys are found."""

    def __init__(self, *, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self.lag = Histogram(LAG_BUCKETS)
        self._root = root
        self._clock = clock
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._started_at = clock()
        self._beat_at = self._started_at
        self._timer: asyncio.TimerHandle | None = None
        self._cpu_stat: Path | None = None
        self._memory_limits: list[Path] = []
        self._find_cgroup()

    def start(self) -> None:
        """Begin the heartbeat on the running event loop; `stop` ends it."""
        self._beat_at = self._clock()
        self._schedule()

    def stop(self) -> None:
        """End the heartbeat."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def heartbeat_age(self) -> float:
        """Seconds since the event loop last came round, for /livez."""
        return self._clock() - self._beat_at

    def loop_lag(self) -> LoopLag:
        """Median, 99th percentile and maximum of the last two minutes; zeros before the first heartbeat."""
        late = sorted(self._recent)
        if not late:
            return LoopLag(0.0, 0.0, 0.0)
        return LoopLag(late[len(late) // 2], late[int((len(late) - 1) * 0.99)], late[-1])

    def sample(self) -> RuntimeSample:
        """Read everything now: a handful of small kernel files, well under a millisecond."""
        limits = [limit for path in self._memory_limits if (limit := parse_limit(_read(path))) is not None]
        network = parse_network(_read(self._root / "proc/self/net/dev"))
        return RuntimeSample(
            cpu_seconds=time.process_time(),
            throttled_seconds=None if self._cpu_stat is None else parse_throttled(_read(self._cpu_stat)),
            rss_bytes=parse_resident_pages(_read(self._root / "proc/self/statm")) * resource.getpagesize(),
            # Every ancestor's limit holds: a pod's may be narrower than its container's.
            memory_limit_bytes=min(limits, default=None),
            descriptors=self._open_descriptors(),
            descriptors_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            network=dict(sorted(network.items())[:MAX_INTERFACES]),
        )

    def document(self) -> dict[str, Any]:
        """What `GET /runtime` shows."""
        sample, lag = self.sample(), self.loop_lag()
        return {
            "pid": os.getpid(),
            "uptimeSeconds": round(self._clock() - self._started_at, 3),
            "tasks": len(asyncio.all_tasks()),
            "fileDescriptors": {"open": sample.descriptors, "limit": sample.descriptors_limit},
            "memory": {"rssBytes": sample.rss_bytes, "limitBytes": sample.memory_limit_bytes},
            "cpu": {"seconds": round(sample.cpu_seconds, 3), "throttledSeconds": sample.throttled_seconds},
            "loopLag": {"p50": lag.p50, "p99": lag.p99, "max": lag.max},
        }

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(HEARTBEAT_SECONDS, self._beat, self._clock() + HEARTBEAT_SECONDS)

    def _beat(self, due: float) -> None:
        self._beat_at = self._clock()
        # uvloop's timers have a granularity of a millisecond and may come that much early.
        late = max(self._beat_at - due, 0.0)
        self.lag.observe(late)
        self._recent.append(late)
        self._schedule()

    def _open_descriptors(self) -> int:
        folder = self._root / "proc/self/fd"
        try:
            # Since Linux 6.2 the folder's size is the number of its entries; listing 20,000 of them takes 10 ms.
            return folder.stat().st_size or sum(1 for _ in folder.iterdir()) - 1
        except OSError:
            return 0

    def _find_cgroup(self) -> None:
        mounts = parse_mountinfo(_read(self._root / "proc/self/mountinfo"))
        paths = parse_cgroup(_read(self._root / "proc/self/cgroup"))
        version, folders = cgroup_folders(mounts, paths, "memory")
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        self._memory_limits = [self._root / str(folder / name).lstrip("/") for folder in folders]
        _, folders = cgroup_folders(mounts, paths, "cpu")
        self._cpu_stat = self._root / str(folders[0] / "cpu.stat").lstrip("/") if folders else None


def raise_fd_limit() -> tuple[int, int]:
    """Raise the soft limit of open files to the hard one (at most 1,048,576). Returns (soft limit before, limit now)."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = MAX_DESCRIPTORS if hard == unlimited else min(hard, MAX_DESCRIPTORS)
    if before != unlimited and before < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return before, before
        return before, wanted
    return before, before


def low_limit_warning(limit: int, listeners: Sequence[Listener]) -> str | None:
    """What to tell the user when `limit` open files are few for these listeners; None when they are enough.

    An exchange needs two: the client's connection and the upstream's.
    """
    room = max(limit - OWN_DESCRIPTORS - len(listeners), 0) // 2
    wanted = max(sum(listener.max_connections for listener in listeners), COMFORTABLE)
    if room >= wanted:
        return None
    return f"at most {limit} open files are allowed, enough for about {room} concurrent exchanges; {wanted} need {wanted * 2 + OWN_DESCRIPTORS + len(listeners)} (raise the hard limit of RLIMIT_NOFILE, e.g. in the container runtime)"


def _read(path: Path) -> str:
    """A small kernel file; "" when it is not there or not ours to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
