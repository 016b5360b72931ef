"""A pod with its sidecar: decides whether it gets one, and edits the raw JSON (typed models drop fields that they do not know).

Idempotent: a pod that has our container gets it again in the same place, or keeps what another way of injection put
there. A pod that cannot have one is not touched, but for an annotation that says why.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sidecar.injector.amount import amount
from sidecar.injector.podspec import APPLICATION_ENV, CONTAINER, CONTAINER_TREE, PORT_NAMES, PORTS, VOLUME_NAMES, VOLUME_TREES
from sidecar.injector.settings import INJECT, INJECTED, PREFIX, REFUSED, BadAnnotation, Defaults, Settings, read_settings
from sidecar.injector.tree import build

Json = dict[str, Any]

_MIRROR: Final = "kubernetes.io/config.mirror"
_RESOURCES: Final = tuple(PREFIX + name for name in ("cpu-request", "memory-request", "memory-limit"))
_DEFAULT_CONTAINER: Final = ("kubectl.kubernetes.io/default-container", "kubectl.kubernetes.io/default-logs-container")


class Refused(Exception):
    """The pod asked for a sidecar and cannot have one; the text says why and what to do."""


class Why(StrEnum):
    """Why a pod was not injected, in one word, for those who count."""

    NONE = "none"
    """It was."""
    OPTED_OUT = "opted_out"
    MIRROR_POD = "mirror_pod"
    HOST_NETWORK = "host_network"
    WINDOWS = "windows"
    NO_CONTAINERS = "no_containers"
    ALREADY_INJECTED = "already_injected"
    BAD_ANNOTATION = "bad_annotation"
    CONFLICT = "conflict"
    """It has a container, a port or a volume that is the sidecar's."""


class Result(NamedTuple):
    """`pod` is the pod as it should be, which shares with the one before what is the same; `operations` lead there (RFC 6902).

    No operations: nothing is to be done.
    """

    pod: Json
    operations: list[Json]
    injected: bool
    reason: str = ""
    """Why it was not injected; "" when it was."""
    warnings: tuple[str, ...] = ()
    why: Why = Why.NONE


def wanted(pod: Mapping[str, Any], namespace_labels: Mapping[str, str]) -> bool:
    """Whether a pod is to have a sidecar: its own label speaks before its namespace's (interface.md section 7)."""
    word = _labels(pod).get(INJECT)
    return word == "true" if word in ("true", "false") else namespace_labels.get(INJECT) == "enabled"


def inject(pod: Mapping[str, Any], defaults: Defaults, *, by: str, version: str, live: bool = True) -> Result:
    """The pod (or pod template: `metadata` and `spec`) with the sidecar. `by`: webhook, policy, chart or cli.

    `live`: it comes from an API server, whose defaults, plug-ins (LimitRanger) and other webhooks may have added to what
    is ours already; that stays. Otherwise it is a manifest, and nothing of an earlier injection stays.
    """
    editor = Editor(pod, live=live)
    annotations = _annotations(pod)
    if left_alone := _not_for_us(pod):
        why, reason = left_alone
        return Result(editor.pod, [], injected=False, reason=reason, why=why)
    mark = _mark(pod)
    if mark and mark.get("by") != by:
        reason = f"the sidecar is there already, put there by {mark.get('by', 'somebody')}"
        return Result(editor.pod, [], injected=False, reason=reason, why=Why.ALREADY_INJECTED)
    try:
        settings = read_settings(annotations, defaults)
        _check(pod, settings, ours=bool(mark))
    except (BadAnnotation, Refused) as error:
        editor.annotate(REFUSED, str(error))
        why = Why.BAD_ANNOTATION if isinstance(error, BadAnnotation) else Why.CONFLICT
        return Result(editor.pod, editor.operations, injected=False, reason=str(error), why=why)
    warnings = settings.warnings + _edit(editor, settings, annotations)
    editor.annotate(INJECTED, json.dumps({"version": version, "by": by}, separators=(",", ":")))
    return Result(editor.pod, editor.operations, injected=True, warnings=warnings)


class Editor:
    """Edits a copy of a pod and keeps the operations that did it.

    Only what lies on the way to an edit is copied: the whole would take 400 ms for a pod of 8 MiB.
    """

    def __init__(self, pod: Mapping[str, Any], *, live: bool) -> None:
        self._live = live
        self.pod: Json = dict(pod)
        self.operations: list[Json] = []

    def annotate(self, name: str, value: str, *, keep: bool = False) -> None:
        """Set an annotation; with `keep` only where it is absent."""
        if not isinstance(self.pod.get("metadata"), dict):
            self._set((), "metadata", {})
        metadata = self.pod["metadata"]
        if not metadata.get("annotations"):
            self._set(("metadata",), "annotations", {})
        if not (keep and name in metadata["annotations"]):
            self._set(("metadata", "annotations"), name, value)

    def forget(self, annotation: str) -> None:
        """Take an annotation away, if it is there."""
        if annotation in _annotations(self.pod):
            del self._own(("metadata", "annotations"))[annotation]
            self._record("remove", ("metadata", "annotations", annotation))

    def put(self, path: tuple[str | int, ...], item: Json, *, first: bool) -> None:
        """A list's item by its `name`: in the place of one that is there, else at the list's begin or end.

        With `live` one that is there may say more than ours.
        """
        *parents, key = path
        if not self._own(tuple(parents)).get(key):
            self._set(tuple(parents), key, [])
        items: list[Json] = self._own(path)
        for index, one in enumerate(items):
            if one.get("name") == item["name"]:
                if not (self._live and _holds(one, item)):
                    self._set(path, index, item)
                return
        items.insert(0 if first else len(items), item)
        self._record("add", (*path, 0 if first else "-"), item)

    def drop(self, path: tuple[str | int, ...], names: Collection[str]) -> None:
        """Take a list's items of these names away."""
        *parents, key = path
        for index, one in reversed(list(enumerate(self._own(tuple(parents)).get(key) or ()))):
            if one.get("name") in names:
                del self._own(path)[index]
                self._record("remove", (*path, index))

    def _own(self, path: tuple[str | int, ...]) -> Any:
        """What is there, as a copy that may be changed."""
        place: Any = self.pod
        for step in path:
            place[step] = place = copy.copy(place[step])
        return place

    def _set(self, path: tuple[str | int, ...], key: str | int, value: Any) -> None:
        parent = self._own(path)
        there = isinstance(key, int) or key in parent
        if there and parent[key] == value:
            return
        parent[key] = value
        self._record("replace" if there else "add", (*path, key), value)

    def _record(self, operation: str, path: tuple[str | int, ...], *value: Any) -> None:
        pointer = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)  # RFC 6901
        self.operations.append({"op": operation, "path": pointer, **({"value": copy.deepcopy(value[0])} if value else {})})


def _edit(editor: Editor, settings: Settings, annotations: Mapping[str, str]) -> tuple[str, ...]:
    """Put everything in its place, and take away what earlier settings had put there. Returns warnings."""
    spec: Mapping[str, Any] = editor.pod["spec"]
    facts = settings.facts | _facts(spec)
    native = "native" in facts
    editor.forget(REFUSED)
    if not native:
        for name in _DEFAULT_CONTAINER:
            if first := [one["name"] for one in spec["containers"] if one["name"] != CONTAINER][:1]:
                editor.annotate(name, first[0], keep=True)
    editor.drop(("spec", "containers" if native else "initContainers"), {CONTAINER})
    editor.put(("spec", "initContainers" if native else "containers"), build(CONTAINER_TREE, settings.values, facts), first=True)
    volumes = build(VOLUME_TREES, settings.values, facts)
    editor.drop(("spec", "volumes"), set(VOLUME_NAMES) - {volume["name"] for volume in volumes})
    for volume in volumes:
        editor.put(("spec", "volumes"), volume, first=False)
    if settings.proxy_env:
        for kind in ("initContainers", "containers"):
            for index, container in enumerate(editor.pod["spec"].get(kind) or ()):
                _add_proxy_env(editor, kind, index, container)
    if "podResources" not in facts:
        return ()
    return tuple(
        f"annotation {name} has no effect in a pod with resources of its own (spec.resources)"
        for name in _RESOURCES
        if annotations.get(name)
    )


def _add_proxy_env(editor: Editor, kind: str, index: int, container: Json) -> None:
    """In upper and lower case, but not beside another value in the other case: some clients read one, some the other."""
    if container["name"] == CONTAINER:
        return
    given = [(str(one.get("name")), one.get("value")) for one in container.get("env") or ()]
    for name, value in APPLICATION_ENV.items():
        if not any(one == name or (one.lower() == name.lower() and said != value) for one, said in given):
            editor.put(("spec", kind, index, "env"), {"name": name, "value": value}, first=False)


def _holds(there: Any, ours: Any) -> bool:
    """Whether all of `ours` is in `there`: mappings key by key, lists by their items' names or places, quantities by amount."""
    if isinstance(ours, dict):
        return isinstance(there, dict) and all(key in there and _holds(there[key], value) for key, value in ours.items())
    if isinstance(ours, list):
        if not isinstance(there, list):
            return False
        if all(isinstance(one, dict) and "name" in one for one in (*ours, *there)):
            named = {one["name"]: one for one in there}
            return all(_holds(named.get(one["name"]), one) for one in ours)
        return len(there) == len(ours) and all(map(_holds, there, ours))
    return bool(there == ours) or (amount(ours) is not None and amount(ours) == amount(there))


# -- who gets none


def _not_for_us(pod: Mapping[str, Any]) -> tuple[Why, str] | None:
    """Why a pod is left alone without a word in it; None when it is not."""
    spec = pod.get("spec") or {}
    if _labels(pod).get(INJECT) == "false":
        return Why.OPTED_OUT, f"its label {INJECT} says no"
    if _MIRROR in _annotations(pod):
        return Why.MIRROR_POD, "it mirrors a static pod"
    if spec.get("hostNetwork"):
        return Why.HOST_NETWORK, "it is on the host's network, where the sidecar's ports are the node's"
    if (spec.get("os") or {}).get("name") == "windows" or (spec.get("nodeSelector") or {}).get("kubernetes.io/os") == "windows":
        return Why.WINDOWS, "it is for Windows"
    if not spec.get("containers"):
        return Why.NO_CONTAINERS, "it has no containers"
    return None


def _check(pod: Mapping[str, Any], settings: Settings, *, ours: bool) -> None:
    """Raise Refused when something of the pod is in our way. `ours`: what is called as ours is from an earlier injection."""
    spec = pod["spec"]
    if settings.values["appPort"] and int(settings.values["appPort"]) in PORTS:
        raise Refused(f"the application's port {settings.values['appPort']} is one of the sidecar's own (move the application)")
    for container in _containers(spec):
        name = container.get("name")
        if name == CONTAINER:
            if not ours:
                raise Refused(f"a container is called {CONTAINER}, which is the sidecar's name (rename it)")
            continue
        for port in container.get("ports") or ():
            if port.get("containerPort") in PORTS:
                raise Refused(f"container {name} has the port {port['containerPort']}, which is the sidecar's (move it)")
            if port.get("name") in PORT_NAMES:
                raise Refused(f"container {name} has a port called {port['name']}, which is the sidecar's name for one (rename it)")
    if not ours and (taken := [one["name"] for one in spec.get("volumes") or () if one.get("name") in VOLUME_NAMES]):
        raise Refused(f"a volume is called {taken[0]}, which is the sidecar's name for one (rename it)")


def _facts(spec: Mapping[str, Any]) -> frozenset[str]:
    """What the pod itself says about its sidecar (see podspec.py)."""
    facts = set()
    if all(_guaranteed(one) for one in _containers(spec) if one.get("name") != CONTAINER):
        facts.add("guaranteed")
    if (spec.get("securityContext") or {}).get("runAsUser") == 0:
        facts.add("root")
    resources = spec.get("resources") or {}
    if resources.get("requests") or resources.get("limits"):
        facts.add("podResources")
    return frozenset(facts)


def _guaranteed(container: Mapping[str, Any]) -> bool:
    """Requests that are left out are the limits; otherwise the two must be the same amount, of cpu and of memory."""
    resources = container.get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for kind in ("cpu", "memory"):
        limit = amount(limits.get(kind))
        if not limit or amount(requests.get(kind, limits[kind])) != limit:
            return False
    return True


def _containers(spec: Mapping[str, Any]) -> Iterator[Json]:
    yield from spec.get("initContainers") or ()
    yield from spec.get("containers") or ()


def _mark(pod: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `outrider.dev/injected` says; None: never injected, or the container is not there any more."""
    text = _annotations(pod).get(INJECTED)
    if text is None or not any(one.get("name") == CONTAINER for one in _containers(pod["spec"])):
        return None
    try:
        document = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        document = None
    return document if isinstance(document, dict) else {"by": "somebody"}


def _labels(pod: Mapping[str, Any]) -> Mapping[str, str]:
    return (pod.get("metadata") or {}).get("labels") or {}


def _annotations(pod: Mapping[str, Any]) -> Mapping[str, str]:
    return (pod.get("metadata") or {}).get("annotations") or {}
