"""The cluster's API: kubectl for what people use it for, and plain requests through `kubectl proxy` for what must be fast."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote

from kit.command import run

Json = dict[str, Any]
T = TypeVar("T")

PATHS = {
    "ConfigMap": "/api/v1/namespaces/{namespace}/configmaps",
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments",
    "Event": "/apis/events.k8s.io/v1/namespaces/{namespace}/events",
    "Job": "/apis/batch/v1/namespaces/{namespace}/jobs",
    "Lease": "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
    "MutatingWebhookConfiguration": "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
    "Namespace": "/api/v1/namespaces",
    "Node": "/api/v1/nodes",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "ReplicaSet": "/apis/apps/v1/namespaces/{namespace}/replicasets",
    "Secret": "/api/v1/namespaces/{namespace}/secrets",
}


class Answer(NamedTuple):
    """A response of the API server, or of a pod behind it."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    def json(self) -> Any:
        """The body; raises ValueError."""
        return json.loads(self.body)


class ApiError(Exception):
    """The API server refused; `status` is the HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class _Connection(http.client.HTTPConnection):
    """HTTP to a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


class Kube:
    """One cluster, as its administrator."""

    def __init__(self, program: str, kubeconfig: str) -> None:
        self._program = program
        self.environment = {"KUBECONFIG": kubeconfig} if kubeconfig else {}

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="outrider-e2e-")
        self._socket = Path(self._folder.name) / "api"  # a socket in a folder of our own: the proxy asks nobody for a password
        self._proxy = subprocess.Popen(
            [self._program, "proxy", f"--unix-socket={self._socket}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self.environment},
        )
        try:
            wait_for(lambda: self.request("GET", "/readyz").status == 200, "the API server answers", timeout=30, ignore=(OSError,))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.terminate()
        self._proxy.wait(10)
        self._folder.cleanup()

    # -- kubectl

    def kubectl(self, *arguments: str, stdin: str = "", timeout: float = 120) -> str:
        """What it prints. Raises CommandFailed."""
        return run([self._program, *arguments], stdin=stdin, timeout=timeout, environment=self.environment)

    def apply(self, *objects: Json, namespace: str = "") -> None:
        """`kubectl apply` of all of them at once."""
        where = ["--namespace", namespace] if namespace else []
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.kubectl("apply", *where, "--filename", "-", stdin=text)

    def execute(self, namespace: str, pod: str, container: str, *command: str, timeout: float = 60) -> str:
        """What a command prints in a container."""
        return self.kubectl("exec", "--namespace", namespace, pod, "--container", container, "--", *command, timeout=timeout)

    def logs(self, namespace: str, pod: str, container: str, *flags: str) -> str:
        """A container's log."""
        return self.kubectl("logs", "--namespace", namespace, pod, "--container", container, *flags)

    # -- requests

    def request(
        self, method: str, path: str, body: Json | bytes | None = None, *, kind: str = "application/json", timeout: float = 30
    ) -> Answer:
        """One request, whatever its answer. Raises OSError and http.client.HTTPException."""
        connection = _Connection(self._socket, timeout)
        try:
            payload = json.dumps(body).encode() if isinstance(body, dict) else body
            connection.request(method, path, payload, {"Content-Type": kind} if payload is not None else {})
            response = connection.getresponse()
            return Answer(response.status, response.read(), {name.lower(): value for name, value in response.getheaders()})
        finally:
            connection.close()

    def call(self, method: str, path: str, body: Json | None = None, **more: Any) -> Any:
        """The JSON of an answer. Raises ApiError."""
        answer = self.request(method, path, body, **more)
        if answer.status >= 300:
            raise ApiError(answer.status, answer.body.decode(errors="replace")[:2000])
        return answer.json()

    def path(self, kind: str, namespace: str = "", name: str = "") -> str:
        """Where objects of a kind are, or one of them."""
        return PATHS[kind].format(namespace=namespace) + (f"/{name}" if name else "")

    def get(self, kind: str, namespace: str, name: str) -> Json:
        """An object. Raises ApiError."""
        found: Json = self.call("GET", self.path(kind, namespace, name))
        return found

    def find(self, kind: str, namespace: str, name: str) -> Json | None:
        """An object, None where there is none."""
        try:
            return self.get(kind, namespace, name)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def all(self, kind: str, namespace: str = "", *, labels: str = "") -> list[Json]:
        """Objects of a kind."""
        found: Json = self.call("GET", self.path(kind, namespace) + (f"?labelSelector={quote(labels)}" if labels else ""))
        return list(found["items"])

    def create(self, kind: str, namespace: str, body: Json, *, dry_run: bool = False) -> Json:
        """Create it; with `dry_run` only see what would come of it. Raises ApiError."""
        made: Json = self.call("POST", self.path(kind, namespace) + ("?dryRun=All" if dry_run else ""), body)
        return made

    def patch(self, kind: str, namespace: str, name: str, body: Json) -> Json:
        """A merge patch."""
        patched: Json = self.call("PATCH", self.path(kind, namespace, name), body, kind="application/merge-patch+json")
        return patched

    def delete(self, kind: str, namespace: str, name: str, *, seconds: int | None = None) -> None:
        """Ask for its end; `seconds` is the grace period. What is not there is fine."""
        query = "" if seconds is None else f"&gracePeriodSeconds={seconds}"
        try:
            self.call("DELETE", self.path(kind, namespace, name) + "?propagationPolicy=Background" + query)
        except ApiError as error:
            if error.status not in {404, 409}:  # 409: a namespace that is ending already
                raise

    def from_pod(self, namespace: str, pod: str, port: int, path: str, *, timeout: float = 10) -> Answer:
        """What a pod's port answers, asked by the API server."""
        return self.request("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}", timeout=timeout)

    def from_service(self, namespace: str, service: str, port: int, path: str) -> Answer:
        """What a Service answers, asked by the API server."""
        return self.request("GET", f"/api/v1/namespaces/{namespace}/services/{service}:{port}/proxy{path}")

    # -- pods

    def pods(self, namespace: str, *, app: str) -> list[Json]:
        """The pods labelled app=..., without those that are on their way out."""
        return [one for one in self.all("Pod", namespace, labels=f"app={app}") if "deletionTimestamp" not in one["metadata"]]

    def wait_ready(self, namespace: str, name: str, *, timeout: float = 120) -> Json:
        """A pod that is Ready."""
        return wait_for(lambda: _if_ready(self.find("Pod", namespace, name)), f"pod {name} is ready", timeout=timeout)

    def wait_pods(self, namespace: str, *, app: str, count: int, timeout: float = 120) -> list[Json]:
        """The pods of an application once there are `count` and all are ready."""

        def ready() -> list[Json] | None:
            found = self.pods(namespace, app=app)
            return found if len(found) == count and all(map(is_ready, found)) else None

        return wait_for(ready, f"{count} ready pods of {app}", timeout=timeout)


def is_ready(pod: Json) -> bool:
    """The pod's condition Ready."""
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod.get("status", {}).get("conditions", ()))


def _if_ready(pod: Json | None) -> Json | None:
    return pod if pod and is_ready(pod) else None


def container_status(pod: Json, name: str) -> Json:
    """The status of one container, native sidecars too; {} while there is none."""
    statuses: Sequence[Json] = [*pod["status"].get("initContainerStatuses", ()), *pod["status"].get("containerStatuses", ())]
    return next((one for one in statuses if one["name"] == name), {})


def containers(pod: Json) -> Iterator[Json]:
    """All containers of a pod, init containers first."""
    yield from pod["spec"].get("initContainers", ())
    yield from pod["spec"]["containers"]


def wait_for(
    look: Callable[[], T | None], what: str, *, timeout: float = 60, every: float = 0.25, ignore: tuple[type[Exception], ...] = ()
) -> T:
    """The first true answer of `look`. Raises AssertionError when time is up."""
    deadline = time.monotonic() + timeout
    last: object = None
    while True:
        try:
            last = look()
        except ignore as error:
            last = error
        else:
            if last:
                return last
        if time.monotonic() > deadline:
            raise AssertionError(f"not after {timeout:g} s: {what} (last look: {last!r:.2000})")
        time.sleep(every)
