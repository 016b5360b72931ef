"""A cluster's administrator (or somebody else) for tests: creates and changes objects over plain HTTPS, one connection per request.

Calls block for a few milliseconds; no connection outlives its call, so a test has nothing to close.
"""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Json = dict[str, Any]
Rule = dict[str, list[str]]
"""A rule of a Role: apiGroups, resources, verbs, resourceNames."""

GROUPS = {
    "admissionregistration.k8s.io/v1": ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"),
    "apps/v1": ("Deployment", "ReplicaSet"),
    "batch/v1": ("Job",),
    "discovery.k8s.io/v1": ("EndpointSlice",),
    "events.k8s.io/v1": ("Event",),
    "rbac.authorization.k8s.io/v1": ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"),
    "v1": ("ConfigMap", "Namespace", "Node", "Pod", "Secret", "Service", "ServiceAccount"),
}
VERSION_OF = {kind: version for version, kinds in GROUPS.items() for kind in kinds}


class Refused(Exception):
    """The API server said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Admin:
    """Who it is, is said by the client certificate that `context` has, or by `token`."""

    def __init__(self, host: str, port: int, context: Callable[[], ssl.SSLContext], token: str = "") -> None:
        self._host = host
        self._port = port
        self._context = context
        self._credentials = {"Authorization": f"Bearer {token}"} if token else {}

    def request(self, method: str, path: str, body: Json | None = None, content_type: str = "application/json") -> Json:
        """The answer's JSON; Refused for a status of 400 and more."""
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=20, context=self._context())
        try:
            headers = {"Content-Type": content_type, "Connection": "close", **self._credentials}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        try:
            document: Json = json.loads(text)
        except ValueError:
            document = {"message": text.decode(errors="replace")}
        if answer.status >= 400:
            raise Refused(answer.status, str(document.get("message")))
        return document

    def create(self, kind: str, namespace: str, name: str, **fields: Any) -> Json:
        """Create an object; `fields` are its top-level ones (`data=...`), `metadata` is added to the name."""
        return self.request("POST", path_of(kind, namespace), self._object(kind, name, fields))

    def apply(self, kind: str, namespace: str, name: str, **fields: Any) -> Json:
        """Create an object, or change it to be this (server-side apply)."""
        path = path_of(kind, namespace, name) + "?fieldManager=tests&force=true"
        return self.request("PATCH", path, self._object(kind, name, fields), "application/apply-patch+yaml")

    def patch(self, kind: str, namespace: str, name: str, body: Json) -> Json:
        """A JSON merge patch."""
        return self.request("PATCH", path_of(kind, namespace, name), body, "application/merge-patch+json")

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object at once."""
        self.request("DELETE", path_of(kind, namespace, name) + "?gracePeriodSeconds=0")

    def get(self, kind: str, namespace: str, name: str) -> Json:
        """One object."""
        return self.request("GET", path_of(kind, namespace, name))

    def list(self, kind: str, namespace: str) -> list[Json]:
        """All objects of a kind."""
        items: list[Json] = self.request("GET", path_of(kind, namespace))["items"]
        return items

    def namespace(self, name: str, labels: Mapping[str, str] | None = None) -> str:
        """Create a namespace; its name."""
        self.create("Namespace", "", name, metadata={"labels": dict(labels or {})})
        return name

    def service_account(self, namespace: str, name: str, rules: Sequence[Rule] = ()) -> None:
        """Create a ServiceAccount and allow it exactly these rules."""
        self.create("ServiceAccount", namespace, name)
        self.allow(namespace, name, rules)

    def allow(self, namespace: str, account: str, rules: Sequence[Rule]) -> None:
        """Make these the account's only rights in the namespace (a Role and RoleBinding of its name). The authorizer sees it soon after."""
        self.apply("Role", namespace, account, rules=list(rules))
        self.apply(
            "RoleBinding",
            namespace,
            account,
            roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
            subjects=[{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        )

    def token(self, namespace: str, account: str, *, secret: str = "", seconds: int = 3600) -> str:
        """A token of the ServiceAccount. Bound to `secret`, it is refused within 10 s of the Secret's deletion."""
        spec: Json = {"expirationSeconds": seconds}
        if secret:
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Secret", "name": secret}
        path = path_of("ServiceAccount", namespace, account) + "/token"
        said = self.request("POST", path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
        token: str = said["status"]["token"]
        return token

    @staticmethod
    def _object(kind: str, name: str, fields: Json) -> Json:
        metadata = {**fields.pop("metadata", {}), "name": name}
        return {"apiVersion": VERSION_OF[kind], "kind": kind, "metadata": metadata, **fields}


def path_of(kind: str, namespace: str, name: str = "") -> str:
    """The path of an object, or without a name of its collection; namespace "" for kinds that have none."""
    version = VERSION_OF[kind]
    parts = ["/api" if "/" not in version else "/apis", version]
    if namespace:
        parts += ["namespaces", namespace]
    parts.append(kind.lower() + "s")
    if name:
        parts.append(urllib.parse.quote(name))
    return "/".join(parts)
