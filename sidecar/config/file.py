"""FileSource: follows a file by its content. Edits in place, renames, Kubernetes' symlink swaps, deletion and return.

inotify says when to look; what counts is the content read then. Without inotify, or while a folder is gone, the file
is looked at every second. Reading happens in a thread of its own, so that a disk that hangs never holds up traffic.
"""

from __future__ import annotations

import asyncio
import os
import stat
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.config.inotify import Watch, open_watch
from sidecar.config.load import digest
from sidecar.config.parse import MAX_BYTES
from sidecar.config.source import Mailbox, Offer, Unavailable
from sidecar.config.threads import in_thread

POLL_SECONDS: Final = 1.0
SAFETY_SECONDS: Final = 30.0
"""With inotify: some file systems (NFS, FUSE) do not tell what others change."""
QUIET_SECONDS: Final = 0.05
MAX_UNQUIET_SECONDS: Final = 0.5
"""An editor writes in pieces: wait for silence, but not for ever."""
READ_SECONDS: Final = 10.0
_MAX_LINKS: Final = 8


class UnreadableFile(Exception):
    """The text says why, for people."""


class FileSource:
    """`--config PATH`."""

    name = "file"

    def __init__(self, path: Path, *, poll_seconds: float = POLL_SECONDS, use_inotify: bool = True) -> None:
        self.path = path
        self._poll_seconds = poll_seconds
        self._use_inotify = use_inotify
        self._stirred = asyncio.Event()
        self._seeing: asyncio.Future[_Seen] | None = None
        self._told: tuple[bool, str] | None = None
        """Whether the last news was a document, and its revision or message."""

    async def run(self, mailbox: Mailbox) -> None:
        """Look at once, then whenever something may have changed, until cancelled."""
        watch = open_watch() if self._use_inotify else None
        loop = asyncio.get_running_loop()
        try:
            if watch is not None:
                loop.add_reader(watch.fileno(), self._on_event, watch)
            while True:
                self._stirred.clear()
                watched = await self._look(mailbox, watch)
                await self._wait(SAFETY_SECONDS if watched else self._poll_seconds)
        finally:
            if watch is not None:
                loop.remove_reader(watch.fileno())
                watch.close()

    def _on_event(self, watch: Watch) -> None:
        watch.drain()
        self._stirred.set()

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        except TimeoutError:
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + MAX_UNQUIET_SECONDS
        while self._stirred.is_set() and loop.time() < until:
            self._stirred.clear()
            await asyncio.sleep(QUIET_SECONDS)

    async def _look(self, mailbox: Mailbox, watch: Watch | None) -> bool:
        """Tell what is new; whether inotify will say when to look again."""
        try:
            seen = await self._see(watch)
        except TimeoutError:
            seen = _Seen(None, f"could not be read within {READ_SECONDS:g} s (the disk does not answer)", watched=False)
        if seen.data is None:
            self._tell(mailbox, Unavailable(self.name, f"{self.path} {seen.problem}"), (False, seen.problem))
        else:
            revision = digest(seen.data)
            self._tell(mailbox, Offer(self.name, revision, seen.data), (True, revision))
        return seen.watched

    def _tell(self, mailbox: Mailbox, news: Offer | Unavailable, key: tuple[bool, str]) -> None:
        if key != self._told:
            self._told = key
            mailbox.put(news)

    async def _see(self, watch: Watch | None) -> _Seen:
        """Read in a thread. A read that hangs is waited for, not repeated. Raises TimeoutError."""
        if self._seeing is None or self._seeing.done():
            self._seeing = in_thread(partial(_see, self.path, watch), name="outrider-config-file")
        async with asyncio.timeout(READ_SECONDS):
            return await asyncio.shield(self._seeing)


class _Seen(NamedTuple):
    """What one look found; `problem` says why there is no `data`."""

    data: bytes | None
    problem: str
    watched: bool


def _see(path: Path, watch: Watch | None) -> _Seen:
    """Watch first, read after: no change falls between the two."""
    watched = watch is not None and watch.follow(_folders(path))
    try:
        return _Seen(read_document(path), "", watched)
    except UnreadableFile as error:
        return _Seen(None, str(error), watched)


def _folders(path: Path) -> list[Path]:
    """The folder of `path` and of every symlink on the way to the file: a change in any of them may be a new file."""
    step = path.absolute()
    folders = [step.parent]
    for _ in range(_MAX_LINKS):
        try:
            step = step.parent / step.readlink()
        except OSError:
            break
        folders.append(step.parent)
    folders.append(Path(os.path.realpath(path)).parent)
    return folders


def read_document(path: Path) -> bytes:
    """The content of a regular file, cut behind the first byte that is too many. Raises UnreadableFile; never waits for a FIFO's other end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UnreadableFile(f"cannot be opened: {error.strerror}") from None
    except ValueError:
        raise UnreadableFile("is not a path") from None
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise UnreadableFile(f"is {_kind(about.st_mode)}, not a file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableFile(f"cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a FIFO" if stat.S_ISFIFO(mode) else "a device or socket"
