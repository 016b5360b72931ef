"""What the client library's own collectors (`process_*`, `python_gc_*`) say of a process, as plain numbers that add up.

For a sidecar of several processes: each reads its own without the library, and `exposition.py` shows their sums.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from sidecar.observe.cgroup import read
from sidecar.observe.runtime import RuntimeSample

Figures = Mapping[str, float]
"""Value by sample; a generation of the collector stands behind the name."""

OPEN_FILES: Final = "process_open_fds"
"""Limits are per process, so of these the process counts that has most."""
_STATM: Final = Path("/proc/self/statm")


def own_figures(sample: RuntimeSample) -> dict[str, float]:
    """Of this process; `sample` has been taken just now."""
    figures: dict[str, float] = {
        "process_cpu_seconds_total": time.process_time(),
        "process_resident_memory_bytes": float(sample.rss_bytes),
        "process_virtual_memory_bytes": float((read(_STATM).split() or ["0"])[0]) * resource.getpagesize(),
        OPEN_FILES: float(sample.descriptors),
    }
    for generation, counts in enumerate(gc.get_stats()):
        figures[f"python_gc_objects_collected_total{generation}"] = counts["collected"]
        figures[f"python_gc_objects_uncollectable_total{generation}"] = counts["uncollectable"]
        figures[f"python_gc_collections_total{generation}"] = counts["collections"]
    return figures


def of_all(processes: Iterable[Figures]) -> dict[str, float]:
    """Of several processes."""
    total: dict[str, float] = {}
    for figures in processes:
        for name, value in figures.items():
            before = total.get(name, 0.0)
            total[name] = max(before, value) if name == OPEN_FILES else before + value
    return total


def remaining(figures: Figures) -> dict[str, float]:
    """What of them stays when the process has ended: what it has used, not what it holds."""
    return {name: value for name, value in figures.items() if "_total" in name}
