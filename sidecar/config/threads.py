"""Disk work beside the event loop, in daemon threads: one that hangs in the kernel must not keep the process from ending."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T], *, name: str) -> asyncio.Future[T]:
    """Start `work` in a thread of its own; the future has its result or exception. Bound the wait, and shield it."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            value = work()
        except Exception as error:  # noqa: BLE001 - it is handed on
            tell(_fail, error)
        else:
            tell(_succeed, value)

    def tell(how: Callable[..., None], what: object) -> None:
        try:
            loop.call_soon_threadsafe(how, result, what)
        except RuntimeError:  # the loop has ended meanwhile
            return

    threading.Thread(target=run, name=name, daemon=True).start()
    return result


def _succeed(result: asyncio.Future[T], value: T) -> None:
    if not result.done():
        result.set_result(value)


def _fail(result: asyncio.Future[T], error: Exception) -> None:
    if not result.done():
        result.set_exception(error)
        result.exception()  # nobody may be waiting any more
