"""RuntimeSampler: CPU, memory, descriptors and network of this process, and how late the event loop is.

Files are read when somebody asks (a scrape, `/runtime`), and, while something happens, a few times a second by the watchdog's
thread, which warns of limits that come near; on the event loop the only work is a heartbeat.
"""

from __future__ import annotations

import asyncio
import os
import resource
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field

from sidecar.model.snapshot import Listener
from sidecar.observe.cgroup import Cgroup, read
from sidecar.observe.pressure import Pressure, Resource, Use
from sidecar.observe.runtime_files import Traffic, parse_network, parse_proportional, parse_resident_pages
from sidecar.observe.series import Histogram
from sidecar.observe.watchdog import ASLEEP, BLOCKED, Culprit, Watchdog
from sidecar.policy.overload import BANDS, RELIEF, Overload

HEARTBEAT_SECONDS: Final = 0.05
IDLE_SECONDS: Final = 0.5
"""Between two heartbeats of a loop that has nothing to do: waking a CPU twenty times a second for nobody is not free. What
holds an idle loop up for less than this may go unseen."""
IDLE_BEATS: Final = 3
"""So many idle ones in a row, and there are no more until something happens: a sidecar at rest wakes nobody."""
IDLE_SHARE: Final = 0.01
"""Of a CPU, below which the loop's thread has nothing to do."""
BEAT_CPU: Final = 0.001
"""Seconds of CPU that a heartbeat itself takes at most, on a machine that is busy with others."""
WINDOW_SECONDS: Final = 120.0
"""What p50, p99 and max look back on."""
CPU_WINDOW_SECONDS: Final = 15.0
"""Over which the quota's share is taken: a start, or a scrape, may be throttled for a moment without anybody's harm."""
LAG_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
LOOK_SECONDS: Final = 0.25
"""Between two looks at the limits (0.55 while the loop is idle): a rush fills what is left above the last threshold in about that time."""
SHORT_LOOK_SECONDS: Final = 0.05
"""The same, while something is given up."""
MAX_INTERFACES: Final = 64
"""A pod in the host's network sees an interface for every other pod."""
MAX_DESCRIPTORS: Final = 1 << 20
"""Some runtimes allow a billion; programs that prepare a table of that size would not live, and we need no more."""
OWN_DESCRIPTORS: Final = 64
COMFORTABLE: Final = 1024
"""Concurrent exchanges below which a warning is due."""


class RuntimeSample(Struct, frozen=True, kw_only=True):
    """One look at the process. None: no limit, or the kernel does not say."""

    cpu_seconds: float
    throttled_seconds: float | None
    cpu_limit: float | None
    """CPUs that may be used at a time."""
    rss_bytes: int
    memory_limit_bytes: int | None
    working_set_bytes: int | None
    """What counts against the limit that will be hit first."""
    descriptors: int
    descriptors_limit: int
    network: Mapping[str, Traffic] = field(default_factory=dict)


class LoopLag(Struct, frozen=True):
    """Seconds by which heartbeats came late, over the last two minutes."""

    p50: float
    p99: float
    max: float


class RuntimeSampler:
    """`root` is where /proc and /sys are found.

    Where several `processes` share the container's limits, memory that they share is counted in parts, so that their sum is
    what is used, and each reckons with its part of what is left. Only one of them `warns` of limits that all have.
    """

    def __init__(
        self, *, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic, processes: int = 1, warns: bool = True
    ) -> None:
        self._processes = processes
        self.lag = Histogram(LAG_BUCKETS)
        self.pressure = Pressure(() if warns else (Resource.MEMORY, Resource.CPU))
        self.overload = Overload()
        self.on_look: Callable[[float], None] = _nobody
        """Called after each look at the limits, in the thread that has looked, with the clock's time."""
        self._root = root
        self._clock = clock
        self._recent: deque[tuple[float, float]] = deque()
        """(when, how late) of the heartbeats of the window."""
        self._started_at = clock()
        self.beat_at = self._started_at
        """When the loop last came round, monotonic."""
        self.due_at = self._started_at
        """When it is to come round next; ASLEEP: when something happens."""
        self.missed = (0.0, 0.0)
        self._worked = 0.0
        self._idle_beats = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next: asyncio.Handle | None = None
        self._resuming = threading.Lock()
        self._cgroup = Cgroup(root)
        self._quota: Use | None = None
        self._throttled_before = (self._started_at, self._cgroup.throttled_seconds() or 0.0)
        self.watchdog = Watchdog(self, throttled=self._cgroup.throttled_seconds, also=self.check_limits, every=LOOK_SECONDS)

    def start(self) -> None:
        """Begin the heartbeat on the running event loop, and the thread that watches it; `stop` ends both."""
        self._loop = asyncio.get_running_loop()
        self.beat_at = self._clock()
        self._worked = time.thread_time()
        self._schedule(HEARTBEAT_SECONDS)
        self.check_limits()
        self.watchdog.start()

    def stop(self) -> None:
        """End the heartbeat and the watchdog."""
        self.watchdog.stop()
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def heartbeat_age(self) -> float:
        """Seconds since the event loop last came round, for /livez. Asked on the loop; one that had nothing to do has just done so."""
        return 0.0 if self.due_at == ASLEEP else self._clock() - self.beat_at

    def stir(self) -> None:
        """Something begins that others may have to wait for. Called on the loop; cheap unless the heart pauses."""
        if self.due_at == ASLEEP and self._resume():
            self.watchdog.rouse()

    def _resume(self) -> bool:
        """The heart beats again, at once; False when it does already."""
        with self._resuming:
            if self.due_at != ASLEEP or self._loop is None:
                return False
            self._idle_beats = 0
            self.beat_at = self._clock()
            self.due_at = self.beat_at
            self._next = self._loop.call_soon_threadsafe(self._beat)
        return True

    def loop_lag(self) -> LoopLag:
        """Median, 99th percentile and maximum of the last two minutes; zeros before the first heartbeat."""
        since = self._clock() - WINDOW_SECONDS
        late = sorted(late for at, late in self._recent if at >= since)
        if not late:
            return LoopLag(0.0, 0.0, 0.0)
        return LoopLag(late[len(late) // 2], late[int((len(late) - 1) * 0.99)], late[-1])

    def sample(self) -> RuntimeSample:
        """Read everything now: a handful of small kernel files, well under a millisecond."""
        network = parse_network(read(self._root / "proc/self/net/dev"))
        resident = self._resident()
        tightest = self._cgroup.tightest_memory(resident)
        return RuntimeSample(
            cpu_seconds=time.process_time(),
            throttled_seconds=self._cgroup.throttled_seconds(),
            cpu_limit=self._cgroup.cpu_limit(),
            rss_bytes=resident,
            memory_limit_bytes=self._cgroup.memory_limit(),
            working_set_bytes=None if tightest is None else tightest.working_set,
            descriptors=self._open_descriptors(),
            descriptors_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            network=dict(sorted(network.items())[:MAX_INTERFACES]),
        )

    def check_limits(self) -> None:
        """Look at what can run out, warn of what nears its limit, and set the level of overload. Called by the watchdog's thread."""
        resident = parse_resident_pages(read(self._root / "proc/self/statm")) * resource.getpagesize()
        uses = [Use(Resource.FILE_DESCRIPTORS, self._open_descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])]
        if (memory := self._cgroup.tightest_memory(resident)) is not None:
            uses.append(Use(Resource.MEMORY, memory.working_set, memory.limit))
        if (cpu := self._cpu_use()) is not None:
            uses.append(cpu)
        self.pressure.update(uses)
        now = self._clock()
        self.overload.update(self.pressure.shares(), now, None if memory is None else memory.limit // self._processes)
        self.watchdog.every = SHORT_LOOK_SECONDS if self.overload.level else LOOK_SECONDS
        if self.overload.level:
            self._resume()  # looks are frequent while the heart beats
        self.on_look(now)

    def spare_memory(self) -> int | None:
        """Bytes that something else than requests may take now; None: there is no limit."""
        if self.overload.level or self.overload.tight:
            return 0
        return self.pressure.left(Resource.MEMORY, BANDS[Resource.MEMORY.value].narrow)

    def excess_memory(self) -> int:
        """Bytes used above where new requests begin to be refused; this process's part of them."""
        return self.pressure.excess(Resource.MEMORY, BANDS[Resource.MEMORY.value].shed) // self._processes

    def excess_descriptors(self) -> int:
        """How many open files must go for relief to end."""
        return self.pressure.excess(Resource.FILE_DESCRIPTORS, BANDS[Resource.FILE_DESCRIPTORS.value].relieve - RELIEF)

    def _resident(self) -> int:
        if self._processes > 1 and (part := parse_proportional(read(self._root / "proc/self/smaps_rollup"))) is not None:
            return part
        return parse_resident_pages(read(self._root / "proc/self/statm")) * resource.getpagesize()

    def _cpu_use(self) -> Use | None:
        """The quota's share of the last whole window; None: no quota, or not long enough yet."""
        now, (before, throttled_before) = self._clock(), self._throttled_before
        throttled = self._cgroup.throttled_seconds()
        if throttled is None or self._cgroup.cpu_limit() is None:
            self._quota = None
        elif now - before >= CPU_WINDOW_SECONDS:
            # Of several CPUs each is counted: more than all of the time is all of it.
            self._quota = Use(Resource.CPU, min(throttled - throttled_before, now - before), now - before)
            self._throttled_before = (now, throttled)
        return self._quota

    def document(self) -> dict[str, Any]:
        """What `GET /runtime` shows."""
        sample, lag = self.sample(), self.loop_lag()
        blocks = self.watchdog.blocks
        return {
            "pid": os.getpid(),
            "uptimeSeconds": round(self._clock() - self._started_at, 3),
            "tasks": len(asyncio.all_tasks()),
            "fileDescriptors": {"open": sample.descriptors, "limit": sample.descriptors_limit},
            "memory": {"rssBytes": sample.rss_bytes, "limitBytes": sample.memory_limit_bytes, "workingSetBytes": sample.working_set_bytes},
            "cpu": {
                "seconds": round(sample.cpu_seconds, 3),
                "throttledSeconds": sample.throttled_seconds,
                "limitCores": sample.cpu_limit,
            },
            "loopLag": {"p50": lag.p50, "p99": lag.p99, "max": lag.max},
            "loopBlocked": {
                "count": {culprit.value: blocks[culprit] for culprit in Culprit},
                "last": [block.document() for block in self.watchdog.last()],
            },
            "network": {
                name: {"receivedBytes": traffic.received, "transmittedBytes": traffic.transmitted}
                for name, traffic in sample.network.items()
            },
            "limits": self.pressure.document(),
            "overload": self.overload.document(),
        }

    def _schedule(self, seconds: float) -> None:
        self.due_at = self._clock() + seconds
        self._next = asyncio.get_running_loop().call_later(seconds, self._beat)

    def _beat(self) -> None:
        now, passed = self._clock(), self._clock() - self.beat_at
        # uvloop's timers have a granularity of a millisecond and may come that much early.
        late = max(now - self.due_at, 0.0)
        if late >= BLOCKED:
            self.missed = (self.due_at, late)
        self.lag.observe(late)
        self._recent.append((now, late))
        while self._recent[0][0] < now - WINDOW_SECONDS:
            self._recent.popleft()
        worked, before = time.thread_time(), self._worked
        self._worked, self.beat_at = worked, now
        idle = worked - before < passed * IDLE_SHARE + BEAT_CPU
        self._idle_beats = self._idle_beats + 1 if idle and late < BLOCKED else 0  # what has just been held up may be again
        if self._idle_beats >= IDLE_BEATS and not self.overload.level:  # who has given up something looks on
            self._next, self.due_at = None, ASLEEP
        else:
            self._schedule(IDLE_SECONDS if idle else HEARTBEAT_SECONDS)

    def _open_descriptors(self) -> int:
        folder = self._root / "proc/self/fd"
        try:
            # Since Linux 6.2 the folder's size is the number of its entries; listing 20,000 of them takes 10 ms.
            return folder.stat().st_size or sum(1 for _ in folder.iterdir()) - 1
        except OSError:
            return 0


def _nobody(_now: float) -> None:
    """Acts on overload until somebody does."""


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


def low_limit_warning(limit: int, listeners: Sequence[Listener], processes: int = 1) -> str | None:
    """What to tell the user when `limit` open files are few for these listeners; None when they are enough.

    An exchange needs two: the client's connection and the upstream's. Each of several `processes` has its part of the connections.
    """
    room = max(limit - OWN_DESCRIPTORS - len(listeners), 0) // 2
    wanted = max(-(-sum(listener.max_connections for listener in listeners) // processes), COMFORTABLE)
    if room >= wanted:
        return None
    return f"at most {limit} open files are allowed, enough for about {room} concurrent exchanges; {wanted} need {wanted * 2 + OWN_DESCRIPTORS + len(listeners)} (raise the hard limit of RLIMIT_NOFILE, e.g. in the container runtime)"
