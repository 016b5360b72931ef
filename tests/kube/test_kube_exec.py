"""Exec plug-ins of kubeconfigs: real programs, whose credentials a real API server accepts."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest
import uvloop
from support.apiserver import ApiServer
from support.kube_admin import Json
from support.kube_client import client_of, whoami

from sidecar.kube.api import KubeError
from sidecar.kube.client import LeanClient
from sidecar.kube.objects import CONFIG_MAPS, Selection

READ = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}


@pytest.fixture
def token(api_server: ApiServer, namespace: str) -> str:
    """Of a ServiceAccount that may read ConfigMaps."""
    api_server.admin.service_account(namespace, "pod", [READ])
    return api_server.admin.token(namespace, "pod")


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


class Plugin:
    """An exec plug-in that counts how often it runs."""

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "runs"
        self.runs.touch()
        self.program = folder / "plug-in"

    def says(self, status: Json, *, then: str = "") -> Json:
        """Print this status (and do `then`); the user of a kubeconfig that runs it."""
        said = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
        return self.does(f"cat <<'EOF'\n{json.dumps(said)}\nEOF\n{then}")

    def does(self, script: str) -> Json:
        """Run this script; the user."""
        self.program.write_text(f'#!/bin/sh\necho "$KUBERNETES_EXEC_INFO $MORE" >> {self.runs}\n{script}\n')
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)
        command = {"command": str(self.program), "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never"}
        return {"exec": {**command, "env": [{"name": "MORE", "value": "of-it"}]}}

    @property
    def ran(self) -> list[str]:
        return self.runs.read_text().splitlines()


def test_a_plug_in_gives_a_token_and_runs_again_only_when_that_is_refused(
    api_server: ApiServer, token: str, namespace: str, tmp_path: Path, plugin: Plugin
) -> None:
    async def scenario() -> None:
        path = api_server.kubeconfig(tmp_path / "config", user=plugin.says({"token": token}))
        async with client_of(path) as client:
            await client.list(Selection(CONFIG_MAPS, namespace))
            client._cluster._read_at -= 60  # a minute later
            await client.list(Selection(CONFIG_MAPS, namespace))
            assert len(plugin.ran) == 1
            await use_another_token(client, "not-a-token-of-this-cluster")
            await client.list(Selection(CONFIG_MAPS, namespace))
            assert len(plugin.ran) == 2

    uvloop.run(scenario())
    assert '"apiVersion": "client.authentication.k8s.io/v1"' in plugin.ran[0]
    assert plugin.ran[0].endswith(" of-it")


def test_a_program_with_a_relative_path_is_looked_for_beside_the_kubeconfig(
    api_server: ApiServer, token: str, namespace: str, tmp_path: Path, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = plugin.says({"token": token})
    user["exec"]["command"] = "./" + plugin.program.name
    api_server.kubeconfig(tmp_path / "config", user=user)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    async def scenario() -> None:
        async with client_of(Path("../config")) as client:
            await client.list(Selection(CONFIG_MAPS, namespace))

    uvloop.run(scenario())
    assert len(plugin.ran) == 1


async def use_another_token(client: LeanClient, token: str) -> None:
    credentials = await client._cluster.credentials()
    client._cluster._credentials = credentials._replace(authorization=f"Bearer {token}")


def test_a_token_that_is_about_to_expire_is_asked_for_again(
    api_server: ApiServer, token: str, namespace: str, tmp_path: Path, plugin: Plugin
) -> None:
    async def scenario() -> None:
        status = {"token": token, "expirationTimestamp": "2020-01-01T00:00:00Z"}
        async with client_of(api_server.kubeconfig(tmp_path / "config", user=plugin.says(status))) as client:
            await client.list(Selection(CONFIG_MAPS, namespace))
            await client.list(Selection(CONFIG_MAPS, namespace))
            assert len(plugin.ran) == 1  # looked at once a minute
            client._cluster._read_at -= 60
            await client.list(Selection(CONFIG_MAPS, namespace))
            assert len(plugin.ran) == 2

    uvloop.run(scenario())


def test_a_plug_in_gives_a_certificate(api_server: ApiServer, namespace: str, tmp_path: Path, plugin: Plugin) -> None:
    pair = api_server.client_certificate("from-plug-in", "system:masters")
    user = plugin.says({"clientCertificateData": pair.pem.decode(), "clientKeyData": pair.key_pem.decode()})

    assert whoami(api_server, api_server.kubeconfig(tmp_path / "config", user=user), namespace) == "from-plug-in"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo no credentials today >&2; exit 3", "ended with code 3: no credentials today"),
        ("exit 1", "ended with code 1: no message"),
        ("echo secret-in-words", "has not printed an ExecCredential"),
        ('echo \'{"apiVersion": "v9", "status": {"token": "secret"}}\'', "answers as v9"),
        ('echo \'{"apiVersion": "client.authentication.k8s.io/v1", "status": {}}\'', "neither a token nor a certificate"),
    ],
)
def test_a_plug_in_that_fails_is_named_with_its_reason(
    api_server: ApiServer, namespace: str, tmp_path: Path, plugin: Plugin, script: str, said: str
) -> None:
    path = api_server.kubeconfig(tmp_path / "config", user=plugin.does(script))

    with pytest.raises(KubeError, match=said) as failed:
        whoami(api_server, path, namespace)
    assert str(plugin.program) in str(failed.value)
    assert "secret" not in str(failed.value)


def test_a_plug_in_that_is_not_there_is_named(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    user = {"exec": {"command": "/no/such/plug-in", "apiVersion": "client.authentication.k8s.io/v1"}}

    with pytest.raises(KubeError, match="/no/such/plug-in cannot be started: No such file"):
        whoami(api_server, api_server.kubeconfig(tmp_path / "config", user=user), namespace)


def test_arguments_and_variables_may_be_numbers(api_server: ApiServer, token: str, namespace: str, tmp_path: Path, plugin: Plugin) -> None:
    user = plugin.says({"token": token})
    user["exec"] |= {"args": [7], "env": [{"name": "MORE", "value": 8}]}

    assert whoami(api_server, api_server.kubeconfig(tmp_path / "config", user=user), namespace).endswith(":pod")
    assert plugin.ran[0].endswith(" 8")


@pytest.mark.parametrize(
    "script", ["exec sleep 600", "sleep 600; true", "setsid sleep 3"], ids=["itself", "its child", "all but a fugitive"]
)
def test_a_plug_in_that_hangs_is_ended_with_what_it_has_started(
    api_server: ApiServer, namespace: str, tmp_path: Path, plugin: Plugin, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr("sidecar.kube.exec_plugin.SECONDS", 0.5)
    path = api_server.kubeconfig(tmp_path / "config", user=plugin.does(script))

    with pytest.raises(KubeError, match="has not answered within"):
        whoami(api_server, path, namespace)


@pytest.mark.parametrize("moment", ["starts", "runs"])
def test_a_request_that_is_cancelled_leaves_no_plug_in_behind(
    moment: str, api_server: ApiServer, namespace: str, tmp_path: Path, plugin: Plugin
) -> None:
    async def scenario() -> None:
        async with client_of(api_server.kubeconfig(tmp_path / "config", user=plugin.does("exec sleep 600"))) as client:
            request = asyncio.create_task(client.list(Selection(CONFIG_MAPS, namespace)))
            while moment == "runs" and not plugin.ran:
                await asyncio.sleep(0.01)
            for _ in range(0 if moment == "runs" else 3):
                await asyncio.sleep(0)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request

    uvloop.run(scenario())


def test_what_a_plug_in_prints_after_all_does_not_fill_the_memory(
    api_server: ApiServer, namespace: str, tmp_path: Path, plugin: Plugin
) -> None:
    path = api_server.kubeconfig(tmp_path / "config", user=plugin.does("head -c 30000000 /dev/zero; exit 4"))

    with pytest.raises(KubeError, match="ended with code 4"):
        whoami(api_server, path, namespace)
