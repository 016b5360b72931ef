"""The metrics that queries may use: the table of docs/reference.md, which a test compares with the running program."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.errors import STATUS_OF
from sidecar.model.reason import Clock

ROOT: Final = Path(__file__).parents[2]
REFERENCE: Final = ROOT / "docs/reference.md"
TARGET: Final = frozenset(["namespace", "pod", "instance", "job"])
"""Labels that every series gets when it is scraped (docs/observability.md)."""
FOREIGN: Final = {
    "up": frozenset[str](),
    "ALERTS": frozenset(["alertname", "alertstate", "severity", "workload"]),
    "process_start_time_seconds": frozenset[str](),
    "process_cpu_seconds_total": frozenset[str](),
    "python_gc_collections_total": frozenset(["generation"]),
    "apiserver_admission_webhook_fail_open_count": frozenset(["name", "type"]),
}
"""Metrics of Prometheus, of the client library and of the API server that queries may use, with their own labels."""
INJECTOR: Final = "outrider_injector_"
"""How metrics begin that the injector has, not the sidecar."""
TUNNEL_CLOCK: Final = Clock.TUNNEL_IDLE
CLIENT_CLOCKS: Final = (Clock.HEADER, Clock.BODY_IDLE)
"""Clocks that say something about clients, not about upstreams."""
BLAMELESS: Final = ("none", *sorted(reason.value for reason, status in STATUS_OF.items() if status < 500))
"""Values of `reason` that are no failure of the upstream or of ours: it answered, or the client is to blame."""


class Metric(NamedTuple):
    """One row of the table; `labels` without those of the target."""

    kind: str
    labels: frozenset[str]


@cache
def metrics() -> dict[str, Metric]:
    """By full name. ValueError: the reference has no such table."""
    rows = re.findall(
        r"^\| `(outrider_\w+)` \| (counter|gauge|histogram) \| ([a-z ]*?) ?\|", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE
    )
    if not rows:
        raise ValueError(f"{REFERENCE} has no table of metrics any more")
    return {name: Metric(kind, frozenset(labels.split())) for name, kind, labels in rows}


def labels_of(series: str) -> frozenset[str]:
    """The labels that a series of this name has, besides those of its target. KeyError: no such series."""
    if series in FOREIGN:
        return FOREIGN[series]
    known = metrics()
    if series in known and known[series].kind != "histogram":
        return known[series].labels
    name, _, suffix = series.rpartition("_")
    if suffix not in ("bucket", "count", "sum") or known.get(name, Metric("", frozenset())).kind != "histogram":
        raise KeyError(f"no series is called {series}")
    return known[name].labels | {"le"} if suffix == "bucket" else known[name].labels
