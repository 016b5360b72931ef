"""Cgroup: the limits that the container's runtime put on this process, v1 or v2, and how near they are."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from sidecar.observe.runtime_files import (
    cgroup_folders,
    parse_cgroup,
    parse_cpu_limit,
    parse_inactive_file,
    parse_limit,
    parse_mountinfo,
    parse_throttled,
)

_V1: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes")
_V2: Final = ("memory.max", "memory.current")


class MemoryLimit(NamedTuple):
    """A limit and what counts against it, bytes: of every process below it, without what the kernel drops first."""

    limit: int
    working_set: int


class Cgroup:
    """`root` is where /proc and /sys are found. The folders are looked up once: a process seldom moves."""

    def __init__(self, root: Path) -> None:
        mounts = parse_mountinfo(read(root / "proc/self/mountinfo"))
        paths = parse_cgroup(read(root / "proc/self/cgroup"))
        version, memory = cgroup_folders(mounts, paths, "memory")
        self._limit_name, self._usage_name = _V2 if version == 2 else _V1
        self._memory = [root / str(folder).lstrip("/") for folder in memory]
        _, cpu = cgroup_folders(mounts, paths, "cpu")
        self._cpu = root / str(cpu[0]).lstrip("/") if cpu else None

    def memory_limit(self) -> int | None:
        """The narrowest limit; every ancestor's holds, and a pod's may be narrower than its container's."""
        return min((limit for _, limit in self._limits()), default=None)

    def tightest_memory(self, resident: int) -> MemoryLimit | None:
        """The limit that will be hit first; `resident` stands in where the kernel does not tell what is used."""
        found = []
        for folder, limit in self._limits():
            used = parse_limit(read(folder / self._usage_name))
            working_set = resident if used is None else max(used - parse_inactive_file(read(folder / "memory.stat")), 0)
            found.append(MemoryLimit(limit, working_set))
        return max(found, key=lambda one: one.working_set / one.limit if one.limit else 1.0, default=None)

    def throttled_seconds(self) -> float | None:
        """Time for which the CPU quota held us back; None when the kernel does not tell."""
        return None if self._cpu is None else parse_throttled(read(self._cpu / "cpu.stat"))

    def cpu_limit(self) -> float | None:
        """CPUs that may be used at a time; None: no quota."""
        if self._cpu is None:
            return None
        names = ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")
        return parse_cpu_limit(*(read(self._cpu / name) for name in names))

    def _limits(self) -> list[tuple[Path, int]]:
        found = ((folder, parse_limit(read(folder / self._limit_name))) for folder in self._memory)
        return [(folder, limit) for folder, limit in found if limit is not None]


def read(path: Path) -> str:
    """A small kernel file; "" when it is not there or not ours to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
