"""Objects of manifests that make pods, and where in them the pod is described."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sidecar.injector.manifest import Json, Path

_TEMPLATES: Final[tuple[Path, ...]] = (
    (
        "spec",
        "template",
    ),  # Deployment, StatefulSet, DaemonSet, ReplicaSet, ReplicationController, Job, Argo's Rollout and others of the kind
    ("spec", "jobTemplate", "spec", "template"),  # CronJob
    ("template",),  # PodTemplate
)


class Workload(NamedTuple):
    """A pod, or an object that has a pod's template."""

    path: Path
    """Of the pod or template in its document; () is the document itself."""
    pod: Json
    """`metadata` and `spec`."""
    owner: Json
    """The object; the pod itself when nothing owns it."""

    @property
    def name(self) -> str:
        """For messages: `Deployment shop/orders`."""
        words = mapping(self.owner, "metadata")
        name = words.get("name") or f"{words.get('generateName') or ''}?"
        return f"{self.owner.get('kind')} {self.namespace}/{name}" if self.namespace else f"{self.owner.get('kind')} {name}"

    @property
    def namespace(self) -> str:
        """Empty when the manifest does not say."""
        return str(mapping(self.owner, "metadata").get("namespace") or "")

    @property
    def template(self) -> str:
        """Where in its object the pod is described: `spec.template`; "" in a pod."""
        steps = list(self.path)
        while steps[:1] == ["items"]:
            del steps[:2]
        return ".".join(map(str, steps))

    @property
    def controller(self) -> str:
        """What has made the object from a template of its own: `ReplicaSet orders-5d8f`; "" when nothing has."""
        owners = mapping(self.owner, "metadata").get("ownerReferences")
        for one in owners if isinstance(owners, list) else ():
            if isinstance(one, dict) and one.get("controller") is True:
                return f"{one.get('kind')} {one.get('name')}"
        return ""


def mapping(value: Any, *steps: str) -> Json:
    """The mapping at a path; empty when there is none."""
    found = _at(value, steps)
    return found if isinstance(found, dict) else {}


def workloads(document: Any, path: Path = ()) -> Iterator[Workload]:
    """All of a document, in order, also those in a List."""
    if not isinstance(document, dict):
        return
    items = document.get("items")
    if isinstance(items, list) and str(document.get("kind", "")).endswith("List"):
        for index, item in enumerate(items):
            yield from workloads(item, (*path, "items", index))
    elif document.get("kind") == "Pod":
        yield Workload(path, document, document)
    else:
        for steps in _TEMPLATES:
            template = _at(document, steps)
            if isinstance(template, dict) and isinstance(template.get("spec"), dict) and "containers" in template["spec"]:
                yield Workload((*path, *steps), template, document)
                return


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value
