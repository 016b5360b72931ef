"""Zero failed requests, as a strict client sees it, while pods come and go."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import pytest
from conftest import Space
from kit import workloads
from kit.artifacts import Figures
from kit.kube import Json, wait_for
from kit.load import Load, assert_none_failed, told
from kit.network import ProgrammingTime
from kit.settings import Settings

RATE = 60
REPLICAS = 3
BUDGET: Json = {
    "apiVersion": "policy/v1",
    "kind": "PodDisruptionBudget",
    "metadata": {"name": "app"},
    "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "app"}}},
}


def restart(space: Space, app: str = "app", *, timeout: str = "180s") -> None:
    """What `kubectl rollout restart` does, until the new pods are ready and the old ones are out of the Service."""
    space.kube.kubectl("rollout", "restart", f"deployment/{app}", "--namespace", space.name)
    space.kube.kubectl("rollout", "status", f"deployment/{app}", "--namespace", space.name, f"--timeout={timeout}", timeout=200)


def settle(space: Space, load: Load) -> Json:
    """Until pods that are leaving have left: their last requests count."""
    deadline = time.monotonic() + 60
    while any("deletionTimestamp" in one["metadata"] for one in space.kube.all("Pod", space.name)) and time.monotonic() < deadline:
        time.sleep(1)
    return load.stop()


def serve(space: Space, given: Settings, *, replicas: int, **more: Any) -> None:
    """The application with the drain delay of this run."""
    delay = given.drain_delay
    container = workloads.application(space.images.application, drain_delay=delay)
    template = workloads.pod_template([container], app="app", terminationGracePeriodSeconds=30 + delay, **more)
    space.apply(workloads.configmap(workloads.document(lifecycle={"drainDelay": f"{delay}s"})))
    space.application(replicas=replicas, template=template)


@pytest.mark.timeout(3600)
def test_rolling_restarts_under_load_lose_no_request(space: Space, bare: Space, given: Settings, figures: Figures) -> None:
    serve(space, given, replicas=REPLICAS)
    load = space.load(rate=RATE)
    node = space.kube.get("Pod", space.name, "load")["spec"]["nodeName"]
    proxy = ProgrammingTime(space.kube, bare.name, node, space.images.application)
    done = 0

    try:
        while done < given.rollouts and not load.report()["failed"]:
            restart(space)
            done += 1
    finally:
        report = settle(space, load)
        slow = proxy.longer_than(given.drain_delay)
        figures[f"requests failed over {done} rolling restarts of {REPLICAS} replicas, drainDelay {given.drain_delay} s"] = (
            f"{report['failed']} of {report['requests']}; {slow}"
        )

    figures["seconds of a request during the restarts"] = report["seconds"]
    assert report["failed"] == 0, f"after {done} restarts ({slow}): {told(report)}"
    assert_none_failed(report, at_least=int(report["elapsed"] * RATE * 0.4))
    assert len(report["answeredBy"]) >= REPLICAS * given.rollouts, "each restart brings new pods, and each has answered"


def test_scaling_down_and_up_under_load_loses_no_request(space: Space, given: Settings, figures: Figures) -> None:
    serve(space, given, replicas=4)
    load = space.load(rate=RATE)

    for replicas in (1, 4, 2, 1):
        space.kube.kubectl("scale", "deployment/app", f"--replicas={replicas}", "--namespace", space.name)
        space.kube.wait_pods(space.name, app="app", count=replicas)
        time.sleep(3)
    report = settle(space, load)

    figures["requests failed while scaling 4-1-4-2-1"] = f"{report['failed']} of {report['requests']}"
    assert_none_failed(report, at_least=10 * RATE)


def test_evictions_under_load_lose_no_request(space: Space, given: Settings) -> None:
    """What a node drain does to pods, one node being enough: one after the other, as the disruption budget permits."""
    serve(space, given, replicas=REPLICAS)
    space.apply(BUDGET)
    load = space.load(rate=RATE)

    for pod in space.kube.pods(space.name, app="app"):
        name = pod["metadata"]["name"]
        wait_for(partial(evict, space, name), f"{name} may be evicted", timeout=90, every=1)
    space.kube.wait_pods(space.name, app="app", count=REPLICAS)
    report = settle(space, load)

    assert_none_failed(report, at_least=5 * RATE)


def evict(space: Space, name: str) -> bool:
    """Ask once; False while the budget does not permit it."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": space.name}}
    answer = space.kube.request("POST", space.kube.path("Pod", space.name, name) + "/eviction", body)
    assert answer.status in (201, 429), answer.body
    return answer.status == 201


def test_a_node_drain_under_load_loses_no_request(space: Space, given: Settings, figures: Figures) -> None:
    nodes = [one for one in space.kube.all("Node") if not one["spec"].get("unschedulable")]
    if len(nodes) < 2:
        pytest.skip("ONE NODE: a drain has nowhere to move pods to (the cluster that `make e2e` makes has two)")
    stays = next((one for one in nodes if "node-role.kubernetes.io/control-plane" in one["metadata"]["labels"]), nodes[0])
    leaves = next(one for one in nodes if one is not stays)["metadata"]["name"]
    serve(space, given, replicas=REPLICAS, affinity=_prefer(leaves))
    space.apply(BUDGET)
    assert {one["spec"]["nodeName"] for one in space.kube.pods(space.name, app="app")} == {leaves}
    load = space.load(rate=RATE, node=stays["metadata"]["name"])

    try:
        selected = ["--pod-selector", "app=app", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s"]
        space.kube.kubectl("drain", leaves, *selected, timeout=200)
        moved = space.kube.wait_pods(space.name, app="app", count=REPLICAS)
    finally:
        space.kube.kubectl("uncordon", leaves)
    report = settle(space, load)

    assert leaves not in {one["spec"]["nodeName"] for one in moved}
    figures["requests failed during a node drain"] = f"{report['failed']} of {report['requests']}"
    assert_none_failed(report, at_least=5 * RATE)


def _prefer(node: str) -> Json:
    match = [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]
    return {
        "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": {"matchExpressions": match}}]}
    }


def test_pods_that_all_end_at_once_serve_until_others_are_there(space: Space, given: Settings, figures: Figures) -> None:
    """Nodes send requests to pods that are ending when there are no others, as long as these are ready (KEP-1669)."""
    serve(space, given, replicas=REPLICAS)
    load = space.load(rate=RATE)
    began = time.monotonic()

    space.kube.kubectl("delete", "pods", "--selector", "app=app", "--namespace", space.name, "--wait=false")
    space.kube.wait_pods(space.name, app="app", count=REPLICAS)
    took = time.monotonic() - began
    report = settle(space, load)

    figures["requests failed when all pods ended at once"] = (
        f"{report['failed']} of {report['requests']}; their successors were ready after {took:.1f} s"
    )
    if took < given.drain_delay + workloads.LONGER:
        assert_none_failed(report, at_least=5 * RATE)


def test_an_application_that_leaves_at_once_is_why_it_must_stay_for_the_drain_delay(space: Space) -> None:
    """The other side of the rule: what the documentation asks of applications is needed, so this test may tell when it is no more."""
    container = workloads.application(space.images.application)
    del container["lifecycle"]
    space.application(replicas=2, template=workloads.pod_template([container], app="app"))
    load = space.load(rate=RATE)

    for _ in range(2):
        restart(space)
    report = settle(space, load)

    assert report["failed"] > 0
    assert all("connection_refused" in one["error"] or "connection_terminated" in one["error"] for one in report["failures"]), report[
        "failures"
    ]
