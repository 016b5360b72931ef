"""A small chart of an application: its pods come from values, its sidecars from charts/outrider-lib."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import yaml
from injection.cases import VALUES, Case, Json

LIBRARY = Path(__file__).parents[2] / "charts/outrider-lib"
CHART = {"apiVersion": "v2", "name": "application", "version": "1.0.0"}
TEMPLATE = """\
{{- range .Values.cases }}
{{- $sidecar := dict "podSpec" .pod.spec "annotations" (.pod.metadata.annotations | default dict) "Values" .values }}
---
apiVersion: v1
kind: Pod
metadata:
  {{- toYaml (omit .pod.metadata "annotations") | nindent 2 }}
  annotations:
    {{- include "outrider-lib.annotations" $sidecar | nindent 4 }}
spec:
  {{- include "outrider-lib.podSpec" $sidecar | nindent 2 }}
{{- end }}
"""


class Rendered(NamedTuple):
    """What Helm made of it: one pod for each case, or why it would not."""

    pods: list[Json]
    error: str


def make_chart(folder: Path) -> Path:
    """Write the chart, with the library in the place where `helm dependency build` puts it."""
    (folder / "templates").mkdir(parents=True)
    shutil.copytree(LIBRARY, folder / "charts/outrider-lib")
    (folder / "Chart.yaml").write_text(json.dumps(CHART))
    (folder / "templates/pods.yaml").write_text(TEMPLATE)
    return folder


def render(helm: Path, chart: Path, cases: list[Case], values: Json | None = None) -> Rendered:
    """`helm template` with these pods."""
    given = {"cases": [{"pod": case.pod, "values": VALUES[case.defaults] if values is None else values} for case in cases]}
    done = subprocess.run(
        [helm, "template", "x", chart, "--values", "-"], input=json.dumps(given), capture_output=True, text=True, timeout=60, check=False
    )
    error = done.stderr.split("\n\nUse --debug")[0] if done.returncode else ""
    return Rendered([one for one in yaml.safe_load_all(done.stdout) if one], error)
