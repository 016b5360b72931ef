"""The frame of a dashboard: variables, deploys as annotations, links to the other dashboards, rows of panels, JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from charts.source.panels import SOURCE
from charts.source.promql import Scope

Panels = list[model.Panel]
TAG: Final = "outrider"
"""The links between the dashboards lead to all that have it."""


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A choice on top of the page. `query` is Grafana's variable query; `every`: more than one, or all, may be chosen."""

    name: str
    label: str
    description: str
    query: str
    regex: str = ""
    every: bool = True


@dataclass(frozen=True, kw_only=True)
class Board:
    """One dashboard. `deploys` says which sidecars' configuration changes are drawn over the panels."""

    uid: str
    title: str
    description: str
    variables: Sequence[Variable]
    deploys: Scope
    rows: Sequence[tuple[str, Sequence[model.Panel]]] = field(repr=False)

    def render(self) -> str:
        """The JSON that Grafana loads, always the same bytes."""
        document = json.loads(JSONEncoder().encode(self._build()))
        document["id"] = None  # Grafana gives one; a fixed one would collide
        document["annotations"]["list"] = [_deploys(self.deploys)]
        _number_panels(document["panels"])
        return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def _build(self) -> model.Dashboard:
        made = build.Dashboard(self.title).uid(self.uid).description(self.description).tags([TAG]).timezone("browser").editable()
        made = made.tooltip(model.DashboardCursorSync.CROSSHAIR).time("now-1h", "now").refresh("30s")
        made = made.link(
            build.DashboardLink("Outrider").type(model.DashboardLinkType.DASHBOARDS).tags([TAG]).include_vars(True).keep_time(True)
        )
        made = made.with_variable(build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        for variable in self.variables:
            made = made.with_variable(_variable(variable))
        for title, panels in self.rows:
            made = made.with_row(build.Row(title))
            for panel in panels:
                made = made.with_panel(_Built(panel))
        return made.build()


class _Built(Builder[model.Panel]):
    """A finished panel where the library wants a builder."""

    def __init__(self, panel: model.Panel) -> None:
        self._panel = panel

    def build(self) -> model.Panel:
        return self._panel


def _variable(variable: Variable) -> build.QueryVariable:
    made = build.QueryVariable(variable.name).label(variable.label).description(variable.description).datasource(SOURCE)
    made = made.query({"query": variable.query, "refId": f"outrider-{variable.name}"}).refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    made = made.sort(model.VariableSort.ALPHABETICAL_ASC).multi(variable.every).include_all(variable.every)
    if variable.regex:
        made = made.regex(variable.regex)
    if variable.every:
        # Not ".+": a route or an upstream that was not chosen is the empty string.
        made = made.all_value(".*").current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
    return made


def _deploys(scope: Scope) -> dict[str, Any]:
    """A mark where a configuration came into force. The metric's value is the time; `config_info` has the revision."""
    expr = (
        f"max by (namespace, source, revision, hash) ({scope.of('config_info')} * on (namespace, pod, instance, job) group_left () "
        f"({scope.of('config_last_applied_timestamp_seconds')} * 1000))"
    )
    # Grafana 10 reads these fields; later ones take them over into `target`, which the SDK's model of 10 does not have.
    title, text = "configuration {{revision}}", "{{namespace}}: from {{source}}, {{hash}}"
    target = {"datasource": {"type": "prometheus", "uid": "${datasource}"}, "expr": expr, "refId": "Anno", "range": True}
    return {
        "name": "Configuration changes",
        "datasource": target["datasource"],
        "enable": True,
        "hide": False,
        "iconColor": "purple",
        "expr": expr,
        "step": "60s",
        "titleFormat": title,
        "textFormat": text,
        "tagKeys": "namespace,source",
        "useValueForTime": True,
        "target": target,
    }


def _number_panels(panels: Sequence[dict[str, Any]]) -> None:
    """Ids that links can name; they change only when panels are added in front."""
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
