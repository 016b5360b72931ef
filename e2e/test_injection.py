"""Who gets a sidecar, who does not, and what becomes of pods that are no Deployment's."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Images, Space
from kit import helm, workloads
from kit.command import run
from kit.kube import Json, Kube, container_status, containers, wait_for
from kit.settings import Settings
from kit.workloads import injected, pod, pod_template


def template(space: Space, app: str = "app") -> Json:
    """A pod that knows nothing of us."""
    return pod_template([workloads.application(space.images.application)], app=app)


def made(space: Space, one: Json) -> Json:
    """The pod as the API server would store it."""
    return space.kube.create("Pod", space.name, pod("probe", one), dry_run=True)


def has_sidecar(one: Json) -> bool:
    return any(container["name"] == "outrider" for container in containers(one))


def label_namespace(space: Space, word: str | None) -> None:
    """Takes a moment to reach admission: the API server follows namespaces."""
    space.kube.patch("Namespace", "", space.name, {"metadata": {"labels": {"outrider.dev/inject": word}}})


def test_a_pods_label_is_enough(space: Space) -> None:
    assert has_sidecar(made(space, injected(template(space))))


def test_a_namespaces_label_is_enough(space: Space) -> None:
    asking = injected(template(space))
    del asking["metadata"]["labels"]["outrider.dev/inject"]
    assert not has_sidecar(made(space, asking))

    label_namespace(space, "enabled")

    wait_for(lambda: has_sidecar(made(space, asking)), "pods of the namespace get a sidecar", timeout=20)


def test_the_pods_no_wins_over_its_namespaces_yes(space: Space) -> None:
    label_namespace(space, "enabled")
    asking = injected(template(space))
    del asking["metadata"]["labels"]["outrider.dev/inject"]
    wait_for(lambda: has_sidecar(made(space, asking)), "pods of the namespace get a sidecar", timeout=20)

    asking["metadata"]["labels"]["outrider.dev/inject"] = "false"
    stored = made(space, asking)

    assert not has_sidecar(stored)
    assert "outrider.dev/injected" not in stored["metadata"]["annotations"]


def test_a_pod_with_a_sidecar_does_not_get_another(space: Space) -> None:
    once = made(space, injected(template(space)))
    again = {"metadata": {key: once["metadata"][key] for key in ("labels", "annotations")}, "spec": once["spec"]}

    twice = made(space, again)

    assert [one["name"] for one in containers(twice)].count("outrider") == 1
    assert twice["spec"]["initContainers"] == once["spec"]["initContainers"]
    assert twice["spec"]["volumes"] == once["spec"]["volumes"]


def test_a_pod_that_cannot_have_one_starts_without_and_says_why(space: Space) -> None:
    asking = injected(template(space))
    asking["spec"]["containers"][0]["ports"] = [{"containerPort": 15001}]

    space.apply(pod("taken", asking))
    started = space.kube.wait_ready(space.name, "taken")

    assert not has_sidecar(started)
    assert "15001" in started["metadata"]["annotations"]["outrider.dev/not-injected"]


def test_annotations_shape_the_sidecar(space: Space) -> None:
    asking = injected(
        template(space),
        configmap="sidecar",
        cpu_request="21m",
        memory_request="70Mi",
        memory_limit="123Mi",
        log_level="debug",
        outbound_proxy_env="true",
    )

    stored = made(space, asking)
    sidecar, application = stored["spec"]["initContainers"][0], stored["spec"]["containers"][0]

    assert sidecar["resources"] == {"requests": {"cpu": "21m", "memory": "70Mi"}, "limits": {"memory": "123Mi"}}
    assert {"name": "OUTRIDER_LOG_LEVEL", "value": "debug"} in sidecar["env"]
    assert {"name": "HTTP_PROXY", "value": "http://127.0.0.1:15002"} in application["env"]


def test_a_restricted_pod_runs_hardened(space: Space) -> None:
    """The namespace enforces Pod Security's `restricted`; a look from inside says that it means something."""
    space.application()
    name = space.kube.pods(space.name, app="app")[0]["metadata"]["name"]
    look = "import os; print(os.getuid(), [l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapEff', 'NoNewPrivs', 'Seccomp:'))])"

    seen = space.kube.execute(space.name, name, "outrider", "python", "-c", look)
    with pytest.raises(Exception, match="Read-only file system"):
        space.kube.execute(space.name, name, "outrider", "python", "-c", "open('/opt/outrider/x', 'w')")

    assert seen.split(" ", 1)[0] not in ("0", "")
    assert "'0000000000000000'" in seen
    assert seen.count("'1'") + seen.count("'2'") == 2, seen


def test_a_job_completes_and_its_sidecar_ends_with_it(space: Space) -> None:
    work = workloads.container(
        "work", space.images.application, "", command=["python3", "-c", GET_THROUGH_PROXY.format(namespace=space.name)]
    )
    space.application("target", configmap="sidecar")
    asking = injected(pod_template([work], app="job", restartPolicy="Never"), configmap="sidecar", app_port=0, outbound_proxy_env="true")
    space.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": {"backoffLimit": 0, "template": asking}})

    def done() -> Json | None:
        status = space.kube.get("Job", space.name, "job").get("status", {})
        assert not status.get("failed"), space.kube.logs(
            space.name, space.kube.all("Pod", space.name, labels="app=job")[0]["metadata"]["name"], "work"
        )
        return status if status.get("succeeded") else None

    wait_for(done, "the job is complete", timeout=120)
    finished = space.kube.all("Pod", space.name, labels="app=job")[0]
    assert container_status(finished, "outrider")["state"]["terminated"]["exitCode"] == 0
    assert "200 1.1 outrider" in space.kube.logs(space.name, finished["metadata"]["name"], "work")


GET_THROUGH_PROXY = "import urllib.request as u; r = u.urlopen('http://target.{namespace}.svc/', timeout=20); print(r.status, r.headers['via'].split(',')[-1].strip())"


def test_an_init_container_may_use_the_sidecar(space: Space) -> None:
    space.application("target", configmap="sidecar")
    first = workloads.container(
        "first", space.images.application, "", command=["python3", "-c", GET_THROUGH_PROXY.format(namespace=space.name)]
    )
    asking = pod_template([workloads.application(space.images.application)], app="app", inits=[first])
    space.apply(pod("app", injected(asking, configmap="sidecar", outbound_proxy_env="true")))

    ready = space.kube.wait_ready(space.name, "app")

    assert [one["name"] for one in ready["spec"]["initContainers"]] == ["outrider", "first"]
    assert "200 1.1 outrider" in space.kube.logs(space.name, "app", "first")


def test_a_plain_container_does_it_without_native_sidecars(space: Space) -> None:
    space.application(native_sidecar="disabled")
    one = space.kube.pods(space.name, app="app")[0]

    assert [container["name"] for container in one["spec"]["containers"]] == ["outrider", "app"]
    assert space.kube.from_pod(space.name, one["metadata"]["name"], 15001, "/").headers["x-mark"] == "first"


def test_a_guaranteed_pod_stays_guaranteed(space: Space) -> None:
    resources = {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"cpu": "20m", "memory": "64Mi"}}
    asking = pod_template([workloads.application(space.images.application, resources=resources)], app="app")

    stored = space.kube.create("Pod", space.name, pod("probe", injected(asking)), dry_run=True)

    assert stored["status"]["qosClass"] == "Guaranteed"
    assert has_sidecar(stored)


WAYS = ["library", "outrider inject"]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_makes_the_same_pod(way: str, space: Space, bare: Space, helming: helm.Helm, given: Settings, tmp_path: Path) -> None:
    """What the cluster's injection makes, and what comes from a chart or a file without it, run and are equal."""
    asking = injected(template(space), configmap="sidecar", outbound_proxy_env="true")
    expected = made(space, asking)
    render = by_library if way == "library" else by_command
    bare.apply(workloads.configmap(workloads.document("elsewhere")))

    one = render(asking, bare.images, helming, tmp_path)
    bare.apply(pod("probe", one))
    running = bare.kube.wait_ready(bare.name, "probe")

    assert bare.kube.from_pod(bare.name, "probe", 15001, "/").headers["x-mark"] == "elsewhere"
    assert comparable(running) == comparable(expected)


def comparable(one: Json) -> Json:
    """Without what the scheduler adds, and who did it."""
    spec = {key: value for key, value in one["spec"].items() if key not in ("nodeName", "tolerations", "priority")}
    marks = {name: value for name, value in one["metadata"]["annotations"].items() if name.startswith("outrider.dev/")}
    mark = json.loads(marks.pop("outrider.dev/injected"))
    assert mark["version"]
    return {"spec": spec, "marks": marks}


def by_library(asking: Json, images: Images, helming: helm.Helm, folder: Path) -> Json:
    """A chart of the application's own that includes charts/outrider-lib."""
    chart = folder / "chart"
    (chart / "templates").mkdir(parents=True)
    shutil.copytree(helm.LIBRARY, chart / "charts/outrider-lib")
    (chart / "Chart.yaml").write_text(
        yaml.safe_dump(
            {"apiVersion": "v2", "name": "app", "version": "0.1.0", "dependencies": [{"name": "outrider-lib", "version": "0.1.0"}]}
        )
    )
    (chart / "values.yaml").write_text(yaml.safe_dump({"pod": asking, "outrider": {"image": helm.image_values(images.sidecar)}}))
    (chart / "templates/pod.yaml").write_text(
        """\
{{- $context := dict "podSpec" .Values.pod.spec "annotations" .Values.pod.metadata.annotations "Values" .Values.outrider }}
apiVersion: v1
kind: Pod
metadata:
  name: probe
  labels: {{- toYaml .Values.pod.metadata.labels | nindent 4 }}
  annotations: {{- include "outrider-lib.annotations" $context | nindent 4 }}
spec: {{- include "outrider-lib.podSpec" $context | nindent 2 }}
"""
    )
    rendered: Any = yaml.safe_load(helming("template", "app", str(chart)))
    return {"metadata": rendered["metadata"], "spec": rendered["spec"]}


def by_command(asking: Json, images: Images, _: helm.Helm, folder: Path) -> Json:
    """`outrider inject`, as somebody with GitOps would use it."""
    manifest = folder / "pod.json"
    manifest.write_text(json.dumps(pod("probe", asking)))
    written: Any = yaml.safe_load(run([sys.executable, "-m", "sidecar", "inject", "--filename", str(manifest), "--image", images.sidecar]))
    return {"metadata": written["metadata"], "spec": written["spec"]}


def test_the_admission_policy_injects_without_anything_running(
    given: Settings, kube: Kube, pictures: Images, helming: helm.Helm, bare: Space
) -> None:
    """The other mode of the chart than the one that the rest of the run uses, when that is the webhook."""
    if "MutatingAdmissionPolicy" not in kube.request("GET", "/apis/admissionregistration.k8s.io/v1").body.decode():
        pytest.skip("this cluster has no MutatingAdmissionPolicy v1 (Kubernetes 1.36 has)")
    release = bare.name
    try:
        helming.install(release, helm.CHART, release, helm.values("AdmissionPolicy", run_id=release, sidecar=pictures.sidecar))
        other = f"{release}-apps"
        kube.create("Namespace", "", {"metadata": {"name": other, "labels": {helm.SELECTED: release}}})
        kube.apply(*workloads.account(), workloads.scripts(), namespace=other)
        stored = helm.wait_injecting(kube, other, pictures.application)
        mark = json.loads(stored["metadata"]["annotations"]["outrider.dev/injected"])
        kube.apply(pod("app", injected(pod_template([workloads.application(pictures.application)], app="app"))), namespace=other)
        kube.wait_ready(other, "app")

        assert mark["by"] == "policy"
        assert kube.all("Pod", release) == []
        assert kube.from_pod(other, "app", 15001, "/").status == 200
    finally:
        helming.uninstall(release, release)
        kube.delete("Namespace", "", f"{release}-apps")
