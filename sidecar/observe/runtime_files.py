"""What the kernel tells about this process: parsers of /proc and cgroup files, pure functions of their text.

cgroup v1 and v2: https://docs.kernel.org/admin-guide/cgroup-v2.html and .../cgroup-v1/; /proc: man 5 proc.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final, NamedTuple

UNLIMITED_V1: Final = 1 << 60
"""cgroup v1 writes "no limit" as the largest multiple of the page size; nobody has an exbibyte."""


class Mount(NamedTuple):
    """A cgroup file system: `root` is the cgroup that is seen at `point`."""

    version: int
    controllers: frozenset[str]
    root: str
    point: str


class Traffic(NamedTuple):
    """Bytes of one network interface since it came up."""

    received: int
    transmitted: int


def parse_mountinfo(text: str) -> list[Mount]:
    """The cgroup mounts in /proc/self/mountinfo; for v1 the controllers are among the super options."""
    mounts = []
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if not separator or len(before) < 5 or len(after) < 3:
            continue
        if after[0] in ("cgroup", "cgroup2"):
            version = 2 if after[0] == "cgroup2" else 1
            mounts.append(Mount(version, frozenset(after[2].split(",")), before[3], before[4]))
    return mounts


def parse_cgroup(text: str) -> dict[str, str]:
    """/proc/self/cgroup: path by controller; the v2 hierarchy is the controller ""."""
    paths = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            for controller in parts[1].split(","):
                paths[controller] = parts[2]
    return paths


def cgroup_folders(mounts: list[Mount], paths: dict[str, str], controller: str) -> tuple[int, list[PurePosixPath]]:
    """(version, our cgroup's folder and its ancestors up to the mount point, own one first); (0, []) when there is none.

    A v1 hierarchy that has the controller wins: on hybrid systems the v2 one is there too, but without controllers.
    A path outside the mount (`/../x`, or the host's path seen in a container) means that the mount point is all we see.
    """
    for mount in sorted(mounts, key=lambda mount: mount.version):
        name = controller if mount.version == 1 else ""
        if name not in paths or (mount.version == 1 and controller not in mount.controllers):
            continue
        point = PurePosixPath(mount.point)
        inside = PurePosixPath("/")
        path = PurePosixPath(paths[name])
        if path.is_relative_to(mount.root) and ".." not in path.parts:
            inside = PurePosixPath("/") / path.relative_to(mount.root)
        own = point / inside.relative_to("/")
        return mount.version, [own, *(parent for parent in own.parents if parent.is_relative_to(point))]
    return 0, []


def parse_limit(text: str) -> int | None:
    """memory.max or memory.limit_in_bytes: bytes, None when there is no limit (`max`, v1's huge number, nonsense)."""
    text = text.strip()
    if not text.isdecimal() or int(text) >= UNLIMITED_V1:
        return None
    return int(text)


def parse_throttled(text: str) -> float | None:
    """cpu.stat: seconds for which the quota held us back; v2 has throttled_usec, v1 throttled_time (nanoseconds)."""
    units = {"throttled_usec": 1e6, "throttled_time": 1e9}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name in units and value.strip().isdecimal():
            return int(value) / units[name]
    return None


def parse_inactive_file(text: str) -> int:
    """memory.stat: bytes of file pages that nobody has used lately, which the kernel drops before it kills anyone.

    v1 has `total_inactive_file` for a cgroup and everything below it, v2 `inactive_file`.
    """
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name in ("total_inactive_file", "inactive_file") and value.strip().isdecimal():
            found[name] = int(value)
    return found.get("total_inactive_file", found.get("inactive_file", 0))


def parse_cpu_limit(cpu_max: str, quota: str, period: str) -> float | None:
    """CPUs: v2's `cpu.max` is `QUOTA PERIOD`, QUOTA maybe `max`; v1 has a file for each, quota -1 is no limit."""
    words = cpu_max.split() if cpu_max else [quota.strip(), period.strip()]
    if len(words) != 2 or not all(word.isdecimal() for word in words) or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1])


def parse_resident_pages(text: str) -> int:
    """/proc/self/statm: pages in memory."""
    fields = text.split()
    return int(fields[1]) if len(fields) > 1 and fields[1].isdecimal() else 0


def parse_network(text: str) -> dict[str, Traffic]:
    """/proc/self/net/dev: two heading lines, then `name: 8 receive columns 8 transmit columns`, bytes first in each."""
    interfaces = {}
    for line in text.splitlines()[2:]:
        name, separator, rest = line.rpartition(":")
        columns = rest.split()
        if separator and len(columns) >= 9 and columns[0].isdecimal() and columns[8].isdecimal():
            interfaces[name.strip()] = Traffic(int(columns[0]), int(columns[8]))
    return interfaces


def parse_proportional(text: str) -> int | None:
    """Bytes of /proc/self/smaps_rollup's `Pss`: pages that several processes share are divided among them."""
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None
