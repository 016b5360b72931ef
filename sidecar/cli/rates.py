"""Rates from two looks at `/metrics`: how many a second, by listener and by upstream."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_SAMPLE: Final = re.compile(r"outrider_(\w+)\{([^}]*)\} ([0-9.eE+-]+)")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_WANTED: Final = frozenset(("requests_total", "retries_total", "request_bytes_total", "response_bytes_total"))


@dataclass(slots=True)
class Counts:
    """What has happened so far, or per second, in one listener or upstream."""

    requests: float = 0.0
    errors: float = 0.0
    """Answers of 5xx, whoever made them."""
    retries: float = 0.0
    bytes: float = 0.0

    def per_second(self, before: Counts, seconds: float) -> Counts:
        """The rates since `before`; a counter that went back (a restart) counts from zero."""
        return Counts(*((now - then if now >= then else now) / seconds for now, then in zip(self._values(), before._values(), strict=True)))

    def _values(self) -> tuple[float, float, float, float]:
        return self.requests, self.errors, self.retries, self.bytes


Totals = dict[tuple[str, str], Counts]
"""By ("listener" | "upstream", name)."""


def totals(text: str) -> Totals:
    """The counters of a Prometheus text page that rates are made of."""
    found: Totals = {}
    for name, raw, value in _SAMPLE.findall(text):
        if name in _WANTED:
            labels = dict(_LABEL.findall(raw))
            for kind in ("listener", "upstream"):
                if label := labels.get(kind):
                    _add(found.setdefault((kind, label), Counts()), name, labels, float(value))
    return found


def rates(before: Totals, after: Totals, seconds: float) -> Totals:
    """What happened per second between two looks."""
    return {key: counts.per_second(before.get(key, Counts()), seconds) for key, counts in after.items()}


def _add(counts: Counts, name: str, labels: Mapping[str, str], value: float) -> None:
    if name == "retries_total":
        counts.retries += value
    elif name == "requests_total":
        counts.requests += value
        if labels.get("code", "").startswith("5"):
            counts.errors += value
    else:
        counts.bytes += value
