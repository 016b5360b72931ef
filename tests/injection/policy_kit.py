"""Charts/outrider's admission policy in an API server, and pods as that server would store them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import yaml
from injection.cases import VALUES, Json, pod
from support.kube_admin import Admin

CHART = Path(__file__).parents[2] / "charts/outrider"
POLICY = "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"
IN_FORCE = 30.0
"""Seconds until an API server has taken up a new policy; it looks about once a second."""
RESTRICTED = "restricted"
"""A namespace with Pod Security's strictest level and no policy of ours."""


def policy(helm: Path, defaults: str) -> Iterator[Json]:
    """The policy and its binding as the chart renders them."""
    values = {
        **VALUES[defaults],
        "fullnameOverride": f"outrider-{defaults}",
        "injection": {
            **VALUES[defaults].get("injection", {}),
            "mode": "AdmissionPolicy",
            "namespaceSelector": {"matchLabels": {"defaults": defaults}},
        },
    }
    command = [
        helm,
        "template",
        "x",
        CHART,
        "--namespace",
        "outrider-system",
        "--values",
        "-",
        "--api-versions",
        POLICY,
        "--kube-version",
        "1.36.0",
    ]
    text = subprocess.run(
        [*command, "--show-only", "templates/mutatingadmissionpolicy.yaml"],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    yield from (one for one in yaml.safe_load_all(text) if one)


def create(admin: Admin, namespace: str, one: Json) -> Json:
    """The pod as the API server would store it. Its plug-in ServiceAccount is off there (no controller makes accounts): this does its part."""
    metadata = {"name": None, "generateName": "x-", **one["metadata"], "namespace": namespace}
    spec = {"serviceAccountName": "default", **one["spec"]}
    return admin.request("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", {**one, "metadata": metadata, "spec": spec})


def wait_until_in_force(admin: Admin, namespace: str) -> None:
    """Until a pod without annotations is told that they are missing."""
    deadline = time.monotonic() + IN_FORCE
    while "annotations" not in (made := create(admin, namespace, pod(None)))["metadata"]:
        assert time.monotonic() < deadline, made
        time.sleep(0.1)
