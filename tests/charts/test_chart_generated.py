"""What is generated of the charts is current, and what people read about them is true."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from chart_kit import CHART
from support.programs import ROOT, need_program

from charts.source import manifests, readme
from sidecar.injector import charts as injector_charts
from sidecar.injector.settings import Defaults

LIBRARY = ROOT / "charts/outrider-lib"


def test_templates_made_of_the_pod_patch_are_current() -> None:
    assert injector_charts.stale(ROOT) == []


def test_the_readme_lists_the_values() -> None:
    assert (CHART / "README.md").read_text(encoding="utf-8") == readme.readme(), "run `make charts`"


def test_the_schema_and_the_values_know_the_same() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    for_parents = {"enabled", "global"}  # what a chart that has this one as a dependency may give it

    assert {value.path for value in readme.values()} == set(readme.leaves(schema)) - for_parents


@pytest.mark.parametrize("program", ["helm", "helm3"])
def test_manifests_are_what_the_chart_makes_whichever_helm(program: str) -> None:
    for path, text in manifests.rendered(str(need_program(program))).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `make charts`"


def test_the_examples_code_is_in_its_config_map() -> None:
    for path, text in manifests.example().items():
        assert path.read_text(encoding="utf-8") == text, "run `make charts`"
        assert yaml.safe_load(text)["data"]["shop.py"] == (ROOT / "examples/shop.py").read_text(encoding="utf-8")


def test_manifests_say_nothing_of_helm() -> None:
    for path in (ROOT / "manifests").glob("*.yaml"):
        assert not re.search(r"managed-by|helm\.sh", path.read_text(encoding="utf-8")), path


def test_defaults_of_the_chart_are_those_of_the_program() -> None:
    chart = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["injection"]["defaults"]

    assert Defaults.parse({"image": "x", **chart}) == Defaults(image="x")


def test_both_charts_have_the_programs_version() -> None:
    from sidecar import __version__

    for chart in (CHART, LIBRARY):
        about = yaml.safe_load((chart / "Chart.yaml").read_text(encoding="utf-8"))
        assert (about["version"], about["appVersion"]) == (__version__, __version__)
    assert f"\n{__version__}\n" in (LIBRARY / "templates/_podspec.tpl").read_text(encoding="utf-8")


def test_links_of_the_charts_pages_lead_somewhere() -> None:
    pages = [CHART / "README.md", LIBRARY / "README.md", ROOT / "manifests/README.md"]
    broken = [
        f"{page}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]

    assert broken == []


def test_values_that_pages_name_exist() -> None:
    known = {value.path for value in readme.values()}
    sections = {path.rsplit(".", depth)[0] for path in known for depth in range(1, 4)}
    pages: list[Path] = [CHART / "README.md", LIBRARY / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {
        word
        for page in pages
        for word in re.findall(r"`((?:injection|injector|rbac|metrics|image|test)\.[A-Za-z.]+[A-Za-z])", page.read_text(encoding="utf-8"))
    }

    assert named
    assert named - known - sections == set()
