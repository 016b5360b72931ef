"""Watchdog: a thread that notices when the event loop does not come round, and looks at what holds it up.

Only a second thread can look while it happens: the loop's own heartbeat learns of it when it is over, and profilers cost
something for every request. The thread wakes when a heartbeat would be late, which it seldom is, and reads the frames
of the loop's thread. Whether that thread worked, slept or waited for a CPU is the kernel's knowledge
(/proc/PID/task/TID/schedstat: nanoseconds on a CPU, nanoseconds in a run queue; docs.kernel.org/scheduler/sched-stats.html).

While nothing happens there is no heartbeat either (decision 0042). The thread then sleeps until the heart is told that something begins.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from enum import StrEnum
from types import FrameType
from typing import Any, Final, NamedTuple, Protocol

from sidecar.observe.text import utc

log = logging.getLogger("outrider")

LATE: Final = 0.05
"""Seconds by which a heartbeat is late when the thread takes its first look."""
BLOCKED: Final = 0.1
"""Seconds from which on it is told."""
LOOKS: Final = 20
"""Looks at one block, `LATE` apart; more would not tell more."""
ONGOING: Final = 2.0
"""Seconds after which a block is told before it is over: the kubelet may kill a process that never comes round."""
QUIET: Final = 10.0
"""Seconds between two log lines; what happens in between is counted."""
THROTTLED_EVERY: Final = 1.0
ALSO_SHARE: Final = 0.01
"""Of the time, at most, for what is done `also`: some kernels take milliseconds to count many open files."""
REST_SECONDS: Final = 15.0
"""Between two looks at what is done `also` while the heart pauses: others may use up what we share with them."""
ASLEEP: Final = float("inf")
"""When the next heartbeat is due while there is none."""
KEPT: Final = 8
"""Blocks that `GET /runtime` shows."""
MAX_FRAMES: Final = 12
_LOOP: Final = ("asyncio.runners", "asyncio.base_events", "asyncio.events", "selectors", "uvloop")
"""Modules whose frames are the loop's own: what is outside of them is how the process was started."""

Stack = tuple[str, ...]
"""`module:line function`, the innermost first; empty: the loop itself."""


class Culprit(StrEnum):
    """What held the loop up."""

    CODE = "code"
    """Something computed: the stack says what."""
    WAIT = "wait"
    """Something waited (a file, a lock, another thread) that should not have been waited for here: the stack says what."""
    THROTTLED = "throttled"
    """The cgroup's CPU quota was used up."""
    STARVED = "starved"
    """The machine had no CPU for us, or had stopped us."""


class Usage(NamedTuple):
    """What the loop's thread has had so far, seconds; `at` is the monotonic clock's."""

    at: float
    working: float
    queued: float
    throttled: float


def culprit_between(before: Usage, after: Usage) -> Culprit:
    """What the thread did most of the time between two looks: work, wait for a CPU, or neither."""
    passed, working, queued, throttled = (now - then for now, then in zip(after, before, strict=True))
    if throttled >= passed / 2:  # some kernels do not count the quota's time as time in the queue
        return Culprit.THROTTLED
    if queued > max(working, passed - working - queued):
        return Culprit.THROTTLED if throttled >= queued / 2 else Culprit.STARVED
    return Culprit.CODE if working >= passed - working - queued else Culprit.WAIT


class Block(NamedTuple):
    """One time that the loop did not come round. `at`: Unix seconds of its end, or of the look at it while it goes on."""

    at: float
    seconds: float
    culprit: Culprit
    stack: Stack

    def document(self) -> dict[str, Any]:
        """As `GET /runtime` shows it."""
        return {"time": utc(self.at), "seconds": round(self.seconds, 3), "culprit": self.culprit.value, "stack": list(self.stack)}


class Heart(Protocol):
    """The loop's heartbeat: monotonic seconds of the last one, and of when the next one is due; `ASLEEP`: when something happens."""

    beat_at: float
    due_at: float
    missed: tuple[float, float]
    """When the last late one had been due, and how late it came."""


class Watchdog:
    """`start` on the loop's own thread, `stop` from anywhere. What it found is read from any thread.

    `throttled` are the seconds for which the quota has held us back (None: no quota); `also` is called each
    `every` seconds, and rarer when it takes long or the loop is idle (`REST_SECONDS` at most), for checks that need no loop.
    """

    def __init__(
        self,
        heart: Heart,
        *,
        throttled: Callable[[], float | None],
        also: Callable[[], None],
        every: float = 5.0,
    ) -> None:
        self.blocks: Counter[Culprit] = Counter()
        self._heart = heart
        self._throttled = throttled
        self._also = also
        self.every = every
        """May be changed from any thread."""
        self._kept: deque[Block] = deque(maxlen=KEPT)
        self._ending = threading.Event()
        self._roused = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop_thread = 0
        self._schedstat: int | None = None
        self._throttled_at = float("-inf")
        self._throttled_seconds = 0.0
        self._told_at = float("-inf")
        self._untold = 0

    def start(self) -> None:
        """Watch the calling thread's event loop."""
        self._loop_thread = threading.get_ident()
        try:
            self._schedstat = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # not every kernel has it: a block is then put down to code
            self._schedstat = None
        self._ending.clear()
        self._thread = threading.Thread(target=self._run, name="outrider-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it; it never takes long."""
        if self._thread is None:
            return
        self._ending.set()
        self.rouse()
        self._thread.join()
        self._thread = None
        if self._schedstat is not None:
            os.close(self._schedstat)

    def rouse(self) -> None:
        """The heart beats again, or all ends. Called on the loop."""
        self._roused.set()

    def last(self) -> list[Block]:
        """The last blocks, the newest first."""
        return list(self._kept)[::-1]

    def _run(self) -> None:
        try:
            self._watch()
        except Exception:
            log.exception("the watchdog has failed; nothing else depends on it", extra={"event": "internal_error"})

    def _watch(self) -> None:
        before = self._usage()
        checked_at, rest = before.at, 0.0
        while not self._ending.is_set():
            if (due := self._heart.due_at) == ASLEEP:
                self._sleep()
                before = self._usage()
                continue
            if (early := due + LATE - time.monotonic()) > 0:
                if self._ending.wait(early):
                    return
                missed, late = self._heart.missed
                if missed == due and late >= BLOCKED:  # we were held up too, and the loop came round first
                    self._keep(self._block(late, before, Counter()), told=False)
            if self._heart.due_at == due:
                self._look(due, before)
            before = self._usage()
            if before.at - checked_at >= max(self.every, rest):
                checked_at = before.at
                self._also()
                rest = (time.monotonic() - checked_at) / ALSO_SHARE

    def _sleep(self) -> None:
        """Until the heart beats again, `REST_SECONDS` are over, or all ends."""
        if self._roused.wait(REST_SECONDS):
            self._roused.clear()
        else:
            self._also()

    def _look(self, due: float, before: Usage) -> None:
        """Look at a loop that is late until it has come round, and keep what was seen when that took too long."""
        seen: Counter[Stack] = Counter()
        told = False
        while self._heart.due_at == due:
            if seen.total() < LOOKS:
                seen[self._stack()] += 1
            late = time.monotonic() - due
            if late >= ONGOING and not told:
                told = True
                self._tell(self._block(late, before, seen), ongoing=True)
            if self._ending.wait(LATE):
                return
        late = self._heart.beat_at - due
        if late >= BLOCKED:
            self._keep(self._block(late, before, seen), told=told)

    def _block(self, late: float, before: Usage, seen: Counter[Stack]) -> Block:
        culprit = culprit_between(before, self._usage(fresh=True))
        stack = seen.most_common(1)[0][0] if seen else ()
        if (
            culprit is Culprit.WAIT and seen.total() < min(late / LATE, LOOKS) / 2
        ):  # we were held up ourselves: the process as a whole did not run
            culprit = Culprit.STARVED
        return Block(time.time(), late, culprit, stack if culprit in (Culprit.CODE, Culprit.WAIT) else ())

    def _keep(self, block: Block, *, told: bool) -> None:
        self.blocks[block.culprit] += 1
        self._kept.append(block)
        if told or time.monotonic() - self._told_at >= QUIET:
            self._tell(block, ongoing=False)
        else:
            self._untold += 1

    def _tell(self, block: Block, *, ongoing: bool) -> None:
        self._told_at = time.monotonic()
        words = {
            Culprit.CODE: "by code that ran too long",
            Culprit.WAIT: "by something that waited",
            Culprit.THROTTLED: "because the CPU quota was used up (raise the CPU limit)",
            Culprit.STARVED: "because the machine had no CPU for it, or had stopped it",
        }[block.culprit]
        where = f": {block.stack[0]}" if block.stack else ""
        fields = {
            "seconds": round(block.seconds, 3),
            "culprit": block.culprit.value,
            "stack": list(block.stack),
            "ongoing": ongoing,
            "untold": self._untold,
        }
        self._untold = 0
        verb = "has been" if ongoing else "was"
        log.warning(
            "the event loop %s held up for %.2fs %s%s",
            verb,
            block.seconds,
            words,
            where,
            extra={"event": "loop_blocked", "fields": fields},
        )

    def _usage(self, *, fresh: bool = False) -> Usage:
        """Quick, but for the quota's file, which is read once a second, or now."""
        now = time.monotonic()
        if fresh or now - self._throttled_at >= THROTTLED_EVERY:
            self._throttled_at, self._throttled_seconds = now, self._throttled() or 0.0
        if self._schedstat is None:
            return Usage(now, now, 0.0, self._throttled_seconds)
        working, queued, *_ = os.pread(self._schedstat, 100, 0).split()
        return Usage(now, int(working) / 1e9, int(queued) / 1e9, self._throttled_seconds)

    def _stack(self) -> Stack:
        frame: FrameType | None = sys._current_frames().get(self._loop_thread)
        found: list[str] = []
        while frame is not None and len(found) < MAX_FRAMES:
            module = str(frame.f_globals.get("__name__", "?"))
            if module.startswith(_LOOP):
                break
            found.append(f"{module}:{frame.f_lineno} {frame.f_code.co_name}")
            frame = frame.f_back
        return tuple(found)
