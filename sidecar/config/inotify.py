"""Linux inotify for a handful of folders, over libc. Where there is none, `open_watch` says so and callers poll.

No library: those on PyPI wrap the same three calls, and we need no recursion and no event details, only "look again".
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

_MODIFY: Final = 0x002
_ATTRIB: Final = 0x004
_CLOSE_WRITE: Final = 0x008
_MOVED: Final = 0x040 | 0x080
_CREATE: Final = 0x100
_DELETE: Final = 0x200
_SELF: Final = 0x400 | 0x800
_ONLYDIR: Final = 0x01000000
_MASK: Final = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED | _CREATE | _DELETE | _SELF | _ONLYDIR
_READ_BYTES: Final = 64 * 1024


class Watch:
    """An inotify instance. `fileno()` is readable when something happened in one of the folders."""

    def __init__(self, descriptor: int, add: Callable[[int, bytes, int], int], remove: Callable[[int, int], int]) -> None:
        self._descriptor = descriptor
        self._add = add
        self._remove = remove
        self._watched: dict[int, Path] = {}

    def fileno(self) -> int:
        """For `loop.add_reader`."""
        return self._descriptor

    def follow(self, folders: Iterable[Path]) -> bool:
        """Watch exactly these folders. False when one of them cannot be watched (now)."""
        numbers = {self._add(self._descriptor, os.fsencode(folder), _MASK): folder for folder in dict.fromkeys(folders)}
        for gone in self._watched.keys() - numbers.keys():
            self._remove(self._descriptor, gone)
        self._watched = {number: folder for number, folder in numbers.items() if number >= 0}
        return -1 not in numbers

    def drain(self) -> None:
        """Throw away the events that have been reported."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._descriptor, _READ_BYTES):
                pass

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)


def open_watch() -> Watch | None:
    """A new instance; None where the system has no inotify or gives no more instances."""
    try:
        libc = ctypes.CDLL(None)
        init, add, remove = libc.inotify_init1, libc.inotify_add_watch, libc.inotify_rm_watch
    except (OSError, AttributeError):
        return None
    descriptor = init(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        return None
    add.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
    remove.argtypes = (ctypes.c_int, ctypes.c_int)
    return Watch(descriptor, add, remove)
