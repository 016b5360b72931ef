"""Helm, and releases of charts/outrider."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kit.command import run
from kit.kube import ApiError, Json, Kube, wait_for
from kit.settings import ROOT, Settings
from kit.workloads import TOLERATIONS, application, injected, pod, pod_template

CHART = ROOT / "charts/outrider"
LIBRARY = ROOT / "charts/outrider-lib"
WAIT = "240s"
SELECTED = "e2e.outrider.dev/run"
"""A label of the namespaces that a release looks at: other people's pods in the cluster are left alone."""


class Helm:
    """The program, for one cluster."""

    def __init__(self, settings: Settings, kube: Kube) -> None:
        self._program = settings.helm
        self._kube = kube

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        """What it prints. Raises CommandFailed."""
        return run([self._program, *arguments], stdin=stdin, timeout=400, environment=self._kube.environment)

    def install(self, release: str, chart: Path, namespace: str, values: Mapping[str, Any]) -> None:
        """Install or upgrade, and wait until everything is ready."""
        text = json.dumps(values)
        self(
            "upgrade",
            "--install",
            release,
            str(chart),
            "--namespace",
            namespace,
            "--create-namespace",
            "--wait",
            "--timeout",
            WAIT,
            "--values",
            "-",
            stdin=text,
        )

    def uninstall(self, release: str, namespace: str) -> None:
        """Take it away; what is not there is fine."""
        self("uninstall", release, "--namespace", namespace, "--ignore-not-found", "--wait", "--timeout", WAIT)


def image_values(reference: str) -> Json:
    """An image reference as the values `image.*`."""
    name, _, tag = reference.rpartition(":")
    return {"repository": name, "tag": tag}


def values(mode: str, *, run_id: str, sidecar: str, injector: str = "", **more: Any) -> Json:
    """Values of charts/outrider for one run."""
    found: Json = {
        "image": image_values(sidecar),
        "injection": {"mode": mode, "namespaceSelector": {"matchLabels": {SELECTED: run_id}}},
    }
    if mode == "Webhook":
        found["injector"] = {"image": image_values(injector), "tolerations": TOLERATIONS}
    return found | more


def wait_injecting(kube: Kube, namespace: str, image: str, *, timeout: float = 60) -> Json:
    """A pod as injection makes it, asked for without creating it, once injection works in this namespace."""
    template = injected(pod_template([application(image)], app="probe"))

    def ask() -> Json | None:
        answer = kube.create("Pod", namespace, pod("probe", template), dry_run=True)
        return answer if "outrider.dev/injected" in answer["metadata"]["annotations"] else None

    return wait_for(ask, "pods get a sidecar", timeout=timeout, ignore=(ApiError,))


def copy_of_chart(folder: Path, *, version: str) -> Path:
    """charts/outrider as an earlier release would have been: the same files, other numbers."""
    chart = folder / "outrider"
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    about |= {"version": version, "appVersion": version}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about))
    return chart
