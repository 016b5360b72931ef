"""A count of the events of the last so many seconds."""

from __future__ import annotations

from typing import Final

_BUCKETS: Final = 20


class Window:
    """Events of the last `seconds`, counted in a ring of buckets. `now` is monotonic seconds and never goes back."""

    __slots__ = ("_counts", "_per_second", "_slot", "total")

    def __init__(self, seconds: float, *, longer: bool = False) -> None:
        """A ring cannot end between two buckets: `longer` says whether it counts up to one more or one less."""
        self._per_second = (_BUCKETS - longer) / seconds
        self._counts = [0] * _BUCKETS
        self._slot = 0
        self.total = 0

    def move(self, now: float) -> None:
        """Forget what is older than the window."""
        slot = int(now * self._per_second)
        ahead = slot - self._slot
        if ahead <= 0:
            return
        if ahead >= _BUCKETS or not self.total:
            if self.total:
                self._counts = [0] * _BUCKETS
                self.total = 0
        else:
            counts = self._counts
            for old in range(self._slot + 1, slot + 1):
                self.total -= counts[old % _BUCKETS]
                counts[old % _BUCKETS] = 0
        self._slot = slot

    def add(self, now: float) -> None:
        """Count one event."""
        if int(now * self._per_second) > self._slot:
            self.move(now)
        self._counts[self._slot % _BUCKETS] += 1
        self.total += 1

    def clear(self) -> None:
        """Forget everything."""
        self._counts = [0] * _BUCKETS
        self.total = 0
