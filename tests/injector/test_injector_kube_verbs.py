"""What the injector needs of the client beyond the sidecar's: objects of the whole cluster, replacing, and merging lists by name."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import uvloop
from injector.injector_kit import Webhooks
from support.apiserver import ApiServer
from support.kube_client import client_of

from sidecar.kube.api import ApiError
from sidecar.kube.failures import explain
from sidecar.kube.objects import CONFIG_MAPS, MUTATING_WEBHOOKS, Selection


def test_what_belongs_to_the_cluster_is_in_no_namespace() -> None:
    selection = Selection(MUTATING_WEBHOOKS, "ignored", "outrider")
    assert MUTATING_WEBHOOKS.path("ignored") == "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
    told = explain(ApiError("no", status=403), selection)
    assert told.startswith(
        "mutatingwebhookconfigurations outrider cannot be read: no; the ClusterRole needs the rule {apiGroups: [admission"
    )
    assert told.endswith("resourceNames: [outrider], verbs: [list, watch]}")


def test_lists_are_merged_by_name_and_only_if_nobody_was_quicker(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with client_of(api_server.kubeconfig(tmp_path / "config")) as client:
            listed = await client.list(Selection(MUTATING_WEBHOOKS, "", webhooks.name))
            (found,) = listed.items
            version = {"resourceVersion": found["metadata"]["resourceVersion"]}
            change = {"metadata": version, "webhooks": [{"name": "pod.outrider.dev", "timeoutSeconds": 7}]}
            changed = await client.patch(MUTATING_WEBHOOKS, "", webhooks.name, change, strategic=True)
            with pytest.raises(ApiError) as refused:
                await client.patch(MUTATING_WEBHOOKS, "", webhooks.name, change | {"webhooks": []}, strategic=True)
        assert [(one["name"], one["timeoutSeconds"]) for one in changed["webhooks"]] == [
            ("namespace.outrider.dev", 5),
            ("pod.outrider.dev", 7),
        ]
        assert refused.value.status == 409

    with Webhooks(api_server, namespace, 9, failure_policy="Ignore") as webhooks:
        uvloop.run(asyncio.wait_for(main(), 30))


def test_an_object_is_replaced_only_if_nobody_was_quicker(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with client_of(api_server.kubeconfig(tmp_path / "config")) as client:
            stored = await client.create(CONFIG_MAPS, namespace, {"metadata": {"name": "one"}, "data": {"a": "1", "b": "2"}})
            replaced = await client.replace(CONFIG_MAPS, namespace, "one", {**stored, "data": {"c": "3"}})
            with pytest.raises(ApiError) as refused:
                await client.replace(CONFIG_MAPS, namespace, "one", {**stored, "data": {}})
        assert replaced["data"] == {"c": "3"}
        assert refused.value.status == 409

    uvloop.run(asyncio.wait_for(main(), 30))


def test_hubs_that_connect_at_the_same_time_load_the_library_once() -> None:
    code = """
import threading
from sidecar.kube.lean import library
found, start = [], threading.Barrier(4)
def load():
    start.wait()
    found.append(library())
threads = [threading.Thread(target=load) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(found) == 4 and len({id(one) for one in found}) == 1
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
