"""Long work as generators that pause between small steps: whoever drives one decides how much to do at a stretch."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

Slices = Generator[None, None, T]
"""Yields whenever it may be left alone for a while, and returns its result."""


def at_once(work: Slices[T]) -> T:
    """Do all of `work` now."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            result: T = stop.value
            return result
