"""FileSource: follows a file by its content. Edits in place, renames, Kubernetes' symlink swaps, deletion and return.

inotify says when to look, and of which names; what counts is the content read then. Without inotify, or while a folder is gone, the file
is looked at every second. Reading happens in a thread of its own, so that a disk that hangs never holds up traffic.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.config.load import digest
from sidecar.config.parse import MAX_BYTES
from sidecar.config.source import Mailbox, Offer, Unavailable
from sidecar.config.stir import POLL_SECONDS, Stir
from sidecar.config.threads import in_thread

READ_SECONDS: Final = 10.0
HANGS: Final = f"could not be read within {READ_SECONDS:g} s (the disk does not answer)"
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
        self._seeing: asyncio.Future[_Seen] | None = None
        self._told: tuple[bool, str] | None = None
        """Whether the last news was a document, and its revision or message."""

    async def run(self, mailbox: Mailbox) -> None:
        """Look at once, then whenever something may have changed, until cancelled."""
        stir = Stir(poll_seconds=self._poll_seconds, use_inotify=self._use_inotify, alone=True)
        try:
            while True:
                stir.begin()
                await self._look(mailbox, stir)
                await stir.wait()
        finally:
            stir.close()

    async def _look(self, mailbox: Mailbox, stir: Stir) -> None:
        """Tell what is new."""
        try:
            seen = await self._see(stir)
        except TimeoutError:
            seen = _Seen(None, HANGS)
        if seen.data is None:
            self._tell(mailbox, Unavailable(self.name, f"{self.path} {seen.problem}"), (False, seen.problem))
        else:
            revision = digest(seen.data)
            self._tell(mailbox, Offer(self.name, revision, seen.data), (True, revision))

    def _tell(self, mailbox: Mailbox, news: Offer | Unavailable, key: tuple[bool, str]) -> None:
        if key != self._told:
            self._told = key
            mailbox.put(news)

    async def _see(self, stir: Stir) -> _Seen:
        """Read in a thread. A read that hangs is waited for, not repeated. Raises TimeoutError."""
        if self._seeing is None or self._seeing.done():
            self._seeing = in_thread(partial(_see, self.path, stir), name="outrider-config-file")
        async with asyncio.timeout(READ_SECONDS):
            return await asyncio.shield(self._seeing)


class _Seen(NamedTuple):
    """What one look found; `problem` says why there is no `data`."""

    data: bytes | None
    problem: str


def _see(path: Path, stir: Stir) -> _Seen:
    """Watch first, read after: no change falls between the two."""
    stir.follow(names_of([path]))
    try:
        return _Seen(read_document(path), "")
    except UnreadableFile as error:
        return _Seen(None, str(error))


def names_of(paths: Iterable[Path]) -> dict[Path, set[str]]:
    """The folders of `paths` and of every symlink on the way to their files, and the names in them whose change may be a new file.

    A name is a file's, a symlink's, or that of a folder on the way: Kubernetes swaps `..data`, behind which the file is.
    """
    found: dict[Path, set[str]] = {}
    for path in paths:
        steps = _steps(path)
        for folder in {step.parent for step in steps}:
            names = (step.relative_to(folder).parts[0] for step in steps if folder in step.parents)
            found.setdefault(folder, set()).update(names)
    return found


def _steps(path: Path) -> list[Path]:
    """`path`, where it leads, link by link, and the file itself."""
    steps = [path.absolute()]
    for _ in range(_MAX_LINKS):
        try:
            steps.append(steps[-1].parent / steps[-1].readlink())
        except OSError:
            break
    return [*steps, Path(os.path.realpath(path))]


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
