"""Manifests of what the tests run: the application with what its pod asks of injection, its Service, its document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]

SCRIPTS = Path(__file__).parents[1] / "pods"
ACCOUNT = "app"
"""The ServiceAccount of everything here; `reader` lets it read a document's ConfigMap."""
INJECT = "outrider.dev/inject"
TOLERATIONS = [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule"}]
"""A small cluster's control plane takes our pods, too; a node that is being drained does not."""
RESTRICTED_POD = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
DRAIN_DELAY = 5
"""The product's default of `lifecycle.drainDelay`, seconds."""
LONGER = 10
"""For how much longer, at most, a sidecar accepts connections that still come: half of its `drainTimeout`, seconds."""

DOCUMENT: Json = {
    "apiVersion": "outrider.dev/v1alpha1",
    "kind": "SidecarConfig",
    "listeners": [
        {"name": "inbound", "port": 15001, "mode": "Reverse"},
        {"name": "outbound", "port": 15002, "mode": "Forward", "allow": ["*.svc:*", "*.svc.cluster.local:*", "10.0.0.0/8:*"]},
    ],
    "upstreams": [{"name": "app", "targets": [{"url": "http://127.0.0.1:8000"}]}],
}


def document(mark: str = "first", **more: Any) -> str:
    """A document whose every answer has the header `x-mark`, so that a client sees which one is in force."""
    route = {
        "name": "all",
        "listener": "inbound",
        "backendRefs": [{"name": "app"}],
        "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-mark", "value": mark}]}}],
    }
    return yaml.safe_dump(DOCUMENT | {"routes": [route]} | more, sort_keys=False)


def configmap(text: str, name: str = "sidecar") -> Json:
    """A ConfigMap with the document."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"sidecar.yaml": text}}


def account(name: str = "sidecar") -> list[Json]:
    """The pods' ServiceAccount, with the rights that docs/reference.md names: one ConfigMap, and Events."""
    about = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "read-sidecar"}}
    rules = [
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [name], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
    ]
    subjects = [{"kind": "ServiceAccount", "name": ACCOUNT}]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}},
        {**about, "kind": "Role", "rules": rules},
        {
            **about,
            "kind": "RoleBinding",
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "read-sidecar"},
            "subjects": subjects,
        },
    ]


def scripts() -> Json:
    """The programs of pods/, for pods to mount."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "scripts"},
        "data": {one.name: one.read_text() for one in SCRIPTS.glob("*.py")},
    }


def container(name: str, image: str, script: str, **more: Any) -> Json:
    """A container that runs a program of pods/."""
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", f"/scripts/{script}"],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "scripts", "mountPath": "/scripts"}],
        **more,
    }


def application(image: str, *, drain_delay: int = DRAIN_DELAY, **more: Any) -> Json:
    """The application's container. It outlives what its sidecar accepts, as the documentation asks of it."""
    stay = {"preStop": {"exec": {"command": ["sleep", str(drain_delay + LONGER)]}}}
    probe = {"tcpSocket": {"port": 8000}, "periodSeconds": 2}
    return container("app", image, "application.py", ports=[{"containerPort": 8000}], readinessProbe=probe, lifecycle=stay, **more)


def pod_template(
    containers: Sequence[Json],
    *,
    app: str,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    inits: Sequence[Json] = (),
    **more: Any,
) -> Json:
    """`metadata` and `spec` of a pod that passes Pod Security's `restricted`."""
    spec: Json = {
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": False,
        "securityContext": RESTRICTED_POD,
        "tolerations": TOLERATIONS,
        "containers": list(containers),
        "volumes": [{"name": "scripts", "configMap": {"name": "scripts"}}],
        **more,
    }
    if inits:
        spec["initContainers"] = list(inits)
    return {"metadata": {"labels": {"app": app, **(labels or {})}, "annotations": dict(annotations or {})}, "spec": spec}


def injected(template: Json, *, configmap: str = "", app_port: int = 8000, **annotations: str) -> Json:
    """The template with the label and the annotations that ask for a sidecar; keywords have `_` for `-`."""
    wanted = {"app-port": str(app_port)} if app_port else {}
    wanted |= {"configmap": configmap} if configmap else {}
    wanted |= {name.replace("_", "-"): value for name, value in annotations.items()}
    metadata = template["metadata"]
    return {
        **template,
        "metadata": {
            **metadata,
            "labels": {**metadata["labels"], INJECT: "true"},
            "annotations": {**metadata["annotations"], **{f"outrider.dev/{name}": value for name, value in wanted.items()}},
        },
    }


def pod(name: str, template: Json) -> Json:
    """A pod without an owner."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": name}, "spec": template["spec"]}


def deployment(name: str, template: Json, *, replicas: int = 1) -> Json:
    """With the strategy that Kubernetes has by default."""
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": template["metadata"]["labels"]["app"]}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def service(name: str, *, app: str, port: int = 15001) -> Json:
    """Port 80 of the Service goes to the sidecar, by number: names of native sidecars' ports resolve since 1.32 only."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": app}, "ports": [{"name": "http", "port": 80, "targetPort": port}]},
    }
