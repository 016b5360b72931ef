"""The last good document on disk, so that a restart during a bad configuration still serves (product.md 3.6).

One file: a line of JSON (format, SHA-256, source, revision, origin), then the document. Written beside and renamed, synced,
readable by its owner only. A broken or unwritable file costs one warning, never the sidecar.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import stat
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.config.parse import MAX_BYTES
from sidecar.config.threads import in_thread

log = logging.getLogger("outrider")

DISK_SECONDS: Final = 10.0
FILE_NAME: Final = "last-good"
_FORMAT: Final = 1
_MAX_HEADER: Final = 4096


class Kept(NamedTuple):
    """A document as it was kept."""

    source: str
    revision: str
    data: bytes
    origin: str = ""
    """The object it came from (`config.source.Offer`); "" for a file, and in files of earlier versions."""


class LastGood:
    """The file in the state folder. Reading and writing happen in a thread."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._warned = False
        self._busy: asyncio.Future[None] | None = None

    async def load(self, origins: Collection[str] = ("",)) -> Kept | None:
        """The kept document; None when there is none, it cannot be trusted, or it came from something that is not followed now."""
        try:
            async with asyncio.timeout(DISK_SECONDS):
                kept = await in_thread(partial(_read, self.path), name="outrider-last-good")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            self._warn("last good document not used", error)
            return None
        if kept.origin not in origins:
            self._warn("last good document not used", ValueError(f"it came from {kept.origin or 'a file'}, which is not followed now"))
            return None
        log.info(
            "last good document found", extra={"event": "last_good_used", "fields": {"source": kept.source, "revision": kept.revision}}
        )
        return kept

    async def save(self, data: bytes, *, source: str, revision: str, origin: str = "") -> None:
        """Keep `data`. Failing is a warning, said once until it works again."""
        try:
            async with asyncio.timeout(DISK_SECONDS):
                if self._busy is not None:
                    await asyncio.wait((self._busy,))
                self._busy = in_thread(partial(_write, self.path, Kept(source, revision, data, origin)), name="outrider-last-good")
                await asyncio.shield(self._busy)
        except OSError as error:
            self._warn("last good document not kept, a restart during a bad configuration will not serve", error)
        else:
            self._warned = False

    async def settled(self, seconds: float) -> None:
        """Wait until what is being written is on the disk, but no longer than `seconds`: for the end of the process."""
        if self._busy is not None:
            await asyncio.wait((self._busy,), timeout=seconds)

    def _warn(self, what: str, error: Exception) -> None:
        if not self._warned:
            why = (error.strerror or "the disk does not answer") if isinstance(error, OSError) else str(error)
            log.warning("%s: %s", what, why, extra={"event": "last_good_failed", "fields": {"path": str(self.path)}})
        self._warned = True


def _read(path: Path) -> Kept:
    """Raises OSError, or ValueError for anything that we did not write like that."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(_MAX_HEADER + MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    first, newline, data = content.partition(b"\n")
    if not newline or len(first) > _MAX_HEADER:
        raise ValueError("it is damaged")
    try:
        header = json.loads(first)
        source, revision, sha256, version = header["source"], header["revision"], header["sha256"], header["format"]
        origin = header.get("origin", "")
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("it is damaged") from None
    if version != _FORMAT:
        raise ValueError(f"it was written by another version (format {version!r:.20})")
    if hashlib.sha256(data).hexdigest() != sha256 or not all(isinstance(text, str) for text in (source, revision, origin)):
        raise ValueError("it is damaged")
    return Kept(source, revision, data, origin)


def _write(path: Path, kept: Kept) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    header = {
        "format": _FORMAT,
        "sha256": hashlib.sha256(kept.data).hexdigest(),
        "source": kept.source,
        "revision": kept.revision[:256],
        "origin": kept.origin,
    }
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(header).encode() + b"\n" + kept.data)
            file.flush()
            os.fsync(descriptor)
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename last. Some file systems cannot sync a folder; then it is as safe as they are."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
