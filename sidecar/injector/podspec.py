"""What injection adds to a pod: the single description, for the webhook, the admission policy, the Helm helper and `outrider inject`.

Facts: `native` (a sidecar among the init containers; else a plain container in front of the application's),
`configmap` (the pod names one), `appPort` (the pod names the application's port), `guaranteed` (every container of the
pod has equal requests and limits), `root` (the pod says `runAsUser: 0`, which our container must not inherit),
`podResources` (the pod as a whole has requests or limits, which those of its containers may not exceed in sum), `otlp`
(the installation has a collector).
"""

from __future__ import annotations

from typing import Final

from sidecar.injector.tree import Choice, Setting, Tree, When

CONTAINER: Final = "outrider"
IN_PORT: Final = 15001
OUT_PORT: Final = 15002
STATUS_PORT: Final = 15021
USER: Final = 65532
"""The image's user, named only where the pod's own setting would have us run as root."""

CONFIG_VOLUME: Final = "outrider-config"
STATE_VOLUME: Final = "outrider-state"
ACCESS_VOLUME: Final = "outrider-kube-api-access"
VOLUME_NAMES: Final = (CONFIG_VOLUME, STATE_VOLUME, ACCESS_VOLUME)
PORT_NAMES: Final = ("outrider-in", "outrider-status")
PORTS: Final = (IN_PORT, OUT_PORT, STATUS_PORT, 15020)
"""Ports of the pod that become ours, with the admin surface's."""
_ACCESS: Final = "/var/run/secrets/kubernetes.io/serviceaccount"


def _field(name: str, path: str) -> Tree:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _probe(path: str, period: int, timeout: int, failures: int) -> Tree:
    """Without `host`, which Pod Security (baseline) forbids since 1.34."""
    return {
        "httpGet": {"path": path, "port": STATUS_PORT, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }


_ENV: Final[Tree] = [
    _field("POD_NAME", "metadata.name"),
    _field("POD_NAMESPACE", "metadata.namespace"),
    _field("POD_UID", "metadata.uid"),
    _field("POD_IP", "status.podIP"),
    _field("NODE_NAME", "spec.nodeName"),
    _field("HOST_IP", "status.hostIP"),
    _field("NODE_ZONE", "metadata.labels['topology.kubernetes.io/zone']"),  # copied from the node since 1.35; else empty
    _field("OTEL_SERVICE_NAME", "metadata.labels['app.kubernetes.io/name']"),  # empty means unset
    {
        "name": "OTEL_RESOURCE_ATTRIBUTES",
        "value": "k8s.pod.name=$(POD_NAME),k8s.pod.uid=$(POD_UID),k8s.namespace.name=$(POD_NAMESPACE),k8s.node.name=$(NODE_NAME),"
        "k8s.container.name=outrider,service.instance.id=$(POD_NAMESPACE).$(POD_NAME).outrider",
    },
    When("otlp", {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": Setting("otlpEndpoint")}),
    {"name": "OUTRIDER_LOG_LEVEL", "value": Setting("logLevel")},
    When("appPort", {"name": "OUTRIDER_APP_PORT", "value": Setting("appPort")}),
    When("configmap", {"name": "OUTRIDER_CONFIG", "value": "/etc/outrider/sidecar.yaml"}),
    When("configmap", {"name": "OUTRIDER_CONFIGMAP", "value": Setting("configmap")}),
    When("configmap", {"name": "OUTRIDER_CONFIGMAP_KEY", "value": Setting("configmapKey")}),
]

CONTAINER_TREE: Final[Tree] = {
    "name": CONTAINER,
    "image": Setting("image"),
    "imagePullPolicy": Setting("imagePullPolicy"),
    "restartPolicy": When("native", "Always"),
    "args": ["run"],
    "env": _ENV,
    "ports": [
        {"name": "outrider-in", "containerPort": IN_PORT, "protocol": "TCP"},
        {"name": "outrider-status", "containerPort": STATUS_PORT, "protocol": "TCP"},
    ],
    "startupProbe": _probe("/startupz", 1, 1, 120),
    "readinessProbe": _probe("/readyz", 5, 2, 3),
    "livenessProbe": _probe("/livez", 10, 3, 6),
    "lifecycle": {
        # A plain container that comes first holds up the others until this hook has ended; a native sidecar's startup probe does that.
        "postStart": When("native", {"exec": {"command": ["outrider", "wait", "--timeout", "120s"]}}, holds=False),
        "preStop": {"exec": {"command": ["outrider", "drain"]}},
    },
    "resources": When(
        "podResources",
        {
            "requests": {
                "cpu": Choice("guaranteed", Setting("guaranteedCpu"), Setting("cpuRequest")),
                "memory": Choice("guaranteed", Setting("memoryLimit"), Setting("memoryRequest")),
            },
            "limits": {"cpu": When("guaranteed", Setting("guaranteedCpu")), "memory": Setting("memoryLimit")},
        },
        holds=False,
    ),
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": When("root", USER),
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "terminationMessagePolicy": "FallbackToLogsOnError",
    "volumeMounts": [
        When("configmap", {"name": CONFIG_VOLUME, "mountPath": "/etc/outrider", "readOnly": True}),
        {"name": STATE_VOLUME, "mountPath": "/var/lib/outrider"},
        # Always mounted: where the application's token is mounted by default, ours sees this instead.
        {"name": ACCESS_VOLUME, "mountPath": _ACCESS, "readOnly": True},
    ],
}
"""The container `outrider`."""

VOLUME_TREES: Final[list[Tree]] = [
    When(
        "configmap",
        {
            "name": CONFIG_VOLUME,
            "configMap": {
                "name": Setting("configmap"),
                "items": [{"key": Setting("configmapKey"), "path": "sidecar.yaml"}],
                "defaultMode": 0o444,
                "optional": True,  # a pod may start before its ConfigMap exists
            },
        },
    ),
    {"name": STATE_VOLUME, "emptyDir": {"sizeLimit": "32Mi"}},
    {
        "name": ACCESS_VOLUME,
        "projected": {
            "defaultMode": 0o444,
            "sources": [
                When("configmap", {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}),
                When(
                    "configmap",
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}], "optional": True}},
                ),
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ],
        },
    },
]
"""The pod's volumes that only our container mounts."""

APPLICATION_ENV: Final = {
    "HTTP_PROXY": f"http://127.0.0.1:{OUT_PORT}",
    "http_proxy": f"http://127.0.0.1:{OUT_PORT}",
    "NO_PROXY": "localhost,127.0.0.1,::1",
    "no_proxy": "localhost,127.0.0.1,::1",
}
"""Set in the application's containers by `outrider.dev/outbound-proxy-env: "true"`, where they do not set them themselves."""
