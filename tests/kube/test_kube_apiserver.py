"""What the tests' API server promises to the tests."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support.apiserver import WATCH_FROM_ETCD, ApiServer
from support.kube_admin import Refused
from support.programs import need_program

READ = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}


def test_objects_are_created_applied_patched_and_deleted(api_server: ApiServer, namespace: str) -> None:
    admin = api_server.admin
    admin.create("ConfigMap", namespace, "one", data={"a": "1"})
    admin.apply("ConfigMap", namespace, "two", data={"b": "2"}, metadata={"labels": {"x": "y"}})
    admin.patch("ConfigMap", namespace, "one", {"data": {"a": "3"}})

    assert admin.get("ConfigMap", namespace, "one")["data"] == {"a": "3"}
    assert [item["metadata"]["name"] for item in admin.list("ConfigMap", namespace)] == ["one", "two"]

    admin.delete("ConfigMap", namespace, "one")
    with pytest.raises(Refused) as refused:
        admin.get("ConfigMap", namespace, "one")
    assert refused.value.status == 404


def test_a_service_account_may_do_what_its_rules_say_and_its_requests_are_counted(api_server: ApiServer, namespace: str) -> None:
    admin = api_server.admin
    admin.create("ConfigMap", namespace, "one")
    admin.service_account(namespace, "pod", [READ])
    pod = api_server.by_token(admin.token(namespace, "pod"))

    pod.get("ConfigMap", namespace, "one")
    with pytest.raises(Refused) as refused:
        pod.list("ConfigMap", namespace)

    assert refused.value.status == 403
    seen = api_server.requests(account=f"{namespace}:pod")
    assert [(request.verb, request.code) for request in seen] == [("get", 200), ("list", 403)]
    assert api_server.requests(lambda request: request.code == 403, account=f"{namespace}:pod") == seen[1:]


def test_kubectl_works_with_the_kubeconfig(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    kubectl = need_program("kubectl")
    path = api_server.kubeconfig(tmp_path / "config", namespace=namespace)

    said = subprocess.run(
        [kubectl, "--kubeconfig", path, "auth", "whoami", "-o", "json"],
        capture_output=True,
        timeout=60,
        check=True,
        env={"HOME": str(tmp_path)},
    )

    assert json.loads(said.stdout)["status"]["userInfo"]["username"] == "admin"


def test_it_restarts_on_the_same_port_with_the_same_data_and_another_ca(own_api_server: ApiServer) -> None:
    server = own_api_server
    server.admin.namespace("kept")
    before = server.ca.read_bytes()

    server.stop()
    with pytest.raises(ConnectionRefusedError):
        server.admin.list("Namespace", "")
    server.renew_authority()
    server.start()

    assert server.ca.read_bytes() != before
    assert server.admin.get("Namespace", "", "kept")["metadata"]["name"] == "kept"


def test_compaction_expires_a_watch_of_the_past() -> None:
    with ApiServer(WATCH_FROM_ETCD) as server:
        server.admin.namespace("shop")
        version = server.admin.create("ConfigMap", "shop", "one")["metadata"]["resourceVersion"]
        server.admin.patch("ConfigMap", "shop", "one", {"data": {"a": "1"}})
        server.compact()

        answer = server.admin.request("GET", f"/api/v1/namespaces/shop/configmaps?watch=1&resourceVersion={version}&timeoutSeconds=2")

    assert (answer["type"], answer["object"]["code"]) == ("ERROR", 410)
