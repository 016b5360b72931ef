"""What is generated of the description is current, and what the description says is what the sidecar reads."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest
from support.programs import ROOT

from sidecar.cli.flags import variable_of
from sidecar.cli.run import add_arguments
from sidecar.injector import charts
from sidecar.injector.podspec import APPLICATION_ENV, CONTAINER, CONTAINER_TREE, IN_PORT, OUT_PORT, STATUS_PORT, VOLUME_TREES
from sidecar.injector.tree import Choice, Setting, When, build
from sidecar.model.identity import VARIABLES

FACTS = {"native", "configmap", "appPort", "guaranteed", "root", "podResources", "otlp"}
FOR_OTHERS = {"HOST_IP", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPORTER_OTLP_ENDPOINT"}
"""Read by OpenTelemetry; HOST_IP by nobody but other variables."""


def nodes(tree: object) -> list[object]:
    """A tree and everything below it."""
    if isinstance(tree, dict):
        below = list(tree.values())
    elif isinstance(tree, list):
        below = tree
    else:
        below = [tree.then, *([tree.otherwise] if isinstance(tree, Choice) else [])] if isinstance(tree, When | Choice) else []
    return [tree, *(node for one in below for node in nodes(one))]


ALL = nodes([CONTAINER_TREE, VOLUME_TREES])
SETTINGS = {node.name: f"the {node.name}" for node in ALL if isinstance(node, Setting)}


def container(*facts: str) -> dict:
    return build(CONTAINER_TREE, SETTINGS, facts)


def test_the_generated_files_of_the_charts_are_current() -> None:
    assert charts.stale(ROOT) == []


def test_a_stale_file_is_told_and_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(charts, "__file__", str(tmp_path / "sidecar/injector/charts.py"))
    assert charts.main(["--check"]) == 1
    assert capsys.readouterr().err.count("is not current (run `make charts`)") == len(charts.FILES)
    assert charts.main([]) == 0
    (tmp_path / next(iter(charts.FILES))).write_text("{{- /* edited */ -}}")
    assert charts.main(["--check"]) == 1
    assert charts.main([]) == 0
    assert charts.main(["--check"]) == 0


def test_only_known_facts_are_asked_for() -> None:
    assert {node.fact for node in ALL if isinstance(node, When | Choice)} == FACTS


def test_every_variable_is_one_that_the_sidecar_reads() -> None:
    """By the names that sidecar/model/identity.py and the flags of `outrider run` have."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    flags = {variable_of(word) for action in parser._actions for word in action.option_strings if word.startswith("--")}
    names = {one["name"] for one in container(*FACTS)["env"]}
    assert names <= {*VARIABLES.values(), *flags, *FOR_OTHERS}
    assert set(VARIABLES.values()) <= names


def test_a_variable_is_used_only_after_it_is_set() -> None:
    """`$(NAME)` stands for variables before it alone."""
    known: set[str] = set()
    for one in container(*FACTS)["env"]:
        text = one.get("value", "")
        used = {part.partition(")")[0] for part in text.split("$(")[1:]}
        assert used <= known
        known.add(one["name"])


def test_names_and_ports_are_those_of_the_interface() -> None:
    made = container("native", "configmap")
    assert (made["name"], CONTAINER) == ("outrider", "outrider")
    assert made["restartPolicy"] == "Always"
    assert {one["name"]: one["containerPort"] for one in made["ports"]} == {"outrider-in": IN_PORT, "outrider-status": STATUS_PORT}
    assert (IN_PORT, OUT_PORT, STATUS_PORT) == (15001, 15002, 15021)
    assert made["lifecycle"] == {"preStop": {"exec": {"command": ["outrider", "drain"]}}}
    assert set(APPLICATION_ENV) == {"HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"}


def test_a_token_is_there_only_for_who_reads_through_the_api() -> None:
    def sources(*facts: str) -> list[str]:
        return [next(iter(one)) for one in build(VOLUME_TREES, SETTINGS, facts)[-1]["projected"]["sources"]]

    assert sources("appPort") == ["downwardAPI"]
    assert sources("configmap") == ["serviceAccountToken", "configMap", "downwardAPI"]


def test_a_pod_without_the_label_has_no_empty_service_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The downward API gives "" for a label that is not there."""
    from sidecar.observe.tracing.resource import make_resource

    pod = {"POD_NAME": "orders-5d8f7c9b4-bcdfg", "POD_NAMESPACE": "shop", "POD_UID": "u", "NODE_NAME": "n"}
    for one in container("configmap")["env"]:
        text = one.get("value", pod.get(one["name"], ""))
        for name, value in pod.items():
            text = text.replace(f"$({name})", value)
        monkeypatch.setenv(one["name"], text)
    attributes = make_resource(os.environ).attributes
    assert attributes["service.name"] == "orders"
    assert attributes["service.instance.id"] == "shop.orders-5d8f7c9b4-bcdfg.outrider"
    assert (attributes["k8s.node.name"], attributes["k8s.container.name"]) == ("n", "outrider")
