"""The injector in front of a real API server: its webhooks are called by URL, over TLS with its own certificates."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from injector.injector_kit import APP_PORT, Webhooks, eventually, injector, options, ours, pod
from support.apiserver import ApiServer
from support.kube_admin import Admin, Json, Refused
from support.programs import need_program

BAD = "apiVersion: outrider.dev/v1alpha1\nkind: SidecarConfig\nlisteners:\n  - name: inbound\n    prot: 15001\n"
GOOD = "apiVersion: outrider.dev/v1alpha1\nkind: SidecarConfig\n"
MARKED = {"labels": {"outrider.dev/config": "true"}}


class Cluster:
    """One running injector and the webhooks that call it."""

    def __init__(self, server: ApiServer, namespace: str, webhooks: Webhooks) -> None:
        self.admin: Admin = server.admin
        self.namespace = namespace
        self.webhooks = webhooks

    async def create(self, what: Json, query: str = "") -> Json:
        """Create a pod; the pod as it was stored."""
        path = f"/api/v1/namespaces/{self.namespace}/pods{query}"
        return await asyncio.to_thread(self.admin.request, "POST", path, what)


@contextlib.asynccontextmanager
async def cluster(server: ApiServer, namespace: str, folder: Path) -> AsyncIterator[Cluster]:
    kubeconfig = server.kubeconfig(folder / "kubeconfig", namespace=namespace)
    async with injector(options(folder, namespace="outrider-system", webhooks=f"outrider-{namespace}", kubeconfig=kubeconfig)) as made:
        with Webhooks(server, namespace, made.addresses[0].port) as webhooks:
            await eventually(lambda: made.ready)
            yield Cluster(server, namespace, webhooks)


Play = Callable[[Cluster], Awaitable[None]]


@pytest.fixture
def play(api_server: ApiServer, namespace: str, tmp_path: Path) -> Callable[[Play], None]:
    with contextlib.suppress(Refused):
        api_server.admin.namespace("outrider-system")

    def run(script: Play) -> None:
        async def main() -> None:
            async with asyncio.timeout(90), cluster(api_server, namespace, tmp_path) as there:
                await script(there)

        uvloop.run(main())

    return run


def test_a_pod_of_a_labelled_namespace_comes_up_with_the_sidecar(play: Callable[[Play], None]) -> None:
    async def script(there: Cluster) -> None:
        stored = await there.create(pod(APP_PORT))
        first = stored["spec"]["initContainers"][0]
        assert (first["name"], first["restartPolicy"], first["image"]) == ("outrider", "Always", "registry.example/outrider:1")
        assert json.loads(stored["metadata"]["annotations"]["outrider.dev/injected"])["by"] == "webhook"

    play(script)


def test_a_pod_that_says_no_is_left_alone(play: Callable[[Play], None]) -> None:
    async def script(there: Cluster) -> None:
        stored = await there.create(pod(APP_PORT, {"outrider.dev/inject": "false"}))
        assert ours(stored) is None

    play(script)


def test_a_pod_that_says_yes_gets_one_in_a_namespace_that_does_not(play: Callable[[Play], None]) -> None:
    async def script(there: Cluster) -> None:
        there.admin.patch("Namespace", "", there.namespace, {"metadata": {"labels": {"outrider.dev/inject": None}}})
        assert ours(await there.create(pod(APP_PORT, {"outrider.dev/inject": "true"}))) is not None
        assert ours(await there.create(pod(APP_PORT, metadata={"name": "silent"}))) is None

    play(script)


def test_a_pod_without_a_name_of_its_own_gets_one_too(play: Callable[[Play], None]) -> None:
    async def script(there: Cluster) -> None:
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "app-1", "uid": "u", "controller": True}
        unnamed = pod(APP_PORT, metadata={"name": "", "generateName": "app-1-", "ownerReferences": [owner]})
        assert ours(await there.create(unnamed)) is not None

    play(script)


def test_a_dry_run_shows_the_pod_and_leaves_nothing_behind(play: Callable[[Play], None]) -> None:
    async def script(there: Cluster) -> None:
        assert ours(await there.create(pod(APP_PORT), "?dryRun=All")) is not None
        refused = await there.create(pod({"outrider.dev/app-port": "no"}), "?dryRun=All")
        assert "outrider.dev/not-injected" in refused["metadata"]["annotations"]
        await there.create(pod({"outrider.dev/app-port": "nor this"}, metadata={"name": "real"}))
        await eventually(lambda: bool(there.admin.list("Event", there.namespace)))
        assert [event["regarding"]["name"] for event in there.admin.list("Event", there.namespace)] == ["real"]
        assert not [one for one in there.admin.list("Pod", there.namespace) if one["metadata"]["name"] == "app"]

    play(script)


def test_a_pod_that_cannot_have_one_starts_without_and_its_owner_gets_word(play: Callable[[Play], None]) -> None:
    async def script(there: Cluster) -> None:
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "app-1", "uid": "u-1", "controller": True}
        busy = pod(APP_PORT, metadata={"ownerReferences": [owner]})
        busy["spec"]["containers"][0]["ports"] = [{"containerPort": 15001}]
        stored = await there.create(busy)
        assert ours(stored) is None
        reason = "container app has the port 15001, which is the sidecar's (move it)"
        assert stored["metadata"]["annotations"]["outrider.dev/not-injected"] == reason
        await eventually(lambda: bool(there.admin.list("Event", there.namespace)))
        (event,) = there.admin.list("Event", there.namespace)
        assert (event["type"], event["reason"], event["regarding"]["kind"], event["regarding"]["uid"]) == (
            "Warning",
            "SidecarRefused",
            "ReplicaSet",
            "u-1",
        )
        assert reason in event["note"]

    play(script)


def test_a_stored_pod_that_is_created_again_is_the_same_but_for_nothing(play: Callable[[Play], None]) -> None:
    async def script(there: Cluster) -> None:
        stored = await there.create(pod(APP_PORT))
        again = {"apiVersion": "v1", "kind": "Pod", "spec": stored["spec"]}
        again["metadata"] = {"name": "again", "annotations": stored["metadata"]["annotations"]}
        assert (await there.create(again))["spec"] == stored["spec"]

    play(script)


def test_a_bad_document_is_refused_at_kubectl_apply_with_its_line_and_field(
    play: Callable[[Play], None], api_server: ApiServer, tmp_path: Path
) -> None:
    kubectl = need_program("kubectl")
    config = api_server.kubeconfig(tmp_path / "for-kubectl")

    def apply(namespace: str, document: str, *flags: str) -> subprocess.CompletedProcess[str]:
        manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "orders", **MARKED}, "data": {"sidecar.yaml": document}}
        command = [kubectl, f"--kubeconfig={config}", f"--namespace={namespace}", f"--cache-dir={tmp_path}", "apply", "-f", "-", *flags]
        return subprocess.run(command, input=json.dumps(manifest), capture_output=True, text=True, timeout=60, check=False)

    async def script(there: Cluster) -> None:
        bad = await asyncio.to_thread(apply, there.namespace, BAD)
        assert bad.returncode != 0
        assert 'admission webhook "validate.outrider.dev" denied the request: ' in bad.stderr
        assert "sidecar.yaml: line 5, column 5: listeners[0].prot: " in bad.stderr
        assert not [one for one in there.admin.list("ConfigMap", there.namespace) if one["metadata"]["name"] == "orders"]
        good = await asyncio.to_thread(apply, there.namespace, GOOD)
        assert good.returncode == 0, good.stderr
        worse = await asyncio.to_thread(apply, there.namespace, BAD, "--dry-run=server")
        assert worse.returncode != 0
        assert "listeners[0].prot" in worse.stderr

    play(script)


def test_a_configmap_that_was_bad_before_can_still_be_labelled_and_deleted(play: Callable[[Play], None]) -> None:
    async def script(there: Cluster) -> None:
        def change() -> None:
            there.admin.create("ConfigMap", there.namespace, "old", data={"sidecar.yaml": BAD})
            there.admin.patch("ConfigMap", there.namespace, "old", {"metadata": MARKED})
            there.admin.patch("ConfigMap", there.namespace, "old", {"metadata": {"annotations": {"a": "b"}}})
            with pytest.raises(Refused, match=r"listeners\[0\]\.prot"):
                there.admin.patch("ConfigMap", there.namespace, "old", {"data": {"sidecar.yaml": BAD + "# more\n"}})
            there.admin.delete("ConfigMap", there.namespace, "old")

        await asyncio.to_thread(change)

    play(script)


def test_a_pod_starts_when_nobody_answers_and_the_policy_is_to_ignore(api_server: ApiServer, namespace: str) -> None:
    with Webhooks(api_server, namespace, 9, failure_policy="Ignore"):
        assert ours(api_server.admin.create("Pod", namespace, "app", spec=pod()["spec"])) is None
