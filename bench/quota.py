"""A control group with a share of one core, where this process may make one (cgroup v1 or v2; that takes root)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PERIOD = 100_000


@contextlib.contextmanager
def limited(cores: float, name: str = "") -> Iterator[Path | None]:
    """The file that takes the id of a process which is to have `cores` at most; None where that cannot be. `name` tells several apart."""
    unified = (ROOT / "cgroup.controllers").exists()
    folder = (ROOT if unified else ROOT / "cpu") / f"outrider-bench-{os.getpid()}{name}"
    made = False
    try:
        try:
            folder.mkdir()
            made = True
            if unified:
                (folder / "cpu.max").write_text(f"{int(cores * PERIOD)} {PERIOD}")
            else:
                (folder / "cpu.cfs_period_us").write_text(str(PERIOD))
                (folder / "cpu.cfs_quota_us").write_text(str(int(cores * PERIOD)))
            members: Path | None = folder / "cgroup.procs"
        except OSError:
            members = None
        yield members
    finally:
        if made:
            with contextlib.suppress(OSError):  # not while a member is still ending; the kernel keeps nothing but the name
                folder.rmdir()
