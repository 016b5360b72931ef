"""Which cluster is used and with what credentials; when these are read again; and that no error shows them."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.certificates import Pair, authority, issue

from sidecar.kube.access import Cluster, Credentials, Kubeconfig, Pod, find
from sidecar.kube.api import KubeError

SECRET = "geheim"
IN_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def ca() -> Pair:
    return authority("ca")


@pytest.fixture
def pod(tmp_path: Path, ca: Pair) -> Path:
    folder = tmp_path / "pod"
    folder.mkdir()
    (folder / "token").write_text("first")
    (folder / "ca.crt").write_bytes(ca.pem)
    (folder / "namespace").write_text("shop\n")
    return folder


def config(name: str = "dev", **changes: Any) -> Json:
    """A kubeconfig; `changes` are fields of its cluster, user and context."""
    return {
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}.example:6443", **changes.get("cluster", {})}}],
        "users": [{"name": name, "user": changes.get("user", {"token": SECRET})}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, **changes.get("context", {})}}],
    }


def write(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def read(cluster: Cluster) -> Credentials:
    """Its credentials; the cluster is of no use afterwards."""

    async def once() -> Credentials:
        try:
            return await cluster.credentials()
        finally:
            cluster.close()

    return asyncio.run(once())


# Which


def test_a_pods_service_account_comes_before_the_users_kubeconfig(pod: Path, tmp_path: Path) -> None:
    write(tmp_path / ".kube/config", config())
    cluster = find(None, None, environ={**IN_POD, "HOME": str(tmp_path)}, pod=pod)

    assert read(cluster).authorization == "Bearer first"
    assert (cluster.server, cluster.namespace) == ("https://10.0.0.1:443", "shop")


@pytest.mark.parametrize("asked", ["kubeconfig", "context"])
def test_a_kubeconfig_that_was_asked_for_comes_before_all(pod: Path, tmp_path: Path, asked: str) -> None:
    path = write(tmp_path / ".kube/config", config(context={"namespace": "team"}))
    environ = {**IN_POD, "HOME": str(tmp_path)}
    cluster = find(path, None, environ=environ, pod=pod) if asked == "kubeconfig" else find(None, "dev", environ=environ, pod=pod)

    assert read(cluster).authorization == f"Bearer {SECRET}"
    assert (cluster.server, cluster.namespace) == ("https://dev.example:6443", "team")


def test_the_variable_comes_before_the_home_folder(tmp_path: Path) -> None:
    write(tmp_path / ".kube/config", config("home"))
    path = write(tmp_path / "other", config("other"))
    cluster = find(None, None, environ={"HOME": str(tmp_path), "KUBECONFIG": f"/missing:{path}"})
    read(cluster)

    assert cluster.server == "https://other.example:6443"


def test_a_pod_without_a_token_uses_a_kubeconfig_that_is_there(tmp_path: Path) -> None:
    write(tmp_path / ".kube/config", config())
    cluster = find(None, None, environ={**IN_POD, "HOME": str(tmp_path)}, pod=tmp_path)
    read(cluster)

    assert cluster.server == "https://dev.example:6443"


def test_without_any_the_error_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(KubeError, match="automountServiceAccountToken"):
        find(None, None, environ={**IN_POD, "HOME": str(tmp_path)}, pod=tmp_path)
    with pytest.raises(KubeError, match=f"no kubeconfig .{tmp_path}/.kube/config.; name one with --kubeconfig"):
        find(None, None, environ={"HOME": str(tmp_path)}, pod=tmp_path)
    with pytest.raises(KubeError, match="there is no such file"):
        find(tmp_path / "missing", None, environ={}, pod=tmp_path)
    with pytest.raises(KubeError, match="nope"):
        find(write(tmp_path / "config", config()), "nope", environ={}, pod=tmp_path)


@pytest.mark.parametrize(("host", "server"), [("fd00::1", "https://[fd00::1]:6443"), ("api.internal", "https://api.internal:6443")])
def test_an_ipv6_address_stands_in_brackets(pod: Path, host: str, server: str) -> None:
    cluster = find(None, None, environ={"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "6443"}, pod=pod)
    read(cluster)

    assert cluster.server == server


def test_a_server_behind_a_path_keeps_it(tmp_path: Path) -> None:
    cluster = find(write(tmp_path / "config", config(cluster={"server": "https://rancher.example/k8s/clusters/c-1/"})), None, environ={})
    read(cluster)

    assert cluster.server == "https://rancher.example/k8s/clusters/c-1"


# What cannot be used, and that it is not shown


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "not a kubeconfig"),
        ("[]", "not a kubeconfig"),
        ("a: b: c: geheim", "not YAML in line 1"),
        (f"users: [{{{SECRET}", "not YAML"),
        ({**config(), "contexts": []}, "dev"),
        ({**config(), "users": [{"name": "dev", "token": SECRET}]}, "Expected key user in .*an entry"),
        ({**config(), "users": [{"name": "else", "user": {"token": SECRET}}]}, "names the user 'dev', which is not there"),
        ({**config(), "clusters": [{"name": "dev", SECRET: SECRET}]}, "Expected key cluster"),
        (config(cluster={"server": f"https://me:{SECRET}@dev.example"}), "address must be https"),
        (config(cluster={"server": "ftp://dev.example"}), "address must be https"),
        (config(cluster={"proxy-url": f"socks5://me:{SECRET}@proxy"}), "proxy-url must be http"),
        (config(cluster={"certificate-authority-data": "!!"}), "not a kubeconfig|CA certificates"),
        (config(cluster={"certificate-authority-data": base64.b64encode(SECRET.encode()).decode()}), "CA certificates .* cannot be used"),
        (config(cluster={"certificate-authority": "/no/such/ca.crt"}), "/no/such/ca.crt"),
        (config(user={"client-certificate-data": "Z2Vo", "client-key-data": "Z2Vo"}), "client certificate or its key cannot be used"),
        (config(user={"client-certificate": "gone.crt", "client-key": "gone.key"}), "gone.crt"),
        (config(user={"tokenFile": "gone"}), "No such file"),
        (config(user={"token": f"{SECRET}\n{SECRET}"}), "not printable"),
        (config(user={"auth-provider": {"name": "oidc", "config": {"id-token": SECRET}}}), "auth-provider oidc is not supported"),
        (config(user={"exec": {"command": SECRET}}), "missing key 'apiVersion'"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_says_why_without_showing_what_is_in_it(tmp_path: Path, document: Any, said: str) -> None:
    path = write(tmp_path / "config", document)

    with pytest.raises(KubeError, match=said) as failed:
        read(find(path, None, environ={}))
    assert SECRET not in str(failed.value)
    assert failed.value.__cause__ is None


def test_a_key_that_needs_a_password_fails_and_does_not_ask_the_terminal(tmp_path: Path, ca: Pair) -> None:
    from cryptography.hazmat.primitives import serialization

    pair = issue(ca, "me", client=True)
    pair.write(tmp_path, "me")
    encryption = serialization.BestAvailableEncryption(b"password")
    (tmp_path / "me.key").write_bytes(pair.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    path = write(tmp_path / "config", config(user={"client-certificate": "me.crt", "client-key": "me.key"}))

    with pytest.raises(KubeError, match="client certificate or its key cannot be used"):
        read(find(path, None, environ={}))


def test_certificates_are_held_to_the_same_rules_by_every_python(pod: Path) -> None:
    context = read(find(None, None, environ=IN_POD, pod=pod)).tls.context

    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


# When they are read again


def follow(pod: Path, steps: Callable[[Cluster, Clock], Any]) -> None:
    async def scenario() -> None:
        clock = Clock()
        cluster = Cluster(Pod(IN_POD, pod), clock)
        try:
            await steps(cluster, clock)
        finally:
            cluster.close()

    asyncio.run(scenario())


def test_a_token_is_read_again_after_a_minute_and_not_before(pod: Path) -> None:
    async def steps(cluster: Cluster, clock: Clock) -> None:
        first = await cluster.credentials()
        (pod / "token").write_text("second")
        clock.now += 59
        assert await cluster.credentials() is first
        clock.now += 1
        second = await cluster.credentials()
        assert second.authorization == "Bearer second"
        assert second.tls is first.tls

    follow(pod, steps)


def test_an_authority_that_was_replaced_makes_a_new_context(pod: Path) -> None:
    async def steps(cluster: Cluster, clock: Clock) -> None:
        first = await cluster.credentials()
        (pod / "ca.crt").write_bytes(authority("new").pem)
        clock.now += 60
        assert (await cluster.credentials()).tls.context is not first.tls.context

    follow(pod, steps)


@pytest.mark.parametrize("broken", ["token", "ca.crt"])
@pytest.mark.parametrize("how", ["gone", "empty"])
def test_files_that_are_being_replaced_leave_the_last_credentials_in_use(pod: Path, broken: str, how: str) -> None:
    async def steps(cluster: Cluster, clock: Clock) -> None:
        first = await cluster.credentials()
        if how == "gone":
            (pod / broken).unlink()
        else:
            (pod / broken).write_text("")
        clock.now += 60
        assert await cluster.credentials() is first
        assert await cluster.renew(first) is None

    follow(pod, steps)


def test_refused_credentials_are_read_again_at_once_and_by_one_only(pod: Path) -> None:
    async def steps(cluster: Cluster, _: Clock) -> None:
        first = await cluster.credentials()
        assert await cluster.renew(first) is None
        (pod / "token").write_text("second")
        renewed = await asyncio.gather(*(cluster.renew(first) for _ in range(5)))
        assert {credentials.authorization for credentials in renewed if credentials} == {"Bearer second"}
        assert len({id(credentials) for credentials in renewed}) == 1

    follow(pod, steps)


def test_credentials_that_change_and_are_refused_each_time_are_tried_again_at_once_only_now_and_then(pod: Path) -> None:
    async def steps(cluster: Cluster, clock: Clock) -> None:
        tried = []
        for second in range(40):
            refused = await cluster.credentials()
            (pod / "token").write_text(f"token-{second}")
            clock.now += 1
            tried.append(await cluster.renew(refused) is not None)
            assert (await cluster.credentials()).authorization == f"Bearer token-{second}"
        assert tried.count(True) == 1  # of a refusal each second; one that comes after ten seconds of peace counts anew
        clock.now += 10
        refused = await cluster.credentials()
        (pod / "token").write_text("at last")
        assert await cluster.renew(refused) is not None

    follow(pod, steps)


def test_a_kubeconfig_is_read_again_when_it_was_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "config", config())

    async def scenario() -> None:
        cluster = Cluster(Kubeconfig(str(path), None))
        first = await cluster.credentials()
        write(path, config(user={"token": "new"}))
        second = await cluster.renew(first)
        assert second is not None
        assert second.authorization == "Bearer new"
        cluster.close()

    asyncio.run(scenario())
