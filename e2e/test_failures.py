"""What happens to the application when the sidecar or the injector fails."""

from __future__ import annotations

import contextlib
import time

import pytest
from conftest import Space
from kit import workloads
from kit.command import CommandFailed
from kit.kube import Json, container_status, containers, wait_for
from kit.settings import Settings
from kit.workloads import injected, pod, pod_template

FILL_SHARED_MEMORY = """
import itertools
with open("/dev/shm/fill", "wb", buffering=0) as file:
    for _ in itertools.repeat(None, 63):
        file.write(bytes(1 << 20))
"""
"""Pages of a tmpfs count for the container and belong to no process: the biggest one, the sidecar, is the one that is killed."""
KILL_BY_CONTAINER = """
import os, pathlib, signal, sys
found = []
for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        if sys.argv[1] in (process / "cgroup").read_text():
            found.append(int(process.name))
    except OSError:
        pass
print("killed", found)
for process in found:
    os.kill(process, signal.SIGKILL)
"""
"""A container's first process cannot be killed from inside; a pod that sees the node's processes can."""


def sidecar_of(space: Space, name: str) -> Json:
    return container_status(space.kube.get("Pod", space.name, name), "outrider")


def wait_back(space: Space, name: str, *, restarts: int) -> Json:
    """Until the sidecar has been restarted and the pod is ready again; the sidecar's status."""
    wait_for(lambda: sidecar_of(space, name)["restartCount"] >= restarts, "the sidecar is restarted", timeout=60)
    space.kube.wait_ready(space.name, name, timeout=60)
    return sidecar_of(space, name)


def test_a_sidecar_that_runs_out_of_memory_is_restarted_and_the_application_is_not(space: Space) -> None:
    space.application(memory_request="64Mi", memory_limit="64Mi")
    before = space.kube.pods(space.name, app="app")[0]
    name = before["metadata"]["name"]

    with contextlib.suppress(CommandFailed):  # it ends with the container that it runs in
        space.kube.execute(space.name, name, "outrider", "python", "-c", FILL_SHARED_MEMORY)
    status = wait_back(space, name, restarts=1)

    assert status["lastState"]["terminated"]["reason"] == "OOMKilled"
    assert container_status(space.kube.get("Pod", space.name, name), "app")["restartCount"] == 0
    assert space.kube.from_pod(space.name, name, 15001, "/").headers["x-mark"] == "first"


def test_a_sidecar_that_is_killed_comes_back_with_its_document(space: Space, bare: Space) -> None:
    space.application()
    before = space.kube.pods(space.name, app="app")[0]
    name = before["metadata"]["name"]
    identity = container_status(before, "outrider")["containerID"].rpartition("/")[2]

    kill_on_node(bare, before["spec"]["nodeName"], identity)
    status = wait_back(space, name, restarts=1)

    after = space.kube.get("Pod", space.name, name)
    assert status["lastState"]["terminated"]["exitCode"] == 137
    assert container_status(after, "app")["restartCount"] == 0
    assert container_status(after, "app")["containerID"] == container_status(before, "app")["containerID"]
    assert space.kube.from_pod(space.name, name, 15001, "/").headers["x-mark"] == "first"


def kill_on_node(bare: Space, node: str, container: str) -> None:
    """SIGKILL to all processes of a container."""
    killer = workloads.container("kill", bare.images.application, "", command=["python3", "-c", KILL_BY_CONTAINER, container])
    killer["securityContext"] = {"runAsUser": 0, "runAsNonRoot": False}
    template = pod_template([killer], app="kill", hostPID=True, nodeName=node, restartPolicy="Never", securityContext={})
    bare.apply(pod("kill", template))
    wait_for(lambda: bare.kube.get("Pod", bare.name, "kill")["status"]["phase"] == "Succeeded", "the process is killed", timeout=60)
    assert "killed [" in bare.kube.logs(bare.name, "kill", "kill")


def test_a_sidecar_that_hangs_is_restarted_by_its_probe(space: Space, bare: Space) -> None:
    """SIGSTOP: the event loop stands still, which is what the liveness probe is for."""
    space.application()
    before = space.kube.pods(space.name, app="app")[0]
    identity = container_status(before, "outrider")["containerID"].rpartition("/")[2]
    stopping = KILL_BY_CONTAINER.replace("SIGKILL", "SIGSTOP")
    stopper = workloads.container("stop", bare.images.application, "", command=["python3", "-c", stopping, identity])
    stopper["securityContext"] = {"runAsUser": 0, "runAsNonRoot": False}
    bare.apply(
        pod(
            "stop",
            pod_template(
                [stopper], app="stop", hostPID=True, nodeName=before["spec"]["nodeName"], restartPolicy="Never", securityContext={}
            ),
        )
    )

    name = before["metadata"]["name"]
    wait_for(lambda: sidecar_of(space, name)["restartCount"] >= 1, "the sidecar is restarted", timeout=180)
    space.kube.wait_ready(space.name, name, timeout=60)

    assert container_status(space.kube.get("Pod", space.name, name), "app")["restartCount"] == 0


def test_pods_start_while_the_injector_is_down(space: Space, release: str, given: Settings) -> None:
    if given.injection != "Webhook":
        pytest.skip("there is no webhook in this run")
    name = f"{release}-injector"
    asking = injected(pod_template([workloads.application(space.images.application)], app="app"))
    space.kube.kubectl("scale", "deployment", name, "--replicas=0", "--namespace", release)
    try:
        wait_for(lambda: not space.kube.all("Pod", release), "the injector is gone", timeout=60)

        began = time.monotonic()
        space.apply(pod("app", asking))
        started = space.kube.wait_ready(space.name, "app", timeout=60)

        assert [one["name"] for one in containers(started)] == ["app"]
        assert time.monotonic() - began < 30
    finally:
        space.kube.kubectl("scale", "deployment", name, "--replicas=1", "--namespace", release)
        space.kube.kubectl("rollout", "status", f"deployment/{name}", "--namespace", release, "--timeout=60s")

    space.kube.delete("Pod", space.name, "app", seconds=0)
    wait_for(lambda: space.kube.find("Pod", space.name, "app") is None, "the pod is gone")
    space.apply(pod("app", asking))
    assert [one["name"] for one in containers(space.kube.wait_ready(space.name, "app"))] == ["outrider", "app"]
