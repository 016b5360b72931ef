"""The pods that every way of injection is tried with; what becomes of them stands once, in golden/NAME.json.

`.venv/bin/python tests/injection/golden.py` writes those files again from sidecar/injector: read the difference before
you commit it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sidecar.injector.settings import Defaults

Json = dict[str, Any]

DEFAULTS: Final = {
    "plain": Defaults(image="outrider:0.1.0"),
    "other": Defaults(
        image="registry.example/proxies/outrider@sha256:" + "0" * 64,
        image_pull_policy="Always",
        log_level="warning",
        cpu_request="20m",
        memory_request="48Mi",
        memory_limit="128Mi",
        guaranteed_cpu="100m",
        configmap_key="document",
        native_sidecar=False,
        otlp_endpoint="http://$(HOST_IP):4318",
    ),
}
VALUES: Final[dict[str, Json]] = {
    "plain": {"image": {"repository": "outrider", "tag": "0.1.0"}},
    "other": {
        "image": {"registry": "registry.example", "repository": "proxies/outrider", "digest": "sha256:" + "0" * 64, "pullPolicy": "Always"},
        "injection": {
            "defaults": {
                "logLevel": "warning",
                "cpuRequest": "20m",
                "memoryRequest": "48Mi",
                "memoryLimit": "128Mi",
                "guaranteedCpu": "100m",
                "configmapKey": "document",
                "nativeSidecar": False,
                "otlpEndpoint": "http://$(HOST_IP):4318",
            }
        },
    },
}
"""The same defaults as values of the charts."""


class Case(NamedTuple):
    """A pod, and the defaults that it meets."""

    name: str
    pod: Json
    defaults: str = "plain"
    without: frozenset[str] = frozenset()
    """Ways that it is not tried with: `helm`, `policy`."""


def pod(
    annotations: Json | None, *, labels: Json | None = None, metadata: Json | None = None, container: Json | None = None, **spec: Any
) -> Json:
    """A pod with one container `app`, which `container` adds to."""
    marks = {} if annotations is None else {"annotations": {f"outrider.dev/{name}": value for name, value in annotations.items()}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "orders", "labels": {"outrider.dev/inject": "true", **(labels or {})}, **marks, **(metadata or {})},
        "spec": {"containers": [{"name": "app", "image": "orders:1", **(container or {})}], **spec},
    }


def _resources(limits: Json, requests: Json | None = None) -> Json:
    return {"resources": {"limits": limits, **({} if requests is None else {"requests": requests})}}


_CONFIGMAP: Final = {"configmap": "orders-sidecar"}
_PROXIED: Final = {**_CONFIGMAP, "outbound-proxy-env": "true"}
_TIGHT: Final = _resources({"cpu": "500m", "memory": "128Mi"})

INJECTED: Final = [
    Case("configmap", pod(_CONFIGMAP)),
    Case("app-port", pod({"app-port": "8000"})),
    Case("both", pod({**_CONFIGMAP, "app-port": "8000"})),
    Case(
        "every-annotation",
        pod(
            {
                **_PROXIED,
                "configmap-key": "my.yaml",
                "app-port": "65535",
                "native-sidecar": "enabled",
                "log-level": "debug",
                "image": "elsewhere.example/outrider:2",
                "cpu-request": "0.5",
                "memory-request": "100M",
                "memory-limit": "1Gi",
            }
        ),
        "other",
    ),
    Case("other-defaults", pod(_CONFIGMAP), "other"),
    Case("other-defaults-guaranteed", pod({"app-port": "80"}, container=_TIGHT), "other"),
    Case("unknown-annotations", pod({**_CONFIGMAP, "config-map": "x", "memory": "1Gi"})),
    Case(
        "in-company",
        pod(
            {"app-port": "8000"},
            labels={"app.kubernetes.io/name": "orders"},
            metadata={"annotations": {"outrider.dev/app-port": "8000", "example.com/a.b": "kept"}},
            container={
                "env": [{"name": "MODE", "value": "fast"}],
                "ports": [{"name": "http", "containerPort": 8000}, {"name": "udp", "containerPort": 9, "protocol": "UDP"}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            },
            initContainers=[{"name": "migrate", "image": "m"}, {"name": "logs", "image": "l", "restartPolicy": "Always"}],
            volumes=[{"name": "data", "emptyDir": {}}],
            securityContext={"runAsUser": 1000, "fsGroup": 1000},
            serviceAccountName="orders",
            automountServiceAccountToken=False,
            shareProcessNamespace=True,
        ),
    ),
    Case(
        "proxy-variables",
        pod(
            _PROXIED,
            container={"env": [{"name": "FIRST", "value": "1"}]},
            initContainers=[
                {"name": "migrate", "image": "m"},
                {"name": "seed", "image": "s", "env": [{"name": "HTTP_PROXY", "value": "http://127.0.0.1:15002"}]},
            ],
        ),
    ),
    Case(
        "proxy-variables-of-its-own",
        pod(
            _PROXIED,
            container={
                "env": [
                    {"name": "http_proxy", "value": "http://proxy:3128"},
                    {"name": "No_Proxy", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
                ]
            },
        ),
    ),
    Case("forty-containers", {**pod(_PROXIED), "spec": {"containers": [{"name": f"app-{number}", "image": "a"} for number in range(40)]}}),
    Case("guaranteed", pod(_CONFIGMAP, container=_TIGHT)),
    Case(
        "guaranteed-by-requests", pod(_CONFIGMAP, container=_resources({"cpu": "1", "memory": "1Gi"}, {"cpu": "1000m", "memory": "1024Mi"}))
    ),
    Case("guaranteed-with-cpu-request", pod({**_CONFIGMAP, "cpu-request": "150m", "memory-limit": "200Mi"}, container=_TIGHT)),
    Case("guaranteed-by-numbers", pod(_CONFIGMAP, container=_resources({"cpu": 1, "memory": 134217728}, {"cpu": "1", "memory": "128Mi"}))),
    Case("burstable-by-request", pod(_CONFIGMAP, container=_resources({"cpu": "500m", "memory": "128Mi"}, {"cpu": "100m"}))),
    Case("burstable-by-init-container", pod(_CONFIGMAP, container=_TIGHT, initContainers=[{"name": "migrate", "image": "m"}])),
    Case("burstable-by-no-cpu", pod(_CONFIGMAP, container=_resources({"memory": "128Mi"}))),
    Case("burstable-by-nothing", pod(_CONFIGMAP, container=_resources({"cpu": "0", "memory": "128Mi"}))),
    Case(
        "pod-resources",
        pod({**_CONFIGMAP, "cpu-request": "1"}, resources={"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}}),
    ),
    Case("root", pod(_CONFIGMAP, securityContext={"runAsUser": 0})),
    Case(
        "root-guaranteed-not-native",
        pod({"app-port": "1", "native-sidecar": "disabled"}, container=_TIGHT, securityContext={"runAsUser": 0}),
    ),
    Case("not-native", pod({**_PROXIED, "native-sidecar": "disabled"}, initContainers=[{"name": "migrate", "image": "m"}])),
    Case(
        "not-native-two-containers",
        {
            **pod(
                {"app-port": "8000", "native-sidecar": "disabled"},
                metadata={
                    "annotations": {
                        "outrider.dev/app-port": "8000",
                        "outrider.dev/native-sidecar": "disabled",
                        "kubectl.kubernetes.io/default-container": "second",
                    }
                },
            ),
            "spec": {"containers": [{"name": "first", "image": "a"}, {"name": "second", "image": "b"}]},
        },
    ),
    Case("job", pod(_CONFIGMAP, restartPolicy="Never", activeDeadlineSeconds=60)),
    Case("generated-name", pod(_CONFIGMAP, metadata={"name": None, "generateName": "orders-"}), without=frozenset({"helm"})),
    Case(
        "owned",
        pod(
            _CONFIGMAP,
            metadata={
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "orders", "uid": "1", "controller": True}]
            },
        ),
    ),
    Case(
        "nulls",
        pod(
            _CONFIGMAP,
            container={"env": None, "ports": None, "resources": None, "volumeMounts": None, "securityContext": None},
            initContainers=None,
            volumes=None,
            securityContext=None,
            nodeSelector=None,
            os=None,
        ),
        without=frozenset({"helm"}),  # Helm takes null values out before a template sees them
    ),
    Case("empty-lists", pod(_PROXIED, container={"env": [], "resources": {}}, initContainers=[], volumes=[])),
    Case("forgets-an-earlier-refusal", pod({**_CONFIGMAP, "not-injected": "once upon a time"})),
    Case("mark-without-a-sidecar", pod({**_CONFIGMAP, "injected": '{"version":"0.0.1","by":"chart"}'})),
    Case("linux", pod(_CONFIGMAP, os={"name": "linux"}, nodeSelector={"kubernetes.io/os": "linux"})),
]

_POD_OF_ITS_OWN_NAME: Final = [{"name": "outrider", "image": "x"}]

REFUSED: Final = [
    Case("names-nothing", pod({})),
    Case("no-annotations", pod(None)),
    Case("empty-annotations", pod({"configmap": "", "app-port": ""})),
    Case("bad-configmap", pod({"configmap": "Orders_Sidecar"})),
    Case("bad-configmap-key", pod({**_CONFIGMAP, "configmap-key": "a/b"})),
    Case("bad-port-word", pod({"app-port": "http"})),
    Case("bad-port-zero", pod({"app-port": "0"})),
    Case("bad-port-large", pod({"app-port": "65536"})),
    Case("bad-port-huge", pod({"app-port": "9" * 5000})),
    Case("bad-port-line", pod({"app-port": "80\n"})),
    Case("bad-port-digits", pod({"app-port": "٨٠"})),
    Case("bad-image", pod({**_CONFIGMAP, "image": "out rider"})),
    Case("bad-log-level", pod({**_CONFIGMAP, "log-level": "loud"})),
    Case("bad-cpu", pod({**_CONFIGMAP, "cpu-request": "half"})),
    Case("bad-memory", pod({**_CONFIGMAP, "memory-request": "64MB"})),
    Case("bad-memory-limit", pod({**_CONFIGMAP, "memory-limit": "-1"})),
    Case("memory-request-above-limit", pod({**_CONFIGMAP, "memory-request": "512Mi"})),
    Case("memory-limit-below-request", pod({**_CONFIGMAP, "memory-limit": "32M"})),
    Case("bad-native", pod({**_CONFIGMAP, "native-sidecar": "yes"})),
    Case("bad-proxy-env", pod({**_CONFIGMAP, "outbound-proxy-env": "yes"})),
    Case("no-way-out", pod({"app-port": "8000", "outbound-proxy-env": "true"})),
    Case("first-of-two-reasons", pod({"configmap": "A", "app-port": "0", "log-level": "loud", "native-sidecar": "no"})),
    Case("own-port", pod({"app-port": "15021"})),
    Case("port-collision", pod(_CONFIGMAP, container={"ports": [{"containerPort": 80}, {"containerPort": 15020}]})),
    Case("port-collision-init", pod(_CONFIGMAP, initContainers=[{"name": "logs", "image": "l", "ports": [{"containerPort": 15001}]}])),
    Case("port-name-collision", pod(_CONFIGMAP, container={"ports": [{"containerPort": 80, "name": "outrider-status"}]})),
    Case("volume-collision", pod(_CONFIGMAP, volumes=[{"name": "data", "emptyDir": {}}, {"name": "outrider-state", "emptyDir": {}}])),
    Case("container-collision", {**pod(_CONFIGMAP), "spec": {"containers": _POD_OF_ITS_OWN_NAME}}),
    Case("container-collision-init", pod(_CONFIGMAP, initContainers=_POD_OF_ITS_OWN_NAME)),
]
"""Each is refused with the words of golden/refusals.json, and nothing else of it changes."""

ALONE: Final = [
    Case("opted-out", pod(_CONFIGMAP, labels={"outrider.dev/inject": "false"}), without=frozenset({"helm"})),
    Case("host-network", pod(_CONFIGMAP, hostNetwork=True)),
    Case("windows", pod(_CONFIGMAP, os={"name": "windows"})),
    Case("windows-by-node-selector", pod(_CONFIGMAP, nodeSelector={"kubernetes.io/os": "windows"})),
    # An API server creates mirrors for kubelets alone.
    Case(
        "mirror-of-a-static-pod",
        pod(None, metadata={"annotations": {"kubernetes.io/config.mirror": "1", "outrider.dev/app-port": "1"}}),
        without=frozenset({"helm", "policy"}),
    ),
    Case("no-containers", {**pod(_CONFIGMAP), "spec": {"containers": []}}, without=frozenset({"helm", "policy"})),
]
