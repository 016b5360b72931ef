"""What rule files are made of: recordings and alerts, and their YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import yaml

from charts.source.links import runbook
from charts.source.promql import Scope

FIVE: Final = Scope((), "5m")
"""Everything, over five minutes."""
Severity = Literal["critical", "warning", "info"]
"""`critical`: users notice, wake somebody. `warning`: they will, look today. `info`: good to know with another alert."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A recording rule, named `level:metric:operations`; the level lists the labels that are left (workload: with its namespace)."""

    name: str
    expr: str

    def rule(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {"record": self.name, "expr": self.expr}


@dataclass(frozen=True, kw_only=True)
class Alert:
    """An alert: when `measure` has been on the wrong side of `limit` for `minutes`, and `guard` holds.

    `measure` has a value in good times too, so that it can be drawn and tested; `limit` is a comparison; `guard` follows
    the comparison (`and ...`, `unless ...`). `description` says what to look at first.
    """

    name: str
    measure: str
    limit: str
    guard: str = ""
    minutes: int
    severity: Severity
    summary: str
    description: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def expr(self) -> str:
        """The whole condition."""
        return " ".join(part for part in (self.measure, self.limit, self.guard) if part)

    def rule(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": f"{self.minutes}m",
            "labels": {"severity": self.severity, **self.labels},
            "annotations": {"summary": self.summary, "description": self.description, "runbook_url": runbook(self.name)},
        }


def render(groups: Sequence[tuple[str, Sequence[Record | Alert]]], comment: str) -> str:
    """A rule file, always the same bytes."""
    document = {"groups": [{"name": name, "rules": [rule.rule() for rule in rules]} for name, rules in groups]}
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + yaml.safe_dump(document, sort_keys=False, width=100_000, allow_unicode=True)
