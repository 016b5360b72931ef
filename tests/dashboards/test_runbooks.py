"""There is a page for each alert, and what the pages name exists: commands, paths, log events, fields of the document."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from generated_files import rules

from charts.source.catalog import ROOT
from charts.source.readme import values
from sidecar.cli.main import COMMANDS
from sidecar.model.reason import Clock, Reason, Rejection
from sidecar.observe.logs import Event

FOLDER = ROOT / "docs/runbooks"
PAGES = [page for page in sorted(FOLDER.glob("*.md")) if page.name != "README.md"]
READ = {page.stem: page.read_text(encoding="utf-8") for page in PAGES}
CONFIGURATION = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
EACH = pytest.mark.parametrize("name", list(READ))


def test_alerts_and_pages_are_the_same() -> None:
    assert set(READ) == {rule["alert"] for rule in rules() if "alert" in rule}


@EACH
def test_a_page_says_what_it_means_how_to_find_out_and_what_to_do(name: str) -> None:
    head, meaning, *_ = READ[name].split("\n\n")

    assert head == f"# {name}"
    assert len(meaning) > 60
    assert [line for line in READ[name].splitlines() if line.startswith("## ")] == ["## Find the cause", "## What to do"]
    assert f"]({name}.md)" in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.search(r"```promql|outrider (status|why|explain|validate)|kubectl logs", READ[name])


@EACH
def test_commands_and_paths_exist(name: str) -> None:
    text = READ[name]

    assert set(re.findall(r"\boutrider ((?!-)[a-z]+)\b(?! --)", re.sub(r"-c outrider", "", text))) <= set(COMMANDS)
    assert all(f"`GET {path}`" in REFERENCE for path in re.findall(r"`GET (/[a-z/-]*)`", text))


@EACH
def test_words_in_code_are_the_programs(name: str) -> None:
    """Words with an underscore are events, reasons, clocks, rules or words of the reference; dotted ones are fields, or values of the chart."""
    code = re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```", "", READ[name], flags=re.DOTALL | re.MULTILINE))
    words = {word for text in code for word in re.findall(r"^[a-z]+(?:_[a-z0-9]+)+$", text)}
    fields = {text for text in code if re.fullmatch(r"[a-z]+[A-Za-z]*(?:\.[a-z]+[A-Za-z]*)+", text)} - {"outrider.dev"}
    known = {*Event, *Reason, *Clock, *Rejection, "status_503"}

    assert [word for word in words if word not in known and word not in REFERENCE and word.removeprefix("outrider_") != "build_info"] == []
    fields -= {value.path.rsplit(".", depth)[0] for value in values() for depth in range(value.path.count("."))}
    assert [field for field in fields if not all(f"`{part}`" in CONFIGURATION for part in field.split("."))] == []


@EACH
def test_greps_look_for_events_that_are_logged(name: str) -> None:
    asked = re.findall(r"grep (?:-E )?'?([a-z_|]+)'?$", READ[name], re.MULTILINE)

    assert {event for words in asked for event in words.split("|")} <= {*Event}


def test_links_inside_the_reference_lead_to_headings() -> None:
    pages = [*PAGES, FOLDER / "README.md", ROOT / "docs/observability.md"]
    for page in pages:
        for target, anchor in re.findall(r"\]\(([^)#]*)#([\w-]+)\)", page.read_text(encoding="utf-8")):
            there = (page.parent / target).read_text(encoding="utf-8") if target else page.read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.+)$", there, re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}, (
                page.name,
                anchor,
            )


def test_files_that_observability_names_exist() -> None:
    text = (ROOT / "docs/observability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(charts/outrider/[\w/.-]+)`", text)

    assert len(named) == 6
    assert [name for name in named if not Path(ROOT / name).exists()] == []
