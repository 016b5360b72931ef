"""When to look at files again: inotify says so, and where there is none, or a folder is gone, the clock does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

from sidecar.config.inotify import open_watch

POLL_SECONDS: Final = 1.0
SAFETY_SECONDS: Final = 30.0
"""With inotify: some file systems (NFS, FUSE) do not tell what others change."""
QUIET_SECONDS: Final = 0.05
WHOLE_SECONDS: Final = 0.01
"""The same for what is moved into its place, as Kubernetes and careful editors do: it is whole, and others may come with it."""
MAX_UNQUIET_SECONDS: Final = 0.5
"""An editor writes in pieces: wait for silence, but not for ever."""


class Stir:
    """One inotify instance. `follow` before files are read, so that no change falls between the two; then `wait`."""

    def __init__(self, *, poll_seconds: float = POLL_SECONDS, use_inotify: bool = True, alone: bool = False) -> None:
        """`alone`: one file is followed, which no other has to fit; a key has to fit its certificate."""
        self._loop = asyncio.get_running_loop()
        self._poll_seconds = poll_seconds
        self._alone = alone
        self._stirred = asyncio.Event()
        self._watched = False
        self._watch = open_watch() if use_inotify else None
        if self._watch is not None:
            self._loop.add_reader(self._watch.fileno(), self._on_event)

    def follow(self, folders: Mapping[Path, AbstractSet[str]]) -> None:
        """Watch exactly these folders, and these names in them; may be called in a thread, which a hanging disk may hold up."""
        self._watched = self._watch is not None and self._watch.follow(folders)

    def poke(self) -> None:
        """End the current wait, or the next one."""
        self._stirred.set()

    def begin(self) -> None:
        """A look begins: what stirs from now on is for the next one."""
        self._stirred.clear()

    async def wait(self) -> None:
        """Until there is reason to look again."""
        try:
            async with asyncio.timeout(SAFETY_SECONDS if self._watched else self._poll_seconds):
                await self._stirred.wait()
        except TimeoutError:
            return
        until = self._loop.time() + MAX_UNQUIET_SECONDS
        while self._stirred.is_set() and self._loop.time() < until:
            self._stirred.clear()
            await asyncio.sleep(WHOLE_SECONDS if self._alone and self._watch is not None and self._watch.whole else QUIET_SECONDS)

    def _on_event(self) -> None:
        assert self._watch is not None
        if self._watch.drain():
            self._stirred.set()

    def close(self) -> None:
        """Give the descriptor back."""
        if self._watch is not None:
            self._loop.remove_reader(self._watch.fileno())
            self._watch.close()
