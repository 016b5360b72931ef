"""The generated files are current, and dashboards load anywhere: what provisioning and other people's Grafana trip over."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from generated_files import DASHBOARDS, RULES, dashboard, panels, rules
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from charts.source.__main__ import CHART, files, main
from charts.source.catalog import ROOT

BOARDS = pytest.mark.parametrize("board", [pytest.param(dashboard(path), id=path.stem) for path in DASHBOARDS])
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def walk(value: Any) -> Any:
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)


def test_the_files_are_what_the_source_says() -> None:
    made = files()

    assert {path: path.read_text(encoding="utf-8") for path in made} == made
    assert {*DASHBOARDS, *RULES} == set(made)
    assert main(["--check"]) == 0


def test_an_old_file_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("charts.source.__main__.files", lambda: {CHART / "rules/slo.yaml": "other"})

    assert main(["--check"]) == 1
    assert capsys.readouterr().out == "charts/outrider/rules/slo.yaml is not what charts/source says: run `make dashboards`\n"


@BOARDS
def test_a_dashboard_survives_the_librarys_own_model(board: dict[str, Any]) -> None:
    register_default_plugins()
    readable = {**board, "annotations": {"list": []}, "id": 0}  # the model knows neither null ids nor Prometheus' annotations
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(readable)))

    assert again["panels"] == board["panels"]
    assert again["templating"] == board["templating"]


@BOARDS
def test_a_dashboard_can_be_provisioned(board: dict[str, Any]) -> None:
    assert board["id"] is None
    assert re.fullmatch(r"[a-z-]{1,40}", board["uid"])
    assert not {"__inputs", "__requires", "version", "iteration"} & set(board)
    assert board["schemaVersion"] <= 38  # Grafana 10.0
    assert "${DS_" not in json.dumps(board)


def test_uids_and_titles_are_unique_and_files_are_small() -> None:
    boards = [dashboard(path) for path in DASHBOARDS]

    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == len(boards) == 3
    # The limit of a ConfigMap is 1 MiB, of the annotation that client-side apply adds a quarter of that.
    assert all(path.stat().st_size < 256 * 1024 for path in DASHBOARDS)


@BOARDS
def test_the_reader_chooses_the_data_source_for_everything(board: dict[str, Any]) -> None:
    first, *others = board["templating"]["list"]
    assert (first["type"], first["name"], first["query"]) == ("datasource", "datasource", "prometheus")
    asking = [*panels(board), *(target for panel in panels(board) for target in panel["targets"]), *others, *board["annotations"]["list"]]

    assert [one["datasource"] for one in asking] == [SOURCE] * len(asking)


@BOARDS
def test_windows_follow_the_zoom(board: dict[str, Any]) -> None:
    queries = [target["expr"] for panel in panels(board) for target in panel["targets"]]

    assert not [
        query
        for query in queries
        if re.search(r"\[(?!\$__rate_interval\])", query.replace("[b-df-hj-np-tv-xz24-9]", "").replace("[0-9]", ""))
    ]


@BOARDS
def test_every_panel_says_what_it_is_and_what_to_do(board: dict[str, Any]) -> None:
    for panel in panels(board):
        assert len(panel["description"]) > 20, panel["title"]
        assert panel["targets"], panel["title"]
        if panel["type"] == "timeseries":
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert len(panel["targets"]) == 1 or all(target["legendFormat"] != "__auto" for target in panel["targets"])


@BOARDS
def test_panels_fill_the_grid_without_overlap(board: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


@BOARDS
def test_panel_ids_and_queries_letters_are_unique(board: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in board["panels"]]

    assert len(set(ids)) == len(ids)
    for panel in panels(board):
        letters = [target["refId"] for target in panel["targets"]]
        assert "" not in letters
        assert len(set(letters)) == len(letters)


@BOARDS
def test_links_lead_to_our_dashboards_and_runbooks(board: dict[str, Any]) -> None:
    uids = {dashboard(path)["uid"]: {variable["name"] for variable in dashboard(path)["templating"]["list"]} for path in DASHBOARDS}
    urls = [value["url"] for value in walk(board) if isinstance(value, dict) and value.get("url")]
    named = re.findall(r"https://outrider\.dev/runbooks/(\w+)", json.dumps(board))

    assert urls or "sidecar" in board["uid"]
    for url in urls:
        uid, _, query = url.removeprefix("/d/").partition("?")
        assert set(re.findall(r"var-(\w+)=", query)) <= uids[uid], url
    assert named
    assert [name for name in named if not (ROOT / f"docs/runbooks/{name}.md").exists()] == []
    assert board["links"][0]["tags"] == ["outrider"]
    assert "outrider" in board["tags"]


@BOARDS
def test_variables_used_are_variables_there(board: dict[str, Any]) -> None:
    there = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([panels(board), board["templating"], board["annotations"]])))

    assert used - there <= {"__rate_interval", "__url_time_range", "__data", "__all", "1", "2"}
    assert there <= used | {"datasource"}


def test_latency_panels_show_traces_and_config_changes_are_marked() -> None:
    for path in DASHBOARDS:
        board = dashboard(path)
        change = board["annotations"]["list"][0]
        assert "outrider_config_info" in change["expr"]
        assert change["useValueForTime"] is True
        assert change["target"]["expr"] == change["expr"]
        timed = [
            target
            for panel in panels(board)
            if panel["type"] == "timeseries"
            for target in panel["targets"]
            if "duration_seconds_bucket" in target["expr"] and "0.99" in target["expr"]
        ]
        assert all(target["exemplar"] for target in timed if "connect" not in target["expr"])
        assert timed or "sidecar" in board["uid"]


def test_each_alert_says_what_happened_and_has_its_page() -> None:
    for rule in rules():
        if "alert" not in rule:
            continue
        assert rule["alert"].startswith("Outrider")
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert re.fullmatch(r"[1-9]\d*m", rule["for"])
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"https://outrider.dev/runbooks/{rule['alert']}"
        assert (ROOT / f"docs/runbooks/{rule['alert']}.md").exists(), rule["alert"]
