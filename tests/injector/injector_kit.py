"""Pods, reviews, and injectors of this process in front of a real API server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import jsonpatch
from support.apiserver import ApiServer

from sidecar.injector.authority import SETTLE_SECONDS
from sidecar.injector.certificates import Lifetimes
from sidecar.injector.server import Injector, Options
from sidecar.server.sockets import SocketAddress

Json = dict[str, Any]
ANY = SocketAddress("127.0.0.1", 0)
DEFAULTS = "image: registry.example/outrider:1\nlogLevel: debug\n"
APP_PORT = {"outrider.dev/app-port": "8000"}
HOME = "outrider-system"


def pod(annotations: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None, **fields: Any) -> Json:
    """A pod as an author writes it; `metadata` is added to, other fields are of its spec."""
    metadata = {"name": "app", **fields.pop("metadata", {})}
    if annotations is not None:
        metadata["annotations"] = dict(annotations)
    if labels is not None:
        metadata["labels"] = dict(labels)
    spec = {"containers": [{"name": "app", "image": "registry.example/app:1"}], **fields}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def question(what: Json, **fields: Any) -> Json:
    """The AdmissionReview of a new pod, as an API server asks; `fields` replace those of the request."""
    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "shop",
        "operation": "CREATE",
        "userInfo": {"username": "someone"},
        "object": what,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        **fields,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def body(what: Json, **fields: Any) -> bytes:
    """The same, as bytes."""
    return json.dumps(question(what, **fields)).encode()


def patched(what: Json, answer: bytes) -> Json:
    """What an API server makes of an answer: its patch applied by a library that is not ours."""
    response = json.loads(answer)["response"]
    assert response["allowed"] is True
    if "patch" not in response:
        return what
    assert response["patchType"] == "JSONPatch"
    made: Json = jsonpatch.apply_patch(what, json.loads(base64.b64decode(response["patch"])))
    return made


def warnings(answer: bytes) -> list[str]:
    """The answer's."""
    found: list[str] = json.loads(answer)["response"].get("warnings", [])
    return found


def options(folder: Path, *, namespace: str, webhooks: str = "unused", kubeconfig: Path | None = None, **fields: Any) -> Options:
    """The flags of an injector on loopback; its defaults are written into `folder`."""
    defaults = folder / "defaults.yaml"
    if not defaults.exists():
        defaults.write_text(DEFAULTS)
    given: Json = {
        "listen_address": ANY,
        "status_address": ANY,
        "defaults": defaults,
        "namespace": namespace,
        "service_name": "outrider-injector",
        "secret_name": "outrider-injector-ca",
        "webhook_name": webhooks,
        "certificate_dir": None,
        "drain_delay": 0.0,
        "kubeconfig": kubeconfig,
    }
    return Options(**{**given, **fields})


@contextlib.asynccontextmanager
async def injector(chosen: Options, *, lifetimes: Lifetimes | None = None, settle: float = SETTLE_SECONDS) -> AsyncIterator[Injector]:
    """An injector that runs beside the test."""
    made = Injector(chosen, lifetimes=lifetimes or Lifetimes(), settle=settle)
    task = asyncio.ensure_future(made.run())
    try:
        yield made
    finally:
        made.stop(hurry=True)
        made.exit_code = await task  # type: ignore[attr-defined]
        await made.aclose()


async def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something is so; AssertionError when it does not come about."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.02)


class Webhooks:
    """The webhook configurations of one test, for its namespace only: they send reviews to 127.0.0.1:`port`."""

    def __init__(self, server: ApiServer, namespace: str, port: int, *, failure_policy: str = "Fail") -> None:
        self.name = f"outrider-{namespace}"
        self._admin = server.admin
        self._namespace = namespace
        self._port = port
        self._policy = failure_policy

    def __enter__(self) -> Self:
        here = {"kubernetes.io/metadata.name": self._namespace}
        pods = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "scope": "Namespaced"}
        maps = {**pods, "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}
        enabled = {"key": "outrider.dev/inject", "operator": "In", "values": ["enabled"]}
        not_enabled = {**enabled, "operator": "NotIn"}
        asked = {"matchLabels": {"outrider.dev/inject": "true"}}
        namespaced = [
            self._webhook("namespace", "/inject/namespace", pods, {"matchLabels": here, "matchExpressions": [enabled]}, {}),
            self._webhook("pod", "/inject/pod", pods, {"matchLabels": here, "matchExpressions": [not_enabled]}, asked),
        ]
        for one in namespaced:
            one["reinvocationPolicy"] = "IfNeeded"
        self._admin.create("MutatingWebhookConfiguration", "", self.name, webhooks=namespaced)
        configs = {"matchLabels": {"outrider.dev/config": "true"}}
        validating = [self._webhook("validate", "/validate", maps, {"matchLabels": here}, configs)]
        self._admin.create("ValidatingWebhookConfiguration", "", self.name, webhooks=validating)
        return self

    def __exit__(self, *_: object) -> None:
        for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
            self._admin.delete(kind, "", self.name)

    def _webhook(self, name: str, path: str, rule: Json, namespaces: Json, objects: Json) -> Json:
        return {
            "name": f"{name}.outrider.dev",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "NoneOnDryRun",
            "failurePolicy": self._policy,
            "timeoutSeconds": 5,
            "rules": [rule],
            "namespaceSelector": namespaces,
            "objectSelector": objects,
            "clientConfig": {"url": f"https://127.0.0.1:{self._port}{path}"},
        }

    def bundles(self) -> Iterator[bytes]:
        """The caBundle of each webhook, PEM."""
        for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
            for webhook in self._admin.get(kind, "", self.name)["webhooks"]:
                yield base64.b64decode(webhook["clientConfig"].get("caBundle", ""))

    def clobber(self, bundle: str) -> None:
        """Somebody else writes the caBundle of the mutating webhooks."""
        found = self._admin.get("MutatingWebhookConfiguration", "", self.name)
        for webhook in found["webhooks"]:
            webhook["clientConfig"]["caBundle"] = bundle
        self._admin.request("PUT", f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{self.name}", found)


def ours(found: Json) -> Json | None:
    """The sidecar among a pod's containers, if it is there."""
    spec = found["spec"]
    there = [one for one in [*spec.get("initContainers", []), *spec["containers"]] if one["name"] == "outrider"]
    return there[0] if there else None
