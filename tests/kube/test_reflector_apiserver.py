"""The reflector through the real client, against a real API server: its restarts, its history, its tokens, its rights.

Here the back-off does not grow, so that a test takes seconds; `test_configmap_outages.py` has the real one, and 30 s without a server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from reflector_kit import Heard, assert_paced, following
from support.apiserver import WATCH_FROM_ETCD, ApiServer
from support.kube_admin import Refused, Rule
from support.kube_client import client_in_pod, client_of

from sidecar.kube import backoff
from sidecar.kube import reflector as module
from sidecar.kube.objects import CONFIG_MAPS, Selection
from sidecar.kube.reflector import Reflector

T = TypeVar("T")
ACCOUNT = "orders-pod"
ONE_BY_NAME: Rule = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["orders"], "verbs": ["list", "watch"]}
"""What a Role needs, and no more."""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the tenth failure as after the first."""
    monkeypatch.setattr(backoff, "FACTOR", 1.0)


@pytest.fixture
def short_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watches end after two seconds and follow each other at once, so that each test sees several."""
    monkeypatch.setattr(module, "WATCH_SECONDS", (2, 2))
    monkeypatch.setattr(module, "APART_SECONDS", 0.0)


@pytest.fixture
def own_namespace(own_api_server: ApiServer) -> str:
    return own_api_server.admin.namespace("shop")


@pytest.fixture
def from_etcd() -> Iterator[ApiServer]:
    """An API server that forgets its history when told to."""
    with ApiServer(WATCH_FROM_ETCD) as server:
        server.admin.namespace("shop")
        yield server


def orders(namespace: str) -> Selection:
    return Selection(CONFIG_MAPS, namespace, name="orders")


@contextlib.asynccontextmanager
async def as_admin(server: ApiServer, tmp_path: Path, namespace: str) -> AsyncIterator[tuple[Reflector, Heard]]:
    async with client_of(server.kubeconfig(tmp_path / "config")) as api, following(api, orders(namespace)) as (reflector, heard):
        yield reflector, heard


@contextlib.asynccontextmanager
async def as_pod(server: ApiServer, folder: Path, selection: Selection) -> AsyncIterator[tuple[Reflector, Heard]]:
    async with client_in_pod(server, folder) as api, following(api, selection) as (reflector, heard):
        yield reflector, heard


async def off_loop(call: Callable[..., T], *args: Any, **fields: Any) -> T:
    """The administrator's calls block, and the API server's restarts take seconds."""
    return await asyncio.to_thread(call, *args, **fields)


async def put(server: ApiServer, namespace: str, text: str) -> None:
    await off_loop(server.admin.apply, "ConfigMap", namespace, "orders", data={"text": text})


async def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.05)


# What there is


def test_creation_edits_deletion_and_creation_anew_are_followed(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with as_admin(api_server, tmp_path, namespace) as (reflector, heard):
            await heard.until("changed", {})
            await put(api_server, namespace, "one")
            await heard.until("changed", {"orders": "one"}, seconds=20)
            await off_loop(api_server.admin.create, "ConfigMap", namespace, "another", data={"text": "no"})
            await put(api_server, namespace, "two")
            await heard.until("changed", {"orders": "two"}, seconds=20)
            await off_loop(api_server.admin.delete, "ConfigMap", namespace, "orders")
            await heard.until("changed", {}, count=2, seconds=20)
            await put(api_server, namespace, "three")
            await heard.until("changed", {"orders": "three"}, seconds=20)
            assert reflector.status.requests == {("list", "ok"): 1}
        assert heard.states == [{}, {"orders": "one"}, {"orders": "two"}, {}, {"orders": "three"}]

    asyncio.run(scenario())


def test_a_burst_of_edits_ends_with_the_last_one(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with as_admin(api_server, tmp_path, namespace) as (_, heard):
            await heard.until("changed", {})
            for number in range(30):
                await put(api_server, namespace, f"v{number}")
            await heard.until("changed", {"orders": "v29"}, seconds=20)
        assert heard.states[-1] == {"orders": "v29"}

    asyncio.run(scenario())


@pytest.mark.usefixtures("short_watches")
def test_edits_around_the_ends_of_watches_are_seen_without_a_second_list(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with as_admin(api_server, tmp_path, namespace) as (reflector, heard):
            await heard.until("changed", {})
            for number in range(40):
                await put(api_server, namespace, f"v{number}")
                await asyncio.sleep(0.15)
            await heard.until("changed", {"orders": "v39"}, seconds=20)
            assert reflector.status.restarts["ended"] >= 2
            assert reflector.status.requests["list", "ok"] == 1
        assert heard.states[1:] == [{"orders": f"v{number}"} for number in range(40)]
        assert "lost" not in heard.kinds

    asyncio.run(scenario())


# History


@pytest.mark.usefixtures("short_watches")
def test_after_a_compaction_the_newest_list_brings_what_was_missed(from_etcd: ApiServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with as_admin(from_etcd, tmp_path, "shop") as (reflector, heard):
            await heard.until("changed", {})
            await off_loop(from_etcd.stop)
            await off_loop(from_etcd.compact)
            await off_loop(from_etcd.start)
            await put(from_etcd, "shop", "after")
            await heard.until("changed", {"orders": "after"}, seconds=40)
            assert reflector.status.requests["watch", "expired"] >= 1
            assert reflector.status.requests["list", "ok"] == 2
        lists = await off_loop(
            from_etcd.requests,
            lambda request: request.verb == "list" and "configmaps" in request.uri and request.agent.startswith("outrider"),
        )
        assert ["resourceVersion=0" in request.uri for request in lists] == [True, False]

    asyncio.run(scenario())


# Restarts


def test_an_api_server_that_is_killed_and_back_is_followed_again(own_api_server: ApiServer, own_namespace: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with as_admin(own_api_server, tmp_path, own_namespace) as (reflector, heard):
            await heard.until("changed", {})
            await off_loop(own_api_server.kill)
            await off_loop(own_api_server.start)
            await put(own_api_server, own_namespace, "after")
            await heard.until("changed", {"orders": "after"}, seconds=40)
            await eventually(lambda: reflector.status.connected)

    asyncio.run(scenario())


def test_a_new_authority_is_refused_until_its_certificate_is_there(own_api_server: ApiServer, own_namespace: str, tmp_path: Path) -> None:
    server = own_api_server
    server.admin.service_account(own_namespace, ACCOUNT, [ONE_BY_NAME])
    folder = server.service_account_folder(tmp_path / "pod", token=server.admin.token(own_namespace, ACCOUNT), namespace=own_namespace)

    async def scenario() -> None:
        async with as_pod(server, folder, orders(own_namespace)) as (_, heard):
            await heard.until("changed", {})
            await off_loop(server.kill)
            await off_loop(server.renew_authority)
            await off_loop(server.start)
            await put(server, own_namespace, "after")
            await heard.until("lost", seconds=20)
            await asyncio.sleep(2)
            assert heard.states == [{}]
            (folder / "ca.crt").write_bytes(server.ca.read_bytes())
            await heard.until("changed", {"orders": "after"}, seconds=90)
        assert "certificate" in " ".join(heard.messages), heard.messages

    asyncio.run(scenario())


# Tokens and rights


@pytest.mark.usefixtures("short_watches")
def test_a_token_that_is_revoked_is_an_outage_until_the_file_has_a_new_one(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    admin = api_server.admin
    admin.service_account(namespace, ACCOUNT, [ONE_BY_NAME])
    admin.create("Secret", namespace, "bound")
    token = admin.token(namespace, ACCOUNT, secret="bound")
    folder = api_server.service_account_folder(tmp_path / "pod", token=token, namespace=namespace)

    async def scenario() -> None:
        async with as_pod(api_server, folder, orders(namespace)) as (reflector, heard):
            await heard.until("changed", {})
            await off_loop(admin.delete, "Secret", namespace, "bound")
            await heard.until("lost", seconds=30)
            assert "the token is not accepted" in heard.messages[0]
            await put(api_server, namespace, "after")
            (folder / "token").write_text(await off_loop(admin.token, namespace, ACCOUNT))
            await heard.until("changed", {"orders": "after"}, seconds=30)
            assert reflector.status.requests["watch", "unauthorized"] >= 2
            assert reflector.status.requests["list", "ok"] == 1
        assert heard.kinds.count("lost") == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("missing", ["list", "watch"])
def test_each_verb_of_the_role_is_needed_and_its_absence_is_named(
    api_server: ApiServer, namespace: str, tmp_path: Path, missing: str
) -> None:
    admin = api_server.admin
    admin.service_account(namespace, ACCOUNT, [{**ONE_BY_NAME, "verbs": [verb for verb in ONE_BY_NAME["verbs"] if verb != missing]}])
    folder = api_server.service_account_folder(tmp_path / "pod", token=admin.token(namespace, ACCOUNT), namespace=namespace)

    async def scenario() -> None:
        async with as_pod(api_server, folder, orders(namespace)) as (reflector, heard):
            await heard.until("lost", seconds=20)
            said = heard.messages[0]
            assert f"cannot {missing} resource" in said
            rule = '{apiGroups: [""], resources: [configmaps], resourceNames: [orders], verbs: [list, watch]}'
            assert f"{rule} in namespace {namespace}" in said
            await asyncio.sleep(3)
            await off_loop(admin.allow, namespace, ACCOUNT, [ONE_BY_NAME])
            await put(api_server, namespace, "after")
            await heard.until("changed", {"orders": "after"}, seconds=60)
            assert heard.kinds.count("lost") == 1
            assert reflector.status.requests[missing, "forbidden"] >= 2
        seen = await off_loop(api_server.requests, account=f"{namespace}:{ACCOUNT}")
        assert_paced([datetime.fromisoformat(request.at).timestamp() for request in seen], slack=1.0)
        assert len(seen) - reflector.status.requests.total() in {0, 1}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "rule",
    [
        {**ONE_BY_NAME, "resourceNames": ["another"]},
        {**ONE_BY_NAME, "resources": ["secrets"]},
        {**ONE_BY_NAME, "apiGroups": ["apps"]},
        {**ONE_BY_NAME, "verbs": ["get"]},
    ],
    ids=["another name", "another resource", "another group", "get alone"],
)
def test_a_rule_for_something_else_is_not_enough(api_server: ApiServer, namespace: str, tmp_path: Path, rule: Rule) -> None:
    admin = api_server.admin
    admin.service_account(namespace, ACCOUNT, [rule])
    folder = api_server.service_account_folder(tmp_path / "pod", token=admin.token(namespace, ACCOUNT), namespace=namespace)

    async def scenario() -> None:
        async with as_pod(api_server, folder, orders(namespace)) as (reflector, heard):
            await heard.until("lost", seconds=20)
            assert reflector.status.requests["list", "forbidden"] >= 1

    asyncio.run(scenario())


def test_a_role_by_name_does_not_allow_to_read_the_whole_namespace(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    admin = api_server.admin
    admin.service_account(namespace, ACCOUNT, [ONE_BY_NAME])
    token = admin.token(namespace, ACCOUNT)
    folder = api_server.service_account_folder(tmp_path / "pod", token=token, namespace=namespace)

    async def scenario() -> None:
        async with as_pod(api_server, folder, Selection(CONFIG_MAPS, namespace)) as (_, heard):
            await heard.until("lost", seconds=20)
            assert "; the Role needs the rule" in heard.messages[0]

    asyncio.run(scenario())
    with pytest.raises(Refused) as refused:
        api_server.by_token(token).request("GET", f"/api/v1/namespaces/{namespace}/configmaps?watch=1&resourceVersion=0")
    assert refused.value.status == 403


def test_a_namespace_that_does_not_exist_holds_nothing_and_is_followed(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with as_admin(api_server, tmp_path, f"{namespace}-later") as (_, heard):
            await heard.until("changed", {})
            await off_loop(api_server.admin.namespace, f"{namespace}-later")
            await put(api_server, f"{namespace}-later", "there")
            await heard.until("changed", {"orders": "there"}, seconds=20)
        assert "lost" not in heard.kinds

    asyncio.run(scenario())
