"""Helm as tests run it: renders, refusals, and what is in them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from support.programs import ROOT, need_program

CHART = ROOT / "charts/outrider"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
KUBERNETES = ("1.29.0", "1.33.0", "1.36.0")
HELMS = ("helm", "helm3")
"""Helm 4 and Helm 3."""
APIS = ("monitoring.coreos.com/v1", "cert-manager.io/v1")
"""What a cluster has that has all that the chart can use."""

Json = dict[str, Any]


def render(
    *settings: str,
    helm: str = "helm",
    values: Path | None = None,
    version: str = "1.36.0",
    apis: tuple[str, ...] = APIS,
    more: Json | None = None,
) -> str:
    """What the chart becomes. `settings` are texts for `--set`, `more` values of any kind. AssertionError: Helm says no, and why."""
    command = [need_program(helm), "template", "k", CHART, "--namespace", "home", "--kube-version", version]
    command += [word for api in apis for word in ("--api-versions", api)]
    command += ["--values", values] if values else []
    command += [word for setting in settings for word in ("--set", setting)]
    command += ["--values", "-"] if more else []
    done = subprocess.run(command, input=json.dumps(more or {}), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(text: str) -> list[Json]:
    """The objects of a render, by kind and name."""
    found = [one for one in yaml.safe_load_all(text) if one]
    return sorted(found, key=lambda one: (one["kind"], one["metadata"]["name"], one["metadata"].get("namespace", "")))


def one(text: str, kind: str, end: str = "") -> Json:
    """The one object of a kind, or the one whose name ends so."""
    found = [each for each in objects(text) if each["kind"] == kind and each["metadata"]["name"].endswith(end)]
    assert len(found) == 1, [each["metadata"]["name"] for each in found]
    return found[0]


def kinds(text: str) -> set[str]:
    return {one["kind"] for one in objects(text)}


def pod_templates(text: str) -> Iterator[Json]:
    """Every pod that comes of a render: of workloads, and hooks."""
    for each in objects(text):
        if each["kind"] == "Pod":
            yield {"metadata": each["metadata"], "spec": each["spec"]}
        elif each["kind"] == "Deployment":
            yield each["spec"]["template"]
