"""docs/tutorial.md, run as somebody would who follows it: its blocks marked `sh tutorial`, in their order, in one shell."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import Images
from kit import artifacts
from kit.cluster import Cluster
from kit.command import run
from kit.helm import Helm
from kit.kube import Kube
from kit.settings import ROOT, Settings

TUTORIAL = ROOT / "docs/tutorial.md"
NAMESPACES = ("outrider-system", "shop")


def script() -> str:
    """The blocks; each says what it is before it runs, so that a failure shows where."""
    return "set -x\n" + "\n".join(re.findall(r"^```sh tutorial\n(.*?)^```", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL))


@pytest.mark.timeout(900)
def test_the_tutorial_does_what_it_says(
    given: Settings, cluster: Cluster, kube: Kube, pictures: Images, helming: Helm, tmp_path: Path
) -> None:
    if not given.cluster_name or not pictures.injector:
        pytest.skip("the tutorial's images have fixed names: they can be loaded into a cluster of kind's, in mode Webhook")
    if any(kube.find("Namespace", "", name) for name in NAMESPACES):
        pytest.skip(f"somebody else uses one of the namespaces {', '.join(NAMESPACES)}")
    names = {pictures.sidecar: "outrider:0.1.0", pictures.injector: "outrider-injector:0.1.0", pictures.application: "python:3.13-slim"}
    for reference, name in names.items():
        run([given.docker, "tag", reference, name])
        cluster.load_image(name)
    for name in ("kubectl", "helm"):  # called so, whatever the environment calls them
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {getattr(given, name)} "$@"\n')
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, **kube.environment, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    try:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script()],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )
        if done.returncode != 0:
            artifacts.keep(kube, NAMESPACES, given.artifacts / "tutorial")
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert not any(kube.find("Namespace", "", name) for name in NAMESPACES), "the last step leaves nothing"
    finally:
        helming.uninstall("outrider", "outrider-system")
        for name in NAMESPACES:
            kube.delete("Namespace", "", name)
