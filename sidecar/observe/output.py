"""Output: whole lines to a file descriptor, never at the expense of the event loop.

Why a thread of its own and not O_NONBLOCK: the flag belongs to the open file description, which we share with whoever
started us (a shell, the application, `kubectl logs`' runtime), so setting it on stdout breaks their writes. Opening
/proc/self/fd/1 anew would give us a description of our own, but fails for sockets (ENXIO), for pipes that another user
made (EACCES in many containers) and without /proc, and O_NONBLOCK does nothing for a file on a slow disk. A thread that
may block costs one hand-over per batch, works for all of these, and a blocked write releases the GIL.

Several processes that write to the same place take turns (`make_turn`): a pipe takes 4096 bytes at a time, more of one
may have something of another in the middle.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import threading
from collections import deque
from typing import Final

LIMIT: Final = 1 << 20
"""Bytes that may wait for a slow reader."""
POLL_MILLISECONDS: Final = 500
LINE_FEED: Final = 0x0A
_TORN: Final = b"\x01"
_WHOLE: Final = b"\x00"


def make_turn() -> int:
    """A descriptor for `Output`'s `turn`: a file in memory, whose lock the kernel takes from a process that dies.

    A process must not duplicate it: closing any descriptor of a file gives up the process's locks on it (POSIX).
    """
    return os.memfd_create("outrider-output", os.MFD_CLOEXEC)


class Output:
    """A bounded queue of lines and the daemon thread that writes it to (a duplicate of) `fd`.

    A reader that is slow or gone costs lines, counted in `dropped`, never time. All methods may be called from any thread.
    """

    def __init__(self, fd: int, *, limit: int = LIMIT, turn: int | None = None) -> None:
        """`turn`: the same file in every process that writes to the same place; None: there is no other."""
        self.dropped = 0
        """Lines that were lost."""
        self._fd = os.dup(fd)
        self._limit = limit
        self._turn = turn
        self._queue: deque[bytes] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._abandoned = False
        self._torn = False

    def write(self, lines: bytes) -> None:
        """Queue whole lines (each ends with a line feed); what does not fit is dropped as a whole and counted."""
        with self._changed:
            if self._closing or self._waiting + len(lines) > self._limit:
                self.dropped += lines.count(b"\n")
                return
            self._queue.append(lines)
            self._waiting += len(lines)
            if self._thread is None:
                # Started late: a process that forks workers first keeps no half-copied thread.
                self._thread = threading.Thread(target=self._run, name="outrider-output", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self, timeout: float = 1.0) -> None:
        """Write what is queued, for at most `timeout` seconds (it waits: not for the event loop), then give up the rest."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
        if self._thread is None or not self._thread.is_alive():
            os.close(self._fd)
            return
        # The thread is stuck in a write. It is a daemon and dies with the process; its descriptor stays open for it.
        with self._changed:
            self._abandoned = True
            self.dropped += sum(lines.count(b"\n") for lines in self._queue)
            self._queue.clear()

    def _run(self) -> None:
        while (lines := self._next()) is not None:
            if self._turn is None:
                self._write_all(lines)
            else:
                self._write_in_turn(self._turn, lines)
            with self._changed:
                self._waiting -= len(lines)

    def _next(self) -> bytes | None:
        with self._changed:
            while not self._queue:
                if self._closing:
                    return None
                self._changed.wait()
            return self._queue.popleft()

    def _write_in_turn(self, turn: int, lines: bytes) -> None:
        """As `_write_all`, alone. Whoever died in the middle of a line has left word of it."""
        fcntl.lockf(turn, fcntl.LOCK_EX)
        try:
            self._torn = os.pread(turn, 1, 0) == _TORN
            os.pwrite(turn, _TORN, 0)
            self._write_all(lines)
            if not self._torn:
                os.pwrite(turn, _WHOLE, 0)
        finally:
            fcntl.lockf(turn, fcntl.LOCK_UN)

    def _write_all(self, lines: bytes) -> None:
        # A line that an error cut in half must not run into the next one.
        rest = memoryview(b"\n" + lines if self._torn else lines)
        while rest and not self._abandoned:
            try:
                written = os.write(self._fd, rest)
            except BlockingIOError:
                self._wait_writable()
                continue
            except OSError:
                # The reader is gone (EPIPE), the disk is full: there is nobody to tell but the counter.
                with self._changed:
                    self.dropped += bytes(rest).count(b"\n")
                return
            self._torn = rest[written - 1] != LINE_FEED
            rest = rest[written:]

    def _wait_writable(self) -> None:
        # Somebody else who shares the description made it non-blocking.
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        with contextlib.suppress(OSError):
            poll.poll(POLL_MILLISECONDS)
