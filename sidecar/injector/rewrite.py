"""Manifests with sidecars in them: what `outrider inject` does with its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from sidecar import __version__
from sidecar.injector.manifest import Json, Manifest
from sidecar.injector.patch import Result, Why, inject
from sidecar.injector.podspec import CONTAINER
from sidecar.injector.rights import Reader, rights
from sidecar.injector.settings import INJECT, PREFIX, Defaults
from sidecar.injector.shape import misshapen
from sidecar.injector.workloads import Workload, mapping, workloads

BY: Final = "cli"
CONFIGMAP: Final = PREFIX + "configmap"
ASKS: Final = (CONFIGMAP, PREFIX + "app-port")
"""Annotations that by themselves say that a sidecar is wanted, to somebody who calls for one."""


class Impossible(ValueError):
    """Why a workload cannot have the sidecar that it asks for."""


class NoRights(ValueError):
    """Why Roles and RoleBindings cannot be written, and what to do."""


class Rewrite:
    """Injects into one file after the other. `say` gets a line for a person, the file and the workload first."""

    def __init__(self, defaults: Defaults, *, every: bool, say: Callable[[str], None]) -> None:
        self.refused = False
        """Whether a workload could not have the sidecar that it asked for."""
        self._defaults = defaults
        self._every = every
        self._say = say
        self._injected: list[Workload] = []
        self._documents: list[Any] = []

    def inject(self, file: str, manifest: Manifest) -> None:
        """Change all workloads of a file that ask for a sidecar."""
        idle = True
        self._documents += manifest.documents
        for index, document in enumerate(manifest.documents):
            for workload in workloads(document):
                where = f"{file}: {workload.name}"
                for note in _misplaced(workload):
                    self._say(f"{where}: {note}")
                try:
                    if not _wanted(workload.pod, every=self._every):
                        continue
                    idle = False
                    result = self._result(where, workload)
                except Impossible as error:
                    idle, self.refused = False, True
                    self._say(f"{where}: cannot have a sidecar: {error}")
                    continue
                if result is not None:
                    manifest.change(index, workload.path, result.operations)
                    self._injected.append(workload._replace(pod=result.pod))
        if idle:
            self._say(f'{file}: nothing to do: no workload asks for a sidecar (label its pods {INJECT}: "true", or give --all)')

    def _result(self, where: str, workload: Workload) -> Result | None:
        """The pod with its sidecar; None when it is left as it is. Raises Impossible."""
        if problem := misshapen(workload.pod):
            raise Impossible(f"this is not a pod: {problem}")
        if workload.controller:
            self._say(f"{where}: left as it is: {workload.controller} has made it (inject into that)")
            return None
        result = inject(workload.pod, self._defaults, by=BY, version=__version__, live=False)
        if result.why in (Why.BAD_ANNOTATION, Why.CONFLICT):
            raise Impossible(result.reason)
        if not result.injected:
            self._say(f"{where}: left as it is: {result.reason}")
            return None
        for warning in (*result.warnings, *_endless(result.pod["spec"])):
            self._say(f"{where}: {warning}")
        if not result.operations:
            self._say(f"{where}: nothing to do: the sidecar is there")
        return result

    def rights(self, namespace: str) -> list[Json]:
        """Roles and RoleBindings that are not in the files yet, for all sidecars that follow a ConfigMap.

        `namespace` is that of manifests that say none. Raises NoRights.
        """
        readers = []
        for workload in self._injected:
            if not (configmap := mapping(workload.pod, "metadata", "annotations").get(CONFIGMAP)):
                continue
            if not (home := workload.namespace or namespace):
                raise NoRights(f"{workload.name} does not say its namespace (give --namespace NAME)")
            readers.append(Reader(home, workload.pod["spec"].get("serviceAccountName") or "default", configmap))
        if not readers:
            self._say("no rights are needed: no sidecar follows a ConfigMap")
        return [one for one in rights(readers) if not self._is_there(one)]

    def _is_there(self, right: Json) -> bool:
        """Whether the files have it already, from an earlier time. Raises NoRights when they have another of its name."""
        kind, name, home = right["kind"], right["metadata"]["name"], right["metadata"]["namespace"]
        for one in self._documents:
            metadata = mapping(one, "metadata")
            if metadata and one.get("kind") == kind and (metadata.get("name"), metadata.get("namespace")) == (name, home):
                if one != right:
                    raise NoRights(f"{kind} {home}/{name} is there already, and is another (take it out)")
                return True
        return False


def _wanted(pod: dict[str, Any], *, every: bool) -> bool:
    """By its label, else by its annotations, else by `every`. Impossible: a word that is not text."""
    labels, annotations = mapping(pod, "metadata", "labels"), mapping(pod, "metadata", "annotations")
    for kind, words, names in (("label", labels, (INJECT,)), ("annotation", annotations, ASKS)):
        for name in names:
            if not isinstance(words.get(name, ""), str):
                raise Impossible(f"{kind} {name} is not text (quote it)")
    word = labels.get(INJECT)
    return word == "true" if word in ("true", "false") else every or any(annotations.get(name) for name in ASKS)


def _misplaced(workload: Workload) -> Iterator[str]:
    """Words for the injection that stand where nothing reads them."""
    if workload.owner is workload.pod:
        return
    for kind in ("annotation", "label"):
        here, there = mapping(workload.owner, "metadata", f"{kind}s"), mapping(workload.pod, "metadata", f"{kind}s")
        for name in here:
            if name.startswith(PREFIX) and name not in there:
                yield f"{kind} {name} has no effect there (put it in {workload.template}.metadata.{kind}s)"


def _endless(spec: dict[str, Any]) -> Iterator[str]:
    """A pod that is to end waits for all its containers, unless they are native sidecars."""
    if spec.get("restartPolicy") in ("Never", "OnFailure") and any(one["name"] == CONTAINER for one in spec["containers"]):
        yield (
            "the sidecar is not native, so the pod does not complete when its application has ended"
            " (let the application send POST http://127.0.0.1:15020/quitquitquit as its last deed)"
        )
