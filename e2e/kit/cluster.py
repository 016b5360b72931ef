"""The cluster: one that kind makes for this run, or the one that the environment points at."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Self

import yaml

from kit.command import CommandFailed, run
from kit.kube import Kube
from kit.settings import Settings

NODES = 2
CREATE = 600.0


class Cluster:
    """A context manager: there while it is entered."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._ours = not settings.use_current

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="outrider-e2e-")
        self.kubeconfig = os.environ.get("KUBECONFIG", "")
        try:
            if self._ours:
                self.kubeconfig = str(Path(self._folder.name) / "kubeconfig")
                self._create()
            self.kube = Kube(self.settings.kubectl, self.kubeconfig).__enter__()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kube.__exit__()
        self._leave()

    def load_image(self, reference: str) -> None:
        """Make an image of this machine known to every node."""
        if not self.settings.cluster_name:
            raise CommandFailed(
                "how do images come into this cluster? Name kind's cluster in KIND_CLUSTER_NAME, or images that it can pull in E2E_SIDECAR_IMAGE and E2E_INJECTOR_IMAGE"
            )
        run([self.settings.kind, "load", "docker-image", reference, "--name", self.settings.cluster_name], timeout=300)

    def export_logs(self, folder: Path) -> None:
        """Everything that kind knows of its nodes."""
        if self.settings.cluster_name:
            run([self.settings.kind, "export", "logs", str(folder), "--name", self.settings.cluster_name], timeout=300)

    def _create(self) -> None:
        nodes = [{"role": "control-plane"}, *({"role": "worker"} for _ in range(NODES - 1))]
        document = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": nodes}
        path = Path(self._folder.name) / "kind.yaml"
        path.write_text(Path(given).read_text() if (given := os.environ.get("KIND_CONFIG")) else yaml.safe_dump(document))
        image = ["--image", self.settings.node_image] if self.settings.node_image else []
        kind, name = self.settings.kind, self.settings.cluster_name
        run([kind, "delete", "cluster", "--name", name], timeout=CREATE)
        run(
            [kind, "create", "cluster", "--name", name, "--config", str(path), "--kubeconfig", self.kubeconfig, "--wait", "180s", *image],
            timeout=CREATE,
        )

    def _leave(self) -> None:
        if self._ours and not self.settings.keep:
            run([self.settings.kind, "delete", "cluster", "--name", self.settings.cluster_name], timeout=CREATE)
        if self._ours and self.settings.keep:
            run([self.settings.kind, "export", "kubeconfig", "--name", self.settings.cluster_name])
        self._folder.cleanup()
