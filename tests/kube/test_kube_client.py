"""The client against a real API server: verbs, refusals, and every way to show who we are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import uvloop
from support.apiserver import ApiServer
from support.certificates import authority
from support.kube_admin import Json
from support.kube_client import client_in_pod, client_of, whoami
from support.ports import free_port

from sidecar.kube.api import ApiError, Unreachable
from sidecar.kube.client import connect
from sidecar.kube.objects import CONFIG_MAPS, OPENED, Selection

READ = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "watch"]}
BAD_TOKEN = "not-a-token-of-this-cluster"


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await scenario

    uvloop.run(limited())


def maps(namespace: str) -> Selection:
    return Selection(CONFIG_MAPS, namespace)


@pytest.fixture
def pod(api_server: ApiServer, namespace: str, tmp_path: Path) -> Path:
    """The files of a ServiceAccount `pod` that may read ConfigMaps."""
    api_server.admin.service_account(namespace, "pod", [READ])
    return api_server.service_account_folder(tmp_path / "pod", token=api_server.admin.token(namespace, "pod"), namespace=namespace)


# Verbs


def test_objects_are_listed_watched_created_and_patched(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with client_of(api_server.kubeconfig(tmp_path / "config", namespace=namespace)) as client:
            stored = await client.create(CONFIG_MAPS, namespace, {"metadata": {"name": "one"}, "data": {"a": "1"}})
            listed = await client.list(maps(namespace))
            async with aclosing(client.watch(maps(namespace), resource_version=listed.resource_version, timeout_seconds=30)) as watch:
                opened = await anext(watch)
                changed = await client.patch(CONFIG_MAPS, namespace, "one", {"data": {"a": None, "b": "2"}})
                seen = await anext(watch)

        assert client.namespace == namespace
        assert [item["data"] for item in listed.items] == [stored["data"]] == [{"a": "1"}]
        assert opened is OPENED
        assert (seen.type, seen.object["data"]) == ("MODIFIED", {"b": "2"}) == ("MODIFIED", changed["data"])

    run(scenario())


def test_a_watch_ends_plainly_when_its_time_is_over(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with client_of(api_server.kubeconfig(tmp_path / "config")) as client:
            listed = await client.list(maps(namespace), resource_version="0")
            watch = client.watch(maps(namespace), resource_version=listed.resource_version, timeout_seconds=1)
            assert {event.type async for event in watch} <= {"OPENED", "BOOKMARK"}

    run(scenario())


def test_many_watches_do_not_hold_up_other_requests(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with client_of(api_server.kubeconfig(tmp_path / "config")) as client, contextlib.AsyncExitStack() as watches:
            version = (await client.list(maps(namespace))).resource_version
            for _ in range(12):
                watch = client.watch(maps(namespace), resource_version=version, timeout_seconds=60)
                await watches.enter_async_context(aclosing(watch))
                assert await anext(watch) is OPENED
            await asyncio.gather(*(client.list(maps(namespace)) for _ in range(12)))

    run(scenario())


def test_a_refusal_has_the_status_the_reason_and_the_servers_words(api_server: ApiServer, pod: Path, namespace: str) -> None:
    async def scenario() -> None:
        async with client_in_pod(api_server, pod) as client:
            with pytest.raises(ApiError) as refused:
                await client.create(CONFIG_MAPS, namespace, {"metadata": {"name": "one"}})
            with pytest.raises(ApiError) as conflict:
                await client.list(maps(namespace), resource_version="not-a-version")

        assert (refused.value.status, refused.value.reason) == (403, "Forbidden")
        user = f'User "system:serviceaccount:{namespace}:pod"'
        assert f'{user} cannot create resource "configmaps" in API group "" in the namespace "{namespace}"' in str(refused.value)
        assert conflict.value.status == 400

    run(scenario())


def test_a_name_cannot_lead_to_another_path(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with client_of(api_server.kubeconfig(tmp_path / "config")) as client:
            for name in ("..", "../../pods", "x?watch=1", "x%2f..", "a b"):
                with pytest.raises(ApiError):
                    await client.patch(CONFIG_MAPS, namespace, name, {"metadata": {"name": "x"}})
        assert not api_server.admin.list("ConfigMap", namespace)

    run(scenario())


def test_the_api_servers_log_says_who_we_are(api_server: ApiServer, pod: Path, namespace: str) -> None:
    async def scenario() -> None:
        async with client_in_pod(api_server, pod) as client:
            await client.list(maps(namespace))

    run(scenario())
    assert [request.agent.partition("/")[0] for request in api_server.requests(account=f"{namespace}:pod")] == ["outrider"]


# A pod's ServiceAccount


def test_the_pods_namespace_is_the_default(api_server: ApiServer, pod: Path, namespace: str) -> None:
    async def scenario() -> None:
        async with client_in_pod(api_server, pod) as client:
            assert client.namespace == namespace

    run(scenario())


def test_a_token_that_was_replaced_is_read_again_after_a_401_and_the_request_succeeds(
    api_server: ApiServer, pod: Path, namespace: str
) -> None:
    async def scenario() -> None:
        good = (pod / "token").read_text()
        (pod / "token").write_text(BAD_TOKEN)
        async with client_in_pod(api_server, pod) as client:
            with pytest.raises(ApiError) as refused:
                await client.list(maps(namespace))
            (pod / "token").write_text(good + "\n")
            await client.list(maps(namespace))
            await client.list(maps(namespace))

        assert refused.value.status == 401
        assert BAD_TOKEN not in str(refused.value)

    run(scenario())
    codes = [
        request.code
        for request in api_server.requests(lambda request: f"/{namespace}/configmaps" in request.uri and request.verb != "create")
    ]
    assert codes == [401, 401, 200, 200]  # refused once without another token to try, once more, and tried again with the new one


def test_a_watch_is_opened_with_the_new_token_as_well(api_server: ApiServer, pod: Path, namespace: str) -> None:
    async def scenario() -> None:
        good = (pod / "token").read_text()
        async with client_in_pod(api_server, pod) as client:
            version = (await client.list(maps(namespace))).resource_version
            (pod / "token").write_text(BAD_TOKEN)
            client._cluster._read_at -= 60  # a minute later
            with pytest.raises(ApiError):
                await client.list(maps(namespace))
            (pod / "token").write_text(good)
            async with aclosing(client.watch(maps(namespace), resource_version=version, timeout_seconds=30)) as watch:
                assert await anext(watch) is OPENED

    run(scenario())


def test_an_authority_that_is_not_ours_is_refused_and_its_file_read_again(api_server: ApiServer, pod: Path, namespace: str) -> None:
    async def scenario() -> None:
        (pod / "ca.crt").write_bytes(authority("another").pem)
        async with client_in_pod(api_server, pod) as client:
            with pytest.raises(Unreachable, match="no TLS with 127.0.0.1:[0-9]+: .*(self-signed|unable to get local issuer)"):
                await client.list(maps(namespace))
            shutil.copy(api_server.ca, pod / "ca.crt")
            await client.list(maps(namespace))

    run(scenario())


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_not_used(
    api_server: ApiServer, pod: Path, namespace: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    async def scenario() -> None:
        async with client_in_pod(api_server, pod) as client:
            await client.list(maps(namespace))

    monkeypatch.setenv(variable, f"http://127.0.0.1:{free_port()}")
    run(scenario())


# Kubeconfigs


def test_a_client_certificate_may_stand_in_the_kubeconfig(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    assert whoami(api_server, api_server.kubeconfig(tmp_path / "config"), namespace) == "admin"


def test_files_of_a_kubeconfig_are_found_beside_it(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    api_server.client_certificate("ann", "system:masters").write(tmp_path, "ann")
    shutil.copy(api_server.ca, tmp_path / "ca.crt")
    path = api_server.kubeconfig(
        tmp_path / "config",
        user={"client-certificate": "ann.crt", "client-key": "ann.key"},
        certificate_authority_data=None,
        certificate_authority="ca.crt",
    )

    assert whoami(api_server, path, namespace) == "ann"


def test_a_token_may_stand_in_the_kubeconfig_or_in_a_file(api_server: ApiServer, pod: Path, namespace: str, tmp_path: Path) -> None:
    token = (pod / "token").read_text()
    for user in ({"token": token}, {"tokenFile": str(pod / "token")}):
        assert whoami(api_server, api_server.kubeconfig(tmp_path / "config", user=user), namespace).endswith(":pod")


@pytest.mark.parametrize(
    "cluster", [{"insecure_skip_tls_verify": True, "certificate_authority_data": None}, {"tls_server_name": "kubernetes.default.svc"}]
)
def test_verification_follows_the_kubeconfig(api_server: ApiServer, namespace: str, tmp_path: Path, cluster: Json) -> None:
    assert whoami(api_server, api_server.kubeconfig(tmp_path / "config", **cluster), namespace) == "admin"


def test_a_server_name_that_the_certificate_lacks_is_refused(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    path = api_server.kubeconfig(tmp_path / "config", tls_server_name="elsewhere.example")

    with pytest.raises(Unreachable, match="no TLS with .*elsewhere.example"):
        whoami(api_server, path, namespace)


def test_a_proxy_of_the_kubeconfig_is_used(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with connect_proxy() as (port, asked):
            path = api_server.kubeconfig(tmp_path / "config", proxy_url=f"http://user:secret@127.0.0.1:{port}")
            async with client_of(path) as client:
                await client.list(maps(namespace))
        assert asked == [f"CONNECT 127.0.0.1:{api_server.port} HTTP/1.1"]

    run(scenario())


def test_a_proxy_that_is_away_is_named_without_its_password(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    path = api_server.kubeconfig(tmp_path / "config", proxy_url=f"http://user:secret@127.0.0.1:{free_port()}")

    with pytest.raises(Unreachable, match="the proxy on the way to .* cannot be reached: connection refused") as failed:
        whoami(api_server, path, namespace)
    assert "secret" not in str(failed.value)


@contextlib.asynccontextmanager
async def connect_proxy() -> AsyncIterator[tuple[int, list[str]]]:
    """An HTTP proxy that only knows CONNECT; its port, and the first lines of what it was asked."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked.append(head.splitlines()[0])
        host, _, port = asked[-1].split()[1].rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(copy(reader, back), copy(there, writer))

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
        sink.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], asked
        server.close()
        await asyncio.sleep(0.05)


# Certificates in memory


def test_credentials_of_a_kubeconfig_are_not_written_to_a_disk(
    api_server: ApiServer, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with client_of(api_server.kubeconfig(tmp_path / "config")) as client:
            await client.list(maps(namespace))
            client._cluster._read_at -= 60
            await client.list(maps(namespace))

    empty = tmp_path / "tmp"
    empty.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(empty))
    run(scenario())
    assert not list(empty.iterdir())


def test_the_contexts_of_several_kubeconfigs_are_one_list(
    api_server: ApiServer, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = api_server.kubeconfig(tmp_path / "first", namespace="elsewhere")
    document = json.loads(first.read_text().replace('"test"', '"second"'))
    document["contexts"][0]["context"]["namespace"] = namespace
    (tmp_path / "second").write_text(json.dumps(document))
    monkeypatch.setenv("KUBECONFIG", f"{first}:{tmp_path / 'missing'}:{tmp_path / 'second'}")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    async def scenario() -> None:
        for context, expected in (("test", "elsewhere"), ("second", namespace), (None, "elsewhere")):
            client = await connect(context=context)
            try:
                assert client.namespace == expected or context is None
                await client.list(maps(namespace))
            finally:
                await client.aclose()

    run(scenario())
