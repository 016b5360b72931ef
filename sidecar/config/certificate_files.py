"""Certificates, keys and CA bundles in files, followed by content as the document is (see file.py): edits, renames, mounted Secrets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

from sidecar.config.file import HANGS, READ_SECONDS, UnreadableFile, names_of, read_document
from sidecar.config.stir import POLL_SECONDS, Stir
from sidecar.config.threads import in_thread
from sidecar.model.tls import CertificateRef
from sidecar.tasks import cancel_and_wait, create_task
from sidecar.tls.material import CaBundle, KeyPair, Unusable
from sidecar.tls.store import Material, Reference, name_of

log = logging.getLogger("outrider")

Content = bytes | str
"""Of a file, or why it cannot be read."""
_UNSEEN: Final = "has not been read yet"


class CertificateFiles:
    """One reader and one inotify instance for all of them, from the first that is followed to the last."""

    def __init__(self, *, poll_seconds: float = POLL_SECONDS, use_inotify: bool = True, quiet: bool = False) -> None:
        """`quiet`: nothing is logged of what the files hold."""
        self._quiet = quiet
        self._poll_seconds = poll_seconds
        self._use_inotify = use_inotify
        self._followed: dict[FollowedFile, None] = {}
        self._stir: Stir | None = None
        self._task: asyncio.Task[None] | None = None
        self._reading: asyncio.Future[dict[Path, Content]] | None = None

    def follow(self, reference: Reference, changed: Callable[[], None]) -> FollowedFile:
        """See `tls.store.Follow`."""
        followed = FollowedFile(reference, changed, self._left, quiet=self._quiet)
        self._followed[followed] = None
        if self._stir is None:
            self._stir = Stir(poll_seconds=self._poll_seconds, use_inotify=self._use_inotify)
            self._task = create_task(self._run(self._stir), name="certificate files")
        self._stir.poke()
        return followed

    async def aclose(self) -> None:
        """Stop looking."""
        if self._task is not None:
            await cancel_and_wait([self._task])

    def _left(self, followed: FollowedFile) -> None:
        self._followed.pop(followed, None)
        if not self._followed and self._task is not None:
            self._task.cancel()
            self._stir = self._task = None

    async def _run(self, stir: Stir) -> None:
        try:
            while True:
                stir.begin()
                await self._look(stir)
                await stir.wait()
        finally:
            stir.close()

    async def _look(self, stir: Stir) -> None:
        followed = list(self._followed)
        paths = list(dict.fromkeys(path for one in followed for path in one.paths))
        contents: dict[Path, Content]
        try:
            contents = await self._read(paths, stir)
        except TimeoutError:
            contents = dict.fromkeys(paths, HANGS)
        for one in followed:
            if one in self._followed:
                one.take(tuple(contents.get(path, _UNSEEN) for path in one.paths))

    async def _read(self, paths: list[Path], stir: Stir) -> dict[Path, Content]:
        """In a thread. A read that hangs is waited for, not repeated. Raises TimeoutError."""
        if self._reading is None or self._reading.done():
            self._reading = in_thread(partial(_read, paths, stir), name="outrider-certificates")
        async with asyncio.timeout(READ_SECONDS):
            return await asyncio.shield(self._reading)


def _read(paths: Iterable[Path], stir: Stir) -> dict[Path, Content]:
    """Watch first, read after: no change falls between the two."""
    stir.follow(names_of(paths))
    contents: dict[Path, Content] = {}
    for path in paths:
        try:
            contents[path] = read_document(path)
        except UnreadableFile as error:
            contents[path] = str(error)
    return contents


class FollowedFile:
    """What one reference to files stands for (implements `tls.store.Followed`)."""

    def __init__(
        self, reference: Reference, changed: Callable[[], None], left: Callable[[FollowedFile], None], *, quiet: bool = False
    ) -> None:
        self.paths = paths_of(reference)
        self.value: Material | None = None
        self.problem = f"{self.paths[0]} {_UNSEEN}"
        self._name = name_of(reference)
        self._quiet = quiet
        self._pair = len(self.paths) > 1
        self._changed = changed
        self._left = left
        self._seen: tuple[Content, ...] = ()
        self._settled = asyncio.Event()

    async def settled(self) -> None:
        """Wait until it has been read once, well or badly."""
        await self._settled.wait()

    def close(self) -> None:
        """Follow it no longer."""
        self._left(self)

    def take(self, seen: tuple[Content, ...]) -> None:
        """What the files hold now, in the order of `paths`."""
        if seen != self._seen:
            self._seen = seen
            before = self.value, self.problem
            self.problem = self._judge(seen)
            if before != (self.value, self.problem):
                if not self._quiet:
                    self._say(new=self.value != before[0])
                if self._settled.is_set():
                    self._changed()
        self._settled.set()

    def _judge(self, seen: tuple[Content, ...]) -> str:
        """Take a new value; what is wrong with it."""
        for path, content in zip(self.paths, seen, strict=True):
            if isinstance(content, str):
                return f"{path} {content}"
        data = [content for content in seen if isinstance(content, bytes)]
        try:
            self.value = KeyPair(data[0], data[1], (str(self.paths[0]), str(self.paths[1]))) if self._pair else CaBundle(data[0])
        except Unusable as error:
            return str(error) if self._pair else f"{self.paths[0]}: {error}"
        return ""

    def _say(self, *, new: bool) -> None:
        """The first look belongs to the document's verdict; later ones are news."""
        if self.problem and self._settled.is_set():
            stays = "there is none" if self.value is None else "the last good one stays"
            log.warning("%s; %s", self.problem, stays, extra={"event": "certificate_failed"})
        elif new or self._settled.is_set():
            log.info("%s: %r is in use", self._name, self.value, extra={"event": "certificate_loaded"})


def paths_of(reference: Reference) -> tuple[Path, ...]:
    """The certificate's file and the key's, or the bundle's."""
    if isinstance(reference, CertificateRef):
        return Path(reference.cert_file or ""), Path(reference.key_file or "")
    return (Path(reference.file or ""),)
