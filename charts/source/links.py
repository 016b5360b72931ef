"""Addresses: of runbooks, and of one dashboard from another."""

from __future__ import annotations

from typing import Final

from charts.source.panels import Link

RUNBOOKS: Final = "https://outrider.dev/runbooks/"
"""Where docs/runbooks is published. Whoever publishes it elsewhere replaces this one prefix in the files (the chart has a value for it)."""
OVERVIEW, WORKLOAD_BOARD, PROCESS = "outrider-overview", "outrider-workload", "outrider-sidecar"
_KEEP: Final = "${datasource:queryparam}&${__url_time_range}"


def runbook(alert: str) -> str:
    """For annotations of alerts."""
    return RUNBOOKS + alert


def see(*alerts: str) -> str:
    """The end of a panel's description: where what to do is written."""
    return " What to do: " + ", ".join(f"[{alert}]({runbook(alert)})" for alert in alerts) + "."


TO_WORKLOAD: Final = Link(
    label="workload",
    title="This workload",
    url=f"/d/{WORKLOAD_BOARD}?var-namespace=${{__data.fields.namespace}}&var-workload=${{__data.fields.workload}}&{_KEEP}",
)
TO_ROUTE: Final = Link(
    label="route",
    title="This route only",
    url=f"/d/{WORKLOAD_BOARD}?${{namespace:queryparam}}&${{workload:queryparam}}&var-route=${{__data.fields.route}}&{_KEEP}",
)
TO_UPSTREAM: Final = Link(
    label="upstream",
    title="This upstream only",
    url=f"/d/{WORKLOAD_BOARD}?${{namespace:queryparam}}&${{workload:queryparam}}&var-upstream=${{__data.fields.upstream}}&{_KEEP}",
)
TO_POD: Final = Link(
    label="pod", title="This sidecar", url=f"/d/{PROCESS}?var-namespace=${{__data.fields.namespace}}&var-pod=${{__data.fields.pod}}&{_KEEP}"
)
