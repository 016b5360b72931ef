"""The document: edits, mistakes, a ConfigMap that comes late, an API server that cannot be reached."""

from __future__ import annotations

import copy
import time

from conftest import Space
from kit import workloads
from kit.artifacts import Figures
from kit.kube import Json, container_status, wait_for
from kit.workloads import document

PROMISED = 2.0
"""Seconds that an edit may take, from before the request that writes it to an answer from every pod: shown, with what it took."""
BY_WATCH = 20.0
"""What it takes on no machine when the API server tells of it; the kubelet's copy of a ConfigMap comes later than that."""
UNREACHABLE = "192.0.2.1"
"""TEST-NET-1 (RFC 5737): nobody is there."""


def mark(space: Space, pod: Json | str) -> str:
    """Which document a pod answers by."""
    name = pod if isinstance(pod, str) else pod["metadata"]["name"]
    return space.kube.from_pod(space.name, name, 15001, "/").headers.get("x-mark", "")


def edit(space: Space, text: str) -> None:
    """Write another document into the ConfigMap."""
    space.kube.patch("ConfigMap", space.name, "sidecar", {"data": {"sidecar.yaml": text}})


def static_pod(space: Space, name: str, **changes: str) -> Json:
    """A pod as injection makes it, for changes that injection does not offer: `changes` are variables of the sidecar."""
    template = workloads.injected(workloads.pod_template([workloads.application(space.images.application)], app=name), configmap="sidecar")
    made = space.kube.create("Pod", space.name, workloads.pod(name, template), dry_run=True)
    spec = {key: value for key, value in made["spec"].items() if key != "nodeName"}
    sidecar = spec["initContainers"][0]
    sidecar["env"] += [{"name": key, "value": value} for key, value in changes.items()]
    return {"metadata": {"name": name, "labels": {"app": name, "outrider.dev/inject": "false"}}, "spec": spec}


def test_an_edit_is_in_force_in_every_pod_without_waiting_for_the_mounted_file(space: Space, figures: Figures) -> None:
    space.application(replicas=3)
    names = [one["metadata"]["name"] for one in space.kube.pods(space.name, app="app")]
    wait_for(lambda: all(mark(space, name) == "first" for name in names), "the first document")

    took = []
    for number in range(10):
        began = time.monotonic()
        edit(space, document(f"edit-{number}"))
        waiting = set(names)
        while waiting and time.monotonic() < began + 30:
            waiting = {name for name in waiting if mark(space, name) != f"edit-{number}"}
        took.append(time.monotonic() - began)
    figures["ConfigMap edit in force in 3 pods, seconds"] = {
        "median": round(sorted(took)[5], 3),
        "max": round(max(took), 3),
        "promised": PROMISED,
    }

    assert max(took) < BY_WATCH


def test_a_bad_edit_is_kept_out_with_an_event_and_a_good_one_goes_in_again(space: Space) -> None:
    space.application(replicas=2)
    names = [one["metadata"]["name"] for one in space.kube.pods(space.name, app="app")]

    edit(space, document("bad").replace("port: 15001", "port: 1500100"))

    event = wait_for(lambda: next((one for one in events(space) if one["reason"] == "ConfigRejected"), None), "the Event")
    assert event["type"] == "Warning"
    assert "listeners[0].port" in event["note"]
    assert event["regarding"]["name"] == "sidecar"
    assert [mark(space, name) for name in names] == ["first", "first"]
    assert all(b"outrider_config_rejected 1" in space.kube.from_pod(space.name, name, 15021, "/metrics").body for name in names)

    edit(space, document("good"))

    wait_for(lambda: [mark(space, name) for name in names] == ["good", "good"], "the next good document", timeout=10)
    wait_for(lambda: any(one["reason"] == "ConfigApplied" for one in events(space)), "the Event of the good one", timeout=20)


def events(space: Space) -> list[Json]:
    return [one for one in space.kube.all("Event", space.name) if one.get("reportingController", "").startswith("outrider")]


def test_a_configmap_may_be_created_after_the_pod(space: Space) -> None:
    space.kube.delete("ConfigMap", space.name, "sidecar")
    template = workloads.pod_template([workloads.application(space.images.application)], app="app")
    space.apply(workloads.pod("app", workloads.injected(template, configmap="sidecar", app_port=0)))

    started = wait_for(lambda: _running(space, "app"), "the application runs beside a sidecar without a document")
    assert not container_status(started, "outrider")["ready"]

    began = time.monotonic()
    space.apply(workloads.configmap(document("late")))
    space.kube.wait_ready(space.name, "app", timeout=30)

    assert mark(space, "app") == "late"
    assert time.monotonic() - began < 20, "the API tells at once; the kubelet's copy would have taken a minute"


def test_while_there_is_no_configmap_the_applications_port_serves(space: Space) -> None:
    space.kube.delete("ConfigMap", space.name, "sidecar")
    space.application(configmap="sidecar")
    pod = space.kube.pods(space.name, app="app")[0]

    assert mark(space, pod) == ""
    assert space.kube.from_pod(space.name, pod["metadata"]["name"], 15001, "/").status == 200

    space.apply(workloads.configmap(document("late")))
    wait_for(lambda: mark(space, pod) == "late", "the document takes over", timeout=30)


def test_a_pod_starts_and_serves_while_the_api_server_cannot_be_reached(space: Space) -> None:
    space.kube.create("Pod", space.name, static_pod(space, "lost", KUBERNETES_SERVICE_HOST=UNREACHABLE))

    space.kube.wait_ready(space.name, "lost", timeout=60)

    assert mark(space, "lost") == "first", "the file that the kubelet mounts from the same ConfigMap"
    metrics = space.kube.from_pod(space.name, "lost", 15021, "/metrics").body.decode()
    assert 'outrider_config_source_connected{source="configmap"} 0' in metrics
    assert container_status(space.kube.get("Pod", space.name, "lost"), "outrider")["restartCount"] == 0


def test_an_account_without_rights_serves_by_the_mounted_file(space: Space) -> None:
    space.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}})
    template = workloads.pod_template([workloads.application(space.images.application)], app="poor", serviceAccountName="nobody")
    space.application("poor", template=template)
    pod = space.kube.pods(space.name, app="poor")[0]["metadata"]["name"]

    assert mark(space, pod) == "first"
    assert "403 Forbidden" in space.kube.logs(space.name, pod, "outrider")

    edit(space, document("mounted"))
    wait_for(lambda: mark(space, pod) == "mounted", "the kubelet's copy", timeout=150)


def _running(space: Space, name: str) -> Json | None:
    pod = space.kube.find("Pod", space.name, name)
    return pod if pod and container_status(pod, "app").get("state", {}).get("running") else None


def test_an_immutable_configmap_can_be_replaced(space: Space) -> None:
    frozen = workloads.configmap(document("frozen")) | {"immutable": True}
    space.apply(frozen)
    space.application()
    pod = space.kube.pods(space.name, app="app")[0]
    wait_for(lambda: mark(space, pod) == "frozen", "the frozen document")

    space.kube.delete("ConfigMap", space.name, "sidecar")
    wait_for(lambda: space.kube.find("ConfigMap", space.name, "sidecar") is None, "it is gone")
    assert mark(space, pod) == "frozen", "the last good one stays in force"
    replaced = copy.deepcopy(frozen)
    replaced["data"] = {"sidecar.yaml": document("thawed")}
    space.apply(replaced)

    wait_for(lambda: mark(space, pod) == "thawed", "the new one", timeout=30)
