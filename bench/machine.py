"""What the kernel says of a tree of processes, and whether the machine is quiet enough to believe it."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
QUIET_LOAD = 0.15
"""Share of the machine's cores that others may use before a run."""
NOISY_SPREAD = 0.20
"""Interquartile range over median above which a figure is not reported."""


class TooNoisy(Exception):
    """The figures would not mean anything."""


def family(pid: int) -> list[int]:
    """`pid` and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def cpu_seconds(pid: int) -> float:
    """User plus system time of the tree, children that have ended included."""
    total = 0
    for one in family(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        total += sum(int(fields[at]) for at in (11, 12, 13, 14))
    return total / TICK


def rss_bytes(pid: int) -> int:
    """Resident memory of the tree, shared pages counted in each process."""
    found = (re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{one}/status").read_text()) for one in family(pid))
    return sum(int(match[1]) for match in found if match) * 1024


def wakeups(pid: int) -> int:
    """How often a thread of the tree has stopped waiting, so far: each time it began to wait, by the kernel's count."""
    total = 0
    for one in family(pid):
        for thread in Path(f"/proc/{one}/task").iterdir():
            found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (thread / "status").read_text(), re.MULTILINE)
            total += int(found[1]) if found else 0
    return total


def require_quiet(patience: float = 30.0) -> None:
    """Wait until the machine is quiet. Raises TooNoisy after `patience` seconds."""
    deadline = time.monotonic() + patience
    while (used := _used_share()) > QUIET_LOAD:
        if time.monotonic() > deadline:
            raise TooNoisy(f"other processes use {used:.0%} of this machine's cores; at most {QUIET_LOAD:.0%} is quiet enough")


def _used_share(over: float = 1.0) -> float:
    before = _cpu_line()
    time.sleep(over)
    spent = [new - old for new, old in zip(_cpu_line(), before, strict=True)]
    return 1 - (spent[3] + spent[4]) / max(sum(spent), 1)


def _cpu_line() -> list[int]:
    return [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def spread(values: Sequence[float]) -> float:
    """Interquartile range over median; 0 for fewer than three values."""
    if len(values) < 3:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle if middle else 0.0


def describe() -> dict[str, str]:
    """The machine, for the report."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "congestion control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
    }
