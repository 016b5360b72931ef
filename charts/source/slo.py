"""Alerts by error budget, for those who have an objective: how fast the budget of 30 days is used up.

Several windows and several burn rates, as chapter 5 of The Site Reliability Workbook proposes: a long window says that it
matters, a short one that it still goes on. The longer windows are made of the 5 minute recordings, not of raw series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from charts.source.promql import WORKLOAD, total, workload
from charts.source.rules import FIVE, Alert, Record, Severity

BY: Final = f"{WORKLOAD}, listener"
LEVEL: Final = "workload_listener"
OBJECTIVE, THRESHOLD = 0.999, 0.5
"""What the file of the chart has: 99.9 % of the requests do not fail, and as many take at most half a second."""
WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
SOME_TRAFFIC: Final = 0.02
"""Requests per second over the long window below which one failure would look like a fire."""


@dataclass(frozen=True, kw_only=True)
class Burn:
    """A speed: `rate` times the budget, seen over both windows."""

    rate: float
    long: str
    short: str
    minutes: int
    severity: Severity


BURNS: Final = (
    Burn(rate=14.4, long="1h", short="5m", minutes=2, severity="critical"),
    Burn(rate=6, long="6h", short="30m", minutes=5, severity="critical"),
    Burn(rate=3, long="1d", short="2h", minutes=15, severity="warning"),
    Burn(rate=1, long="3d", short="6h", minutes=30, severity="info"),
)


def objective_expr(objective: float) -> str:
    """The expression of the recording that holds the objective: what the chart replaces."""
    return f"vector({objective})"


def threshold_matcher(threshold: float) -> str:
    """The matcher of the bucket: what the chart replaces. The bound must be one of `telemetry.metrics.buckets`."""
    return f'="{float(threshold)}"'


def groups(objective: float = OBJECTIVE, threshold: float = THRESHOLD) -> Sequence[tuple[str, Sequence[Record | Alert]]]:
    """The rule groups. ValueError: no objective (0 to 1, both excluded), or no threshold (above 0)."""
    if not 0 < objective < 1 or threshold <= 0:
        raise ValueError(f"an objective is between 0 and 1, a threshold above 0 (got {objective} and {threshold})")
    return (
        ("outrider-slo-records", _records(objective, threshold)),
        ("outrider-slo-alerts", [_alert(kind, burn) for kind in ("errors", "latency") for burn in BURNS]),
    )


def _records(objective: float, threshold: float) -> list[Record]:
    slow = f"{LEVEL}:outrider_slo_slow:rate5m"
    requests, failed = f"{LEVEL}:outrider_slo_requests:rate5m", f"{LEVEL}:outrider_slo_errors:rate5m"
    timed = f"{LEVEL}:outrider_slo_timed:rate5m"
    quick = FIVE.rate("request_duration_seconds_bucket", le=threshold_matcher(threshold))
    records = [
        Record(name="outrider:slo_objective:ratio", expr=objective_expr(objective)),
        Record(name=requests, expr=total(workload(FIVE.rate("requests_total")), BY)),
        Record(name=failed, expr=f"{total(workload(FIVE.errors()), BY)} or 0 * {requests}"),
        Record(name=timed, expr=total(workload(FIVE.rate("request_duration_seconds_count")), BY)),
        # Without such a bucket there is no answer, rather than a wrong one.
        Record(name=slow, expr=f"{timed} - {total(workload(quick), BY)}"),
    ]
    for window in WINDOWS:
        for kind, part, whole in (("errors", failed, requests), ("latency", slow, timed)):
            expr = f"{part} / {whole}" if window == "5m" else f"sum_over_time({part}[{window}]) / sum_over_time({whole}[{window}])"
            records.append(Record(name=_ratio(kind, window), expr=expr))
    records += [
        Record(name=f"{LEVEL}:outrider_slo_requests:avg{burn.long}", expr=f"avg_over_time({requests}[{burn.long}])") for burn in BURNS
    ]
    return records


def _ratio(kind: str, window: str) -> str:
    return f"{LEVEL}:outrider_slo_{kind}:ratio_{window}"


def _alert(kind: str, burn: Burn) -> Alert:
    budget = f"{burn.rate} * (1 - scalar(outrider:slo_objective:ratio))"
    what = "fail" if kind == "errors" else "are too slow"
    hours = 30 * 24 / burn.rate
    left = f"{hours:.0f} hours" if hours < 72 else f"{hours / 24:.0f} days"
    return Alert(
        name="OutriderErrorBudgetBurn" if kind == "errors" else "OutriderLatencyBudgetBurn",
        measure=_ratio(kind, burn.long),
        limit=f"> {budget}",
        guard=f"and {_ratio(kind, burn.short)} > {budget} and {LEVEL}:outrider_slo_requests:avg{burn.long} > {SOME_TRAFFIC}",
        minutes=burn.minutes,
        severity=burn.severity,
        labels={"long_window": burn.long, "short_window": burn.short},
        summary=f"{{{{ $value | humanizePercentage }}}} of the requests of {{{{ $labels.namespace }}}}/{{{{ $labels.workload }}}} {what}, over {burn.long}",
        description=f"At this speed ({burn.rate:g} times what the objective allows) the budget of 30 days is used up within {left}. Listener {{{{ $labels.listener }}}}; the workload's dashboard tells which route and upstream.",
    )
