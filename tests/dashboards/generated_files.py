"""The generated files as tests look at them: dashboards, rules, and every query in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml
from promql_labels import Reading, read

from charts.source.__main__ import CHART
from charts.source.catalog import TARGET, labels_of

DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))
RULES = sorted((CHART / "rules").glob("*.yaml"))
VALUES = {
    "$__rate_interval": "1m",
    "${namespace}": "shop",
    "$namespace": "shop",
    "$workload": "orders",
    "$pod": ".*",
    "$listener": ".*",
    "$route": ".*",
    "$upstream": ".*",
}
"""Values of the dashboards' variables, the longest names first."""


class Query(NamedTuple):
    """A query and where it stands."""

    place: str
    text: str


def dashboard(path: Any) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Without rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def board_queries() -> Iterator[Query]:
    """Of panels, variables and annotations, with variables filled in."""
    for path in DASHBOARDS:
        board = dashboard(path)
        for panel in panels(board):
            for target in panel["targets"]:
                yield Query(f"{path.name}: {panel['title']} {target['refId']}", fill(target["expr"]))
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                yield Query(f"{path.name}: variable {variable['name']}", fill(variable_query(variable["query"]["query"])))
        for annotation in board["annotations"]["list"]:
            yield Query(f"{path.name}: {annotation['name']}", fill(annotation["expr"]))


def variable_query(text: str) -> str:
    """What Grafana asks for a variable: `label_values(SELECTOR, LABEL)` as a count by that label."""
    if found := re.fullmatch(r"label_values\((.*), (\w+)\)", text):
        return f"count by ({found[2]}) ({found[1]})"
    found = re.fullmatch(r"query_result\((.*)\)", text)
    assert found is not None, text
    return found[1]


def fill(text: str, values: dict[str, str] | None = None) -> str:
    for name, value in {**VALUES, **(values or {})}.items():
        text = text.replace(name, value)
    # `$1$2` in label_replace is not Grafana's.
    assert "$" not in text.replace('"$1$2"', ""), text
    return text


def rules() -> list[dict[str, Any]]:
    return [rule for path in RULES for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def rule_queries() -> list[Query]:
    return [Query(rule.get("record") or rule["alert"], rule["expr"]) for rule in rules()]


class Names:
    """The series that queries may use: the program's, and the recordings read so far."""

    def __init__(self) -> None:
        self.recorded: dict[str, frozenset[str]] = {}

    def labels_of(self, series: str) -> frozenset[str]:
        return self.recorded[series] if series in self.recorded else labels_of(series) | TARGET

    def read(self, query: Query) -> Reading:
        return read(query.text, self.labels_of)


def with_recordings() -> Names:
    """Names that know every recording; reads all rules in their order."""
    names = Names()
    for rule in rules():
        reading = names.read(Query(rule.get("record", ""), rule["expr"]))
        if "record" in rule:
            names.recorded[rule["record"]] = reading.labels or frozenset()
    return names
