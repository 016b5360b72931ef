"""Seats: how many connections each worker has on each listener, in memory that all of them see.

Workers accept from the same socket. Left alone, whichever the kernel wakes first takes nearly all (docs/decisions/0018
has the figures), and connections that stay make that last. So who has more than another lets the other go first.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

COLUMNS: Final = 4096
"""Listeners that are told apart; after so many the first are taken again."""
ABSENT: Final = 0xFFFFFFFF
"""Of a worker that does not accept: more connections than anybody has."""
_BYTES: Final = 4


class Seats:
    """A table of COLUMNS listeners times `workers`, over a memory file that other processes map, too."""

    def __init__(self, workers: int, descriptor: int | None = None) -> None:
        """`descriptor`: another process's table, which is then this one's to close; None: a new one."""
        size = COLUMNS * workers * _BYTES
        self._workers = workers
        self.descriptor = os.memfd_create("outrider-seats", os.MFD_CLOEXEC) if descriptor is None else descriptor
        """For handing it to a worker."""
        if descriptor is None:
            os.ftruncate(self.descriptor, size)
        self._map = mmap.mmap(self.descriptor, size)
        self._counts = memoryview(self._map).cast("I")
        self._next = 0

    def new_column(self) -> int:
        """For a listener that is new: nobody accepts there yet."""
        column, self._next = self._next % COLUMNS, self._next + 1
        for number in range(self._workers):
            self._counts[column * self._workers + number] = ABSENT
        return column

    def absent(self, number: int) -> None:
        """This worker is gone."""
        for column in range(min(self._next, COLUMNS)):
            self._counts[column * self._workers + number] = ABSENT

    def seat(self, column: int, number: int) -> Seat:
        """One worker's place at one listener."""
        return Seat(self._counts, column * self._workers, self._workers, number)

    def close(self) -> None:
        """The memory goes with the last process that has it. No seat can be used any more."""
        self._counts.release()
        self._map.close()
        os.close(self.descriptor)


class Seat:
    """See server.acceptor.Share."""

    __slots__ = ("_counts", "_end", "_mine", "_number", "_start")

    def __init__(self, counts: memoryview, start: int, workers: int, number: int) -> None:
        self._counts = counts
        self._start, self._end = start, start + workers
        self._number = number
        self._mine = start + number

    def report(self, open_connections: int) -> None:
        """So many connections are open here, and more may be taken."""
        self._counts[self._mine] = open_connections

    def leave(self) -> None:
        """None is taken here now."""
        self._counts[self._mine] = ABSENT

    def room(self) -> int:
        """How many more until this worker has one more than the one with the fewest; below 1 when it has more already."""
        others = self._counts[self._start : self._end].tolist()
        mine = others.pop(self._number)
        return int(min(others, default=mine)) - mine + 1
