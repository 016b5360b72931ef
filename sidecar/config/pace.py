"""Long work beside traffic: a slice at a time, and in between everything else that is ready."""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

from sidecar.policy.slices import Slices

T = TypeVar("T")
SLICE_SECONDS: Final = 0.001
"""A request takes several turns of the loop, so it waits for several slices."""


async def in_slices(work: Slices[T]) -> T:
    """Do `work`, giving way after every millisecond."""
    clock = asyncio.get_running_loop().time
    until = clock() + SLICE_SECONDS
    while True:
        try:
            next(work)
        except StopIteration as stop:
            result: T = stop.value
            return result
        if clock() >= until:
            await asyncio.sleep(0)
            until = clock() + SLICE_SECONDS
