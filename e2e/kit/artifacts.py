"""What is kept of a test that failed, and the figures of a run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

from kit.command import CommandFailed
from kit.kube import ApiError, Kube, containers


class Figures:
    """Numbers that tests have measured, in artifacts/figures.json and at the end of the run."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "figures.json"
        self.found: dict[str, Any] = {}

    def __setitem__(self, name: str, value: Any) -> None:
        self.found[name] = value
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.found, indent=1) + "\n")


def keep(kube: Kube, namespaces: Sequence[str], folder: Path) -> None:
    """Descriptions, Events and logs of these namespaces."""
    folder.mkdir(parents=True, exist_ok=True)
    for namespace in namespaces:
        for name, arguments in (
            ("events", ["get", "events", "--sort-by=.lastTimestamp"]),
            ("describe", ["describe", "pods"]),
            ("objects", ["get", "all,configmaps,networkpolicies", "--output=yaml"]),
        ):
            with contextlib.suppress(CommandFailed):
                (folder / f"{namespace}.{name}.txt").write_text(kube.kubectl(*arguments, "--namespace", namespace))
        with contextlib.suppress(ApiError, OSError, HTTPException):
            for pod in kube.all("Pod", namespace):
                for container in containers(pod):
                    _keep_logs(kube, namespace, pod["metadata"]["name"], container["name"], folder)


def _keep_logs(kube: Kube, namespace: str, pod: str, container: str, folder: Path) -> None:
    for flags, suffix in (((), ""), (("--previous",), ".previous")):
        with contextlib.suppress(CommandFailed):
            (folder / f"{namespace}.{pod}.{container}{suffix}.log").write_text(kube.logs(namespace, pod, container, *flags))
