"""A real kube-apiserver and its etcd, without nodes, on free loopback ports: `with ApiServer() as server:`, ready in 1.5 s.

There are no controllers: no `default` ServiceAccount, no EndpointSlices made from Services, a deleted namespace stays.
Tests take one of the fixtures of tests/kube/conftest.py: `api_server` is shared (a `namespace` of one's own), and
`own_api_server` may be stopped, restarted and compacted.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from support.certificates import Pair, authority, issue, key_pem, new_key
from support.kube_admin import Admin
from support.ports import free_ports
from support.programs import need_program

HOSTS = ("localhost", "127.0.0.1", "kubernetes.default.svc", "10.0.0.1")
STOP = 10.0
"""Seconds that a process may take to end before it is killed."""
START = 60.0
AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "rules": [{"level": "None", "users": ["system:apiserver"]}, {"level": "Metadata"}],
}
WATCH_FROM_ETCD = ("--watch-cache=false",)
"""Flags with which `compact` makes a watch of the past answer 410 at once."""


class Request(NamedTuple):
    """One request that the API server has seen, from its audit log."""

    user: str
    """`system:serviceaccount:NAMESPACE:NAME`, or a certificate's common name; "" when it was refused with 401."""
    verb: str
    uri: str
    agent: str
    code: int | None
    """The status; None while the answer has not begun."""
    at: str
    """When it came, RFC 3339 with microseconds."""


class ApiServer:
    """Both processes, their certificates, and an administrator. `flags` are more flags of kube-apiserver."""

    def __init__(self, flags: Sequence[str] = ()) -> None:
        self._programs = {name: need_program(name) for name in ("etcd", "kube-apiserver")}
        self._flags = list(flags)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="outrider-apiserver-"))
        self.port, self._etcd_port, self._peer_port = free_ports(3)
        self.url = f"https://127.0.0.1:{self.port}"
        self._etcd_url = f"http://127.0.0.1:{self._etcd_port}"
        self.admin = Admin("127.0.0.1", self.port, self._admin_context)
        try:
            self._write_files()
            self._start_etcd()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(reversed(self._running)):
            self._end(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    # Life of the API server

    def start(self) -> None:
        """Start kube-apiserver (again: same port, same data) and wait until it is ready."""
        folder = self.folder
        self._run(
            "kube-apiserver",
            f"--etcd-servers={self._etcd_url}",
            f"--cert-dir={folder}",
            f"--tls-cert-file={folder}/apiserver.crt",
            f"--tls-private-key-file={folder}/apiserver.key",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--allow-privileged=true",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            f"--client-ca-file={folder}/client-ca.crt",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder}/tokens.key",
            f"--service-account-signing-key-file={folder}/tokens.key",
            f"--audit-policy-file={folder}/audit-policy.json",
            f"--audit-log-path={folder}/audit.log",
            "--audit-log-mode=blocking",
            *self._flags,
        )
        self._wait("kube-apiserver", self.url + "/readyz")

    def stop(self) -> None:
        """End kube-apiserver: connections are refused until `start`."""
        self._end("kube-apiserver")

    def kill(self) -> None:
        """End it without a goodbye: connections are reset."""
        self._running["kube-apiserver"].kill()
        self._end("kube-apiserver")

    def pause(self) -> None:
        """Freeze it: connections stay, nothing is answered until `resume`."""
        self._running["kube-apiserver"].send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on."""
        self._running["kube-apiserver"].send_signal(signal.SIGCONT)

    def renew_authority(self) -> None:
        """A new CA for the serving certificate, from the next `start` on. Clients' certificates and tokens stay valid."""
        self._ca = authority("outrider-tests-serving")
        self._ca.write(self.folder, "ca")
        issue(self._ca, "apiserver", hosts=HOSTS).write(self.folder, "apiserver")

    def compact(self) -> None:
        """Forget all history: a watch from an older resourceVersion is expired (410). See WATCH_FROM_ETCD."""
        key = encoded(b"outrider-tests")
        writes = [
            self._etcd("/v3/kv/put", {"key": key, "value": key}) for _ in range(2)
        ]  # the newest revision stays readable: let it be nobody's
        self._etcd("/v3/kv/compaction", {"revision": writes[-1]["header"]["revision"], "physical": True})

    # Credentials

    @property
    def ca(self) -> Path:
        """The file of the CA that signed the serving certificate."""
        return self.folder / "ca.crt"

    def client_certificate(self, user: str, group: str = "") -> Pair:
        """A client's certificate; the group `system:masters` may do everything."""
        return issue(self._client_ca, user, organization=group, client=True)

    def by_token(self, token: str) -> Admin:
        """Requests as the owner of a token, with the rights that it has."""
        return Admin("127.0.0.1", self.port, lambda: ssl.create_default_context(cafile=str(self.ca)), token)

    def kubeconfig(self, path: Path, *, user: dict[str, Any] | None = None, namespace: str = "default", **cluster: Any) -> Path:
        """Write a kubeconfig with the context `test`; `user` is its credentials, the administrator's certificate by default.

        `cluster` are fields of the cluster, with `_` for `-`; None leaves one out.
        """
        admin = {"client-certificate-data": encoded(self._admin.pem), "client-key-data": encoded(self._admin.key_pem)}
        fields: dict[str, Any] = {"server": self.url, "certificate-authority-data": encoded(self._ca.pem)}
        fields |= {name.replace("_", "-"): value for name, value in cluster.items()}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {name: value for name, value in fields.items() if value is not None}}],
            "users": [{"name": "test", "user": admin if user is None else user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        }
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")  # JSON is YAML
        path.chmod(0o600)
        return path

    def service_account_folder(self, folder: Path, *, token: str, namespace: str) -> Path:
        """Write what a pod finds at /var/run/secrets/kubernetes.io/serviceaccount."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "token").write_text(token, encoding="utf-8")
        (folder / "namespace").write_text(namespace, encoding="utf-8")
        shutil.copy(self.ca, folder / "ca.crt")
        return folder

    # What it has seen

    def requests(self, keep: Callable[[Request], bool] = lambda _: True, *, account: str = "") -> list[Request]:
        """The requests so far, in order of arrival; `account` NAMESPACE:NAME: only those of this ServiceAccount."""
        found: dict[str, Request] = {}
        log = self.folder / "audit.log"
        for line in log.read_bytes().split(b"\n")[:-1] if log.exists() else ():
            entry = json.loads(line)
            found[entry["auditID"]] = Request(
                entry["user"].get("username", ""),
                entry["verb"],
                entry["requestURI"],
                entry.get("userAgent", ""),
                entry.get("responseStatus", {}).get("code"),
                entry["requestReceivedTimestamp"],
            )
        user = f"system:serviceaccount:{account}"
        return [request for request in found.values() if (not account or request.user == user) and keep(request)]

    def log_tail(self, name: str = "kube-apiserver") -> str:
        """The end of a process's log."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-2000:]

    def _admin_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.folder / "admin.crt", self.folder / "admin.key")
        return context

    def _write_files(self) -> None:
        self.renew_authority()
        self._client_ca = authority("outrider-tests-clients")
        self._client_ca.write(self.folder, "client-ca")
        self._admin = self.client_certificate("admin", "system:masters")
        self._admin.write(self.folder, "admin")
        (self.folder / "tokens.key").write_bytes(key_pem(new_key()))
        (self.folder / "audit-policy.json").write_text(json.dumps(AUDIT), encoding="utf-8")

    def _start_etcd(self) -> None:
        self._run(
            "etcd",
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls=http://127.0.0.1:{self._peer_port}",
            "--unsafe-no-fsync=true",
        )
        self._wait("etcd", self._etcd_url + "/health")

    def _etcd(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(self._etcd_url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def _run(self, name: str, *flags: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            plain = {key: value for key, value in os.environ.items() if not key.startswith("ETCD_")}
            self._running[name] = subprocess.Popen(
                [self._programs[name], *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=plain
            )

    def _end(self, name: str) -> None:
        process = self._running.pop(name)
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait(self, name: str, url: str) -> None:
        context = ssl._create_unverified_context() if url.startswith("https") else None
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and self._running[name].poll() is None:
            try:
                with urllib.request.urlopen(url, context=context, timeout=2) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"{name} is not ready: {self.log_tail(name)}")


def encoded(content: bytes) -> str:
    """Base64, as `...-data` fields have it."""
    return base64.b64encode(content).decode()
