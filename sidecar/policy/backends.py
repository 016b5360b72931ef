"""Weighted choice among a route's backends (Gateway API HTTPBackendRef.weight)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Generic, TypeVar

T = TypeVar("T")


class WeightedChoice(Generic[T]):
    """Items by weight, summed up once. A weight of 0 gets nothing."""

    __slots__ = ("_bounds", "_items", "_lone", "_total")

    def __init__(self, items: Iterable[tuple[T, int]]) -> None:
        weighted = [(item, weight) for item, weight in items if weight > 0]
        self._items = tuple(item for item, _ in weighted)
        self._bounds = tuple(accumulate(weight for _, weight in weighted))
        self._total = self._bounds[-1] if self._bounds else 0
        self._lone = self._items[0] if len(self._items) == 1 else None

    def pick(self, random: Callable[[], float]) -> T | None:
        """An item; None when there is none or every weight is 0 (Gateway API: the reply is a 500)."""
        if self._lone is not None or not self._items:
            return self._lone
        return self._items[bisect_right(self._bounds, random() * self._total)]
