"""Every metric, label and closed value that a dashboard, a rule or a runbook uses exists in the program."""

from __future__ import annotations

import re
from typing import Any

import pytest
from generated_files import Query, board_queries, rule_queries, rules, with_recordings
from promql_labels import read

from charts.source.catalog import INJECTOR, ROOT, metrics
from sidecar.injector.mutate import Outcome
from sidecar.model.reason import Clock, Reason, Rejection
from sidecar.observe.families import STATES

REASONS = {*Reason, "none", "stale_connection"}
CLOSED: dict[tuple[str, str], set[Any]] = {
    ("outrider_requests_total", "reason"): REASONS,
    ("outrider_retries_total", "reason"): REASONS,
    ("outrider_retries_skipped_total", "why"): {"budget", "body", "method", "started", "time"},
    ("outrider_attempts_total", "outcome"): REASONS | {"success"},
    ("outrider_upstream_connects_total", "result"): REASONS | {"success"},
    ("workload_upstream_result:outrider_upstream_connects:rate5m", "result"): REASONS | {"success"},
    ("outrider_timeouts_total", "clock"): {*Clock},
    ("outrider_rejected_messages_total", "kind"): {*Rejection},
    ("outrider_upstream_endpoints", "state"): {*STATES},
    ("outrider_mirrored_requests_total", "result"): REASONS | {"success", "timeout", "body", "busy"},
    ("outrider_health_checks_total", "result"): {"success", "failure"},
    ("outrider_injector_requests_total", "result"): {*Outcome},
    ("outrider_kube_watches", "state"): {"connected", "lost"},
    ("outrider_resource_usage_ratio", "resource"): {"memory", "file_descriptors", "cpu"},
}
FREE = {"name", "namespace", "pod", "listener", "route", "upstream", "le", "code", "interface", "alertname"}
"""Labels whose values nobody fixes (or that are patterns of numbers)."""


def documented() -> list[Query]:
    """The ```promql blocks of the documents."""
    pages = [ROOT / "docs/observability.md", *sorted((ROOT / "docs/runbooks").glob("*.md"))]
    return [
        Query(page.name, query.strip())
        for page in pages
        for block in re.findall(r"^ *```promql\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for query in block.split("\n\n")
    ]


DOCUMENTED = documented()
EVERY = [*board_queries(), *rule_queries(), *DOCUMENTED]


@pytest.mark.parametrize("query", EVERY, ids=[query.place for query in EVERY])
def test_a_query_uses_only_what_the_program_has(query: Query) -> None:
    reading = with_recordings().read(query)

    for match in reading.matches:
        known = CLOSED.get((match.series, match.label))
        if known is not None:
            assert set(match.value.split("|")) <= known, match
        else:
            assert match.label in FREE, match


@pytest.mark.parametrize(
    "wrong",
    [
        "outrider_request_total",
        'outrider_requests_total{rout="x"}',
        "sum by (rout) (outrider_requests_total)",
        "rate(outrider_request_duration_seconds[1m])",
        "sum by (route) (outrider_requests_total) / sum by (upstream) (outrider_requests_total)",
        "histogram_quantile(0.9, sum by (route) (rate(outrider_request_duration_seconds_bucket[1m])))",
        "outrider_build_info and on (route) outrider_requests_total",
        "sum(outrider_build_info",
    ],
)
def test_a_query_that_is_wrong_is_noticed(wrong: str) -> None:
    names = with_recordings()

    with pytest.raises((KeyError, ValueError)):
        read(wrong, names.labels_of)


def test_the_documents_queries_are_among_them() -> None:
    assert len(DOCUMENTED) > 30


def test_every_metric_of_the_program_is_on_a_dashboard() -> None:
    names = with_recordings()
    shown = {re.sub("_(bucket|count|sum)$", "", series) for query in board_queries() for series in names.read(query).series}

    assert {name for name in metrics() if not name.startswith(INJECTOR)} - shown == set()


def test_recordings_are_named_by_level_metric_and_operation() -> None:
    names = with_recordings()
    for rule in rules():
        if "record" not in rule:
            continue
        level, metric, operation = rule["record"].split(":")
        assert metric.startswith("outrider_") or level == "outrider"
        assert operation
        labels = names.recorded[rule["record"]] - {"namespace"}
        assert labels == (set() if level == "outrider" else set(level.split("_"))), rule["record"]
