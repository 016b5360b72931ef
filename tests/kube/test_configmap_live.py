"""`outrider run --configmap`: the real process and a real API server. Traffic runs through every edit and every outage."""

from __future__ import annotations

import base64
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from configmap_kit import MISTAKE, NAME, READ, WRITE, Shop, account, admin, document, metric, probe, under_traffic, wait_until
from support import Sidecar
from support.apiserver import ApiServer


@pytest.fixture
def shop(api_server: ApiServer, namespace: str, tmp_path: Path) -> Shop:
    return Shop(api_server, namespace, tmp_path)


# -- edits


def test_a_configmap_that_is_created_after_the_start_is_followed(shop: Shop) -> None:
    with Sidecar(None, flags=shop.alone, wait_ready=False) as sidecar:
        assert "does not exist (create it: kubectl create configmap" in sidecar.wait_for("config_source_lost")["message"]
        wait_until(lambda: probe(sidecar, "/startupz") == 200)
        assert probe(sidecar, "/readyz") == 503
        version = shop.write(document())
        assert sidecar.wait_for("ready")["revision"] == version
        assert (admin(sidecar, "/config")["source"], admin(sidecar, "/config")["revision"]) == ("configmap", version)
        assert metric(sidecar, 'config_source_connected{source="configmap"} 1') == 1
        assert metric(sidecar, 'kube_requests_total{resource="configmaps",verb="list",outcome="ok"}') == 1
        assert metric(sidecar, 'kube_watches{resource="configmaps",state="connected"}') == 1


def test_edits_bursts_mistakes_deletion_and_creation_under_traffic(shop: Shop) -> None:
    def script(sidecar: Sidecar, upstream: int) -> None:
        applied = lambda: len(sidecar.events("config_applied"))  # noqa: E731
        assert sidecar.wait_for("config_applied", count=1)["source"] == "configmap"
        version = shop.write(document(upstream, 3))
        assert sidecar.wait_for("config_applied", count=2)["revision"] == version

        shop.write(MISTAKE)
        assert "lifecycle_" in sidecar.wait_for("config_rejected")["problems"][0]
        assert "lifecycle_" in json.dumps(admin(sidecar, "/config/problems")["problems"])
        assert admin(sidecar, "/config")["revision"] == version
        (event,) = shop.wait_for_events(1)
        assert (event["reason"], event["type"], event["regarding"]["name"]) == ("ConfigRejected", "Warning", NAME)
        assert event["note"].startswith("sidecar.yaml: line 1, column ")
        assert "lifecycle_" in event["note"]

        shop.delete()
        assert "has been deleted" in sidecar.wait_for("config_source_lost")["message"]
        assert metric(sidecar, 'config_source_connected{source="configmap"}') == 0
        version = shop.write(document(upstream, 4))
        sidecar.wait_for("config_source_back")
        assert sidecar.wait_for("config_applied", count=3)["revision"] == version
        assert [event["reason"] for event in shop.wait_for_events(2)] == ["ConfigRejected", "ConfigApplied"]
        assert admin(sidecar, "/config/problems")["problems"] == []
        assert applied() == 3

    under_traffic(script, shop.write, *shop.alone)


def test_ten_edits_in_a_row_cost_fewer_reloads_and_end_with_the_last_one(shop: Shop) -> None:
    """How fast the API server takes ten edits is its own affair, so the sidecar sees them all at once; for exact numbers see test_configmap_source."""
    shop.write(document())
    with Sidecar(None, flags=shop.alone) as sidecar:
        sidecar.process.send_signal(signal.SIGSTOP)
        versions = [shop.write(document(timeout=number)) for number in range(10, 20)]
        sidecar.process.send_signal(signal.SIGCONT)
        sidecar.wait_for("config_applied", revision=versions[-1])
        assert len(sidecar.events("config_applied")) < 1 + len(versions)


def test_an_edit_of_labels_changes_the_revision_and_nothing_else(shop: Shop) -> None:
    shop.write(document())
    with Sidecar(None, flags=shop.alone) as sidecar:
        version = shop.write(document(), metadata={"labels": {"team": "orders"}})
        wait_until(lambda: admin(sidecar, "/config")["revision"] == version)
        assert len(sidecar.events("config_applied")) == 1
        assert metric(sidecar, 'config_updates_total{source="configmap",result="unchanged"}') == 1


def test_binary_data_another_key_and_a_key_that_is_taken_away(shop: Shop) -> None:
    binary = {"binaryData": {"proxy.yaml": base64.b64encode(document().encode()).decode()}}
    shop.write("", data={"other": "x"}, **binary)
    with Sidecar(None, flags=[*shop.alone, "--configmap-key=proxy.yaml"]) as sidecar:
        shop.write("", data={"other": "x"}, binaryData=None)
        message = sidecar.wait_for("config_source_lost")["message"]
        assert "has no key proxy.yaml (it has other;" in message
        assert admin(sidecar, "/config")["source"] == "configmap"


def test_an_immutable_configmap_is_followed_through_deletion_and_creation(shop: Shop) -> None:
    shop.write(document(), immutable=True)
    with Sidecar(None, flags=shop.alone) as sidecar:
        assert "immutable" in sidecar.wait_for("config_warning")["message"]
        shop.delete()
        version = shop.write(document(timeout=7))
        sidecar.wait_for("config_applied", revision=version)


# -- the API server is away


def test_the_file_serves_until_the_api_server_answers_and_its_word_counts_from_then_on(own_api_server: ApiServer, tmp_path: Path) -> None:
    shop = Shop(own_api_server, own_api_server.admin.namespace("shop"), tmp_path)
    version = shop.write(document(timeout=8))
    own_api_server.stop()
    with Sidecar(document(), flags=shop.flags) as sidecar:
        assert sidecar.wait_for("config_applied")["source"] == "file"
        sidecar.wait_for("config_source_lost", source="configmap")
        assert metric(sidecar, 'config_source_connected{source="file"}') == 1
        sidecar.apply(document(timeout=9))
        own_api_server.start()
        sidecar.timeout = 60.0
        assert sidecar.wait_for("config_applied", source="configmap")["revision"] == version
        sidecar.edit(document(timeout=10))
        newest = shop.write(document(timeout=11))
        sidecar.wait_for("config_applied", revision=newest)
        assert len(sidecar.events("config_applied", source="file")) == 2


def test_traffic_does_not_notice_that_the_api_server_goes_and_comes_back_and_edits_go_on(own_api_server: ApiServer, tmp_path: Path) -> None:
    shop = Shop(own_api_server, own_api_server.admin.namespace("shop"), tmp_path)

    def script(sidecar: Sidecar, upstream: int) -> None:
        sidecar.timeout = 60.0
        own_api_server.kill()
        assert "cannot be read" in sidecar.wait_for("config_source_lost")["message"]
        own_api_server.start()
        sidecar.wait_for("config_source_back")
        version = shop.write(document(upstream, 5))
        sidecar.wait_for("config_applied", revision=version)

    under_traffic(script, shop.write, *shop.alone)


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        yield hole.getsockname()[1]


def point_elsewhere(kubeconfig: Path, port: int) -> None:
    config = json.loads(kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
    kubeconfig.write_text(json.dumps(config))


def test_a_restart_while_the_api_server_is_silent_serves_the_last_good_document_of_this_configmap_and_of_no_other(
    shop: Shop, tmp_path: Path
) -> None:
    state = f"--state-dir={tmp_path / 'state'}"
    version = shop.write(document())
    with Sidecar(None, flags=[*shop.alone, state]):
        pass
    with black_hole() as port:
        point_elsewhere(shop.kubeconfig, port)
        with Sidecar(None, flags=[*shop.alone, state]) as sidecar:
            assert admin(sidecar, "/config")["source"] == "last_good"
            assert sidecar.wait_for("ready")["revision"] == version
            assert not sidecar.events("config_source_lost")  # it has not even said no
        for other in (f"--configmap={shop.namespace}/another", "--configmap-key=another", "--context=test"):
            with Sidecar(None, flags=[*shop.alone, state, other], wait_ready=False) as sidecar:
                assert "which is not followed now" in sidecar.wait_for("last_good_failed")["message"]
                assert probe(sidecar, "/readyz") == 503


def test_without_any_document_the_start_ends_although_the_api_server_says_nothing(shop: Shop) -> None:
    with black_hole() as port:
        point_elsewhere(shop.kubeconfig, port)
        with Sidecar(None, flags=shop.alone, wait_ready=False) as sidecar:
            wait_until(lambda: probe(sidecar, "/startupz") == 200)
            assert probe(sidecar, "/readyz") == 503


def test_a_last_good_document_gives_way_to_the_api_servers_as_soon_as_there_is_one(own_api_server: ApiServer, tmp_path: Path) -> None:
    shop = Shop(own_api_server, own_api_server.admin.namespace("shop"), tmp_path)
    state = f"--state-dir={tmp_path / 'state'}"
    shop.write(document())
    with Sidecar(None, flags=[*shop.alone, state]):
        pass
    version = shop.write(document(timeout=6))
    own_api_server.stop()
    with Sidecar(None, flags=[*shop.alone, state]) as sidecar:
        assert sidecar.wait_for("config_applied")["source"] == "last_good"
        own_api_server.start()
        sidecar.timeout = 60.0
        assert sidecar.wait_for("config_applied", source="configmap")["revision"] == version


def test_a_restart_on_a_rejected_document_serves_the_last_good_one(shop: Shop, tmp_path: Path) -> None:
    state = f"--state-dir={tmp_path / 'state'}"
    shop.write(document())
    with Sidecar(None, flags=[*shop.alone, state]):
        pass
    shop.write(MISTAKE)
    with Sidecar(None, flags=[*shop.alone, state]) as sidecar:
        sidecar.wait_for("config_rejected", source="configmap")
        assert admin(sidecar, "/config")["source"] == "last_good"


@pytest.mark.parametrize("there", ["nothing", "a mistake"])
def test_with_require_config_the_process_ends_with_78(there: str, shop: Shop) -> None:
    if there == "a mistake":
        shop.write(MISTAKE)
    with Sidecar(None, flags=[*shop.alone, "--require-config"], wait_ready=False) as sidecar:
        assert sidecar.wait() == 78
        assert f"outrider: no valid document at ConfigMap {shop.namespace}/{NAME} (--require-config)" in sidecar.lines


def test_a_kubeconfig_that_says_nothing_usable_is_told_and_read_again(shop: Shop) -> None:
    good = shop.kubeconfig.read_text()
    shop.kubeconfig.write_text("clusters: []\n")
    version = shop.write(document(timeout=3))
    with Sidecar(document(), flags=shop.flags) as sidecar:
        assert "kubeconfig" in sidecar.wait_for("config_source_lost")["message"]
        assert sidecar.wait_for("config_applied")["source"] == "file"
        shop.kubeconfig.write_text(good)
        sidecar.timeout = 60.0
        sidecar.wait_for("config_applied", source="configmap", revision=version)


# -- word back


def test_five_pods_that_see_the_same_mistake_write_one_event_and_one_when_it_is_mended(shop: Shop) -> None:
    shop.write(document())
    with ExitStack() as stack:
        pods = [
            stack.enter_context(
                Sidecar(
                    None, flags=shop.alone, env={"POD_NAME": f"orders-{number}", "POD_NAMESPACE": shop.namespace, "POD_UID": f"u{number}"}
                )
            )
            for number in range(5)
        ]
        shop.write(MISTAKE)
        told = lambda word: sum(metric(pod, f'config_events_total{{result="{word}"}}') for pod in pods)  # noqa: E731
        wait_until(lambda: told("written") + told("exists") == 5)
        shop.write(document(timeout=4))
        wait_until(lambda: told("written") + told("exists") == 10)
        assert told("written") == 2
        rejected, applied = shop.events()
        assert (rejected["reason"], applied["reason"]) == ("ConfigRejected", "ConfigApplied")
        assert rejected["related"]["kind"] == "Pod"
        assert rejected["related"]["name"] == rejected["reportingInstance"]
        assert rejected["regarding"]["uid"] == shop.admin.get("ConfigMap", shop.namespace, NAME)["metadata"]["uid"]


def test_the_two_rules_of_the_reference_are_all_that_is_needed(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    shop = Shop(api_server, namespace, tmp_path, account(api_server, namespace, [READ, WRITE]))
    shop.write(document())
    with Sidecar(None, flags=shop.alone) as sidecar:
        shop.write(MISTAKE)
        sidecar.wait_for("config_rejected")
        shop.wait_for_events(1)
    assert {request.code for request in api_server.requests(account=f"{namespace}:pod")} <= {200, 201}


def test_without_the_right_to_write_events_it_says_so_once_and_goes_on(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    shop = Shop(api_server, namespace, tmp_path, account(api_server, namespace, [READ]))
    shop.write(document())
    with Sidecar(None, flags=shop.alone) as sidecar:
        for number in range(2):
            shop.write(document(**{f"mistake{number}": 1}))
            sidecar.wait_for("config_rejected", count=number + 1)
            wait_until(lambda number=number: metric(sidecar, 'config_events_total{result="refused"}') == number + 1)
        (line,) = sidecar.events("event_refused")
        assert 'apiGroups: ["events.k8s.io"], resources: ["events"], verbs: ["create"]' in line["message"]
        version = shop.write(document(timeout=5))
        sidecar.wait_for("config_applied", revision=version)


def test_without_the_right_to_read_it_names_the_rule_and_the_file_serves(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    shop = Shop(api_server, namespace, tmp_path, account(api_server, namespace, [WRITE]))
    with Sidecar(document(), flags=shop.flags) as sidecar:
        message = sidecar.wait_for("config_source_lost", source="configmap")["message"]
        assert "configmaps" in message
        assert NAME in message
        assert "list" in message
        assert sidecar.wait_for("config_applied")["source"] == "file"


# -- which pod this is, and what is loaded


def test_the_namespace_is_the_pods_and_the_pod_is_in_the_first_lines(shop: Shop) -> None:
    shop.write(document())
    pod = {"POD_NAME": "orders-1", "POD_NAMESPACE": shop.namespace, "NODE_NAME": "n1", "NODE_ZONE": "z1"}
    flags = [f"--configmap={NAME}", f"--kubeconfig={shop.kubeconfig}", "--config="]
    with Sidecar(None, flags=flags, env=pod) as sidecar:
        for event in ("starting", "ready"):
            line = sidecar.wait_for(event)
            assert [line[field] for field in ("pod", "namespace", "node", "zone")] == ["orders-1", shop.namespace, "n1", "z1"]


def test_the_namespace_is_the_kubeconfigs_outside_of_a_pod(shop: Shop) -> None:
    version = shop.write(document())
    with Sidecar(None, flags=[f"--configmap={NAME}", f"--kubeconfig={shop.kubeconfig}", "--config="]) as sidecar:
        assert sidecar.wait_for("ready")["revision"] == version


def imported(sidecar: Sidecar) -> set[str]:
    return {line.rpartition("|")[2].strip() for line in sidecar.lines if line.startswith("import time:")}


def test_a_sidecar_that_follows_a_file_loads_nothing_of_kubernetes_and_one_that_does_loads_no_models(shop: Shop) -> None:
    watch_imports = {"PYTHONPROFILEIMPORTTIME": "1"}
    with Sidecar(document(), env=watch_imports) as sidecar:
        names = imported(sidecar)
        assert "sidecar.app" in names
        assert not {name for name in names if name.startswith(("sidecar.kube", "kubernetes_asyncio", "aiohttp"))}
    shop.write(document())
    with Sidecar(None, flags=shop.alone, env=watch_imports) as sidecar:
        names = imported(sidecar)
        assert "sidecar.kube.client" in names
        assert not {name for name in names if name.startswith("kubernetes_asyncio.client.models")}
