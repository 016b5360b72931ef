"""Who the spans are from: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES first, then the pod as the downward API tells it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Final

from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from sidecar import __version__

CONTAINER: Final = "outrider"
WORKER: Final = "OUTRIDER_WORKER"
"""The number of a process that is one of several; not a user's variable (workers/worker.py sets it)."""
DEFAULT_SERVICE: Final = "outrider"
_INSTANCE: Final = str(uuid.uuid4())
"""Of a process without a pod; the same for its spans and its metrics."""
_POD: Final = {
    "POD_NAME": "k8s.pod.name",
    "POD_UID": "k8s.pod.uid",
    "POD_NAMESPACE": "k8s.namespace.name",
    "NODE_NAME": "k8s.node.name",
    "NODE_ZONE": "cloud.availability_zone",
}
# What a Deployment's pods (ReplicaSet's hash, five more) and a StatefulSet's (a number) have behind their owner's name.
_of_owner: Final = re.compile(r"(.+?)(?:-[bcdf-hj-np-tv-xz2456789]{6,10}-[bcdf-hj-np-tv-xz2456789]{5}|-[0-9]{1,5})").fullmatch


def make_resource(environment: Mapping[str, str]) -> Resource:
    """The resource of this process; what `OTEL_*` says wins over what is found here."""
    found = {name: value for variable, name in _POD.items() if (value := environment.get(variable, ""))}
    pod, namespace = found.get("k8s.pod.name", ""), found.get("k8s.namespace.name", "")
    own = {
        "service.name": service_name(pod),
        "service.instance.id": _instance(namespace, pod, environment.get(WORKER, "")),
        "telemetry.distro.name": "outrider",
        "telemetry.distro.version": __version__,
        **found,
    }
    if pod:
        own["k8s.container.name"] = CONTAINER
    if namespace:
        own["service.namespace"] = namespace
    given = OTELResourceDetector().detect()  # OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME alone, without defaults of the SDK's
    return Resource.create({**own, **given.attributes})


def _instance(namespace: str, pod: str, worker: str) -> str:
    """Each process has its own."""
    if not pod:
        return _INSTANCE
    return ".".join(part for part in (namespace, pod, CONTAINER, worker) if part) if worker else f"{namespace}.{pod}.{CONTAINER}"


def service_name(pod: str) -> str:
    """The workload's name as far as the pod's tells it: traces group with the application, not with its pods."""
    owner = _of_owner(pod)
    return owner[1] if owner is not None else pod or DEFAULT_SERVICE
