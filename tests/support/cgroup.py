"""A memory cgroup of one's own, so that a limit is the kernel's and not a pretence. Skips where none can be made."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

V1 = Path("/sys/fs/cgroup/memory")
V2 = Path("/sys/fs/cgroup")


class MemoryCgroup:
    """`prefix` goes before a command that is to live in it."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        v1 = folder.is_relative_to(V1)
        (folder / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(limit))
        self._v1 = v1
        procs = folder / "cgroup.procs"
        self.prefix = ["sh", "-c", f'echo $$ > "{procs}" && exec "$@"', "in-cgroup"]

    def kills(self) -> int:
        """How often the kernel has killed a process of it for its memory."""
        text = (self._folder / ("memory.oom_control" if self._v1 else "memory.events")).read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))

    def peak(self) -> int:
        """The most memory that it has had, bytes; 0 where the kernel does not tell."""
        file = self._folder / ("memory.max_usage_in_bytes" if self._v1 else "memory.peak")
        return int(file.read_text()) if file.exists() else 0


@contextlib.contextmanager
def memory_cgroup(limit: int) -> Iterator[MemoryCgroup]:
    """`limit` in bytes. Everything in it must have ended before."""
    root = V1 if V1.is_dir() else V2
    folder = root / f"outrider-test-{os.getpid()}-{time.monotonic_ns()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(
            f"needs a memory cgroup, which cannot be made here: {error.strerror} (run as root, with the cgroup file system writable)"
        )
    try:
        try:
            made = MemoryCgroup(folder, limit)
        except OSError as error:
            pytest.skip(f"needs a memory limit, which cannot be set here: {error.strerror}")
        yield made
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """A process that has just ended may be in it for a moment more."""
    deadline = time.monotonic() + 5
    while True:
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
