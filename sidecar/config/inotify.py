"""Linux inotify for a handful of folders, over libc. Where there is none, `open_watch` says so and callers poll.

No library: those on PyPI wrap the same three calls, and we need no recursion and of the events only the names: a folder may have
files that change all the time, an access log for example, and each look at ours costs a thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

_MODIFY: Final = 0x002
_ATTRIB: Final = 0x004
_CLOSE_WRITE: Final = 0x008
_MOVED_TO: Final = 0x080
_MOVED: Final = 0x040 | _MOVED_TO
_CREATE: Final = 0x100
_DELETE: Final = 0x200
_SELF: Final = 0x400 | 0x800
_ONLYDIR: Final = 0x01000000
_MASK: Final = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED | _CREATE | _DELETE | _SELF | _ONLYDIR
_READ_BYTES: Final = 64 * 1024
_EVENT: Final = struct.Struct("iIII")
"""inotify_event of inotify(7): watch, what happened, cookie, length of the name that follows, padded with NUL."""
_WATCH, _WHAT, _LENGTH = 0, 1, 3


class Watch:
    """An inotify instance. `fileno()` is readable when something happened in one of the folders; `drain` says whether it matters."""

    def __init__(self, descriptor: int, add: Callable[[int, bytes, int], int], remove: Callable[[int, int], int]) -> None:
        self._descriptor = descriptor
        self._add = add
        self._remove = remove
        self._watched: dict[int, set[bytes]] = {}
        self.whole = False
        """What mattered last was a file, or a link, that was moved into its place: there are no pieces to wait for."""

    def fileno(self) -> int:
        """For `loop.add_reader`."""
        return self._descriptor

    def follow(self, folders: Mapping[Path, AbstractSet[str]]) -> bool:
        """Watch exactly these folders, and these names in them. False when one of them cannot be watched (now)."""
        numbers: dict[int, set[bytes]] = {}
        for folder, names in folders.items():  # two paths may lead to one folder, which has one number
            number = self._add(self._descriptor, os.fsencode(folder), _MASK)
            numbers.setdefault(number, set()).update(map(os.fsencode, names))
        for gone in self._watched.keys() - numbers.keys():
            self._remove(self._descriptor, gone)
        complete = numbers.pop(-1, None) is None
        self._watched = numbers
        return complete

    def drain(self) -> bool:
        """Take the events that have been reported; whether one of them is of a name that is followed, or of a whole folder."""
        stirred = False
        with contextlib.suppress(BlockingIOError):
            while events := os.read(self._descriptor, _READ_BYTES):
                stirred = self._matter(events) or stirred
        return stirred

    def _matter(self, events: bytes) -> bool:
        at, matters = 0, False
        while at < len(events):
            header = _EVENT.unpack_from(events, at)
            name_at = at + _EVENT.size
            at = name_at + header[_LENGTH]
            name = events[name_at:at].rstrip(b"\0")
            names = self._watched.get(header[_WATCH])
            if names is None or not name or name in names:  # None: of a folder that is being added, or lost events
                matters, self.whole = True, bool(header[_WHAT] & _MOVED_TO)
        return matters

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
