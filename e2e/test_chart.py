"""The chart: installed, tested, upgraded under load, rotated, taken away; and what the repository says may be applied."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from conftest import Images, Space
from kit import helm, images, workloads
from kit.artifacts import Figures
from kit.cluster import Cluster
from kit.command import CommandFailed
from kit.inventory import inventory
from kit.kube import ApiError, Json, Kube, containers, wait_for
from kit.load import assert_none_failed
from kit.settings import ROOT, Settings
from kit.workloads import injected, pod, pod_template
from test_traffic import RATE, restart, settle

OLDER = "0.0.9"


def has_sidecar(one: Json) -> bool:
    return any(container["name"] == "outrider" for container in containers(one))


@contextmanager
def pods_asked_for(space: Space) -> Iterator[Counter[str]]:
    """Pods are asked for all the time (dry runs); how many got a sidecar, how many did not, how many were refused."""
    seen: Counter[str] = Counter()
    ending = threading.Event()
    body = pod("probe", injected(pod_template([workloads.application(space.images.application)], app="probe")))

    def ask() -> None:
        while not ending.wait(0.1):
            try:
                stored = space.kube.create("Pod", space.name, body, dry_run=True)
                seen["injected" if has_sidecar(stored) else "left out"] += 1
            except ApiError as error:
                seen[f"refused {error}"] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        ending.set()
        thread.join()


def test_helm_test_passes(release: str, helming: helm.Helm) -> None:
    said = helming("test", release, "--namespace", release, "--timeout", "120s")

    assert "Succeeded" in said


def test_nothing_is_left_after_uninstall(given: Settings, kube: Kube, pictures: Images, helming: helm.Helm, bare: Space) -> None:
    """Each kind of the cluster is looked at. In a shared cluster, only what is called like the release counts."""
    name = f"{bare.name}-gone"[-50:].lstrip("-")

    def ours(one: Json) -> bool:
        metadata = one["metadata"]
        return not given.use_current or name in json.dumps([metadata["name"], metadata.get("namespace"), metadata.get("labels")])

    kube.create("Namespace", "", {"metadata": {"name": name}})
    wait_for(lambda: kube.find("ConfigMap", name, "kube-root-ca.crt"), "the namespace is complete")
    before = inventory(kube, ours)
    values = helm.values(given.injection, run_id=name, sidecar=pictures.sidecar, injector=pictures.injector)
    values["metrics"] = {"dashboards": {"enabled": True}}
    values["rbac"] = {"applicationNamespaces": [{"name": bare.name, "configMaps": ["sidecar"]}]}
    helming.install(name, helm.CHART, name, values)
    there = inventory(kube, ours)
    helming.uninstall(name, name)

    assert len(there - before) > 3
    wait_for(lambda: inventory(kube, ours) <= before, "nothing is left", timeout=60, every=2)
    kube.delete("Namespace", "", name)


@pytest.mark.timeout(900)
def test_an_upgrade_from_the_release_before_loses_no_request_and_leaves_no_pod_out(
    given: Settings, cluster: Cluster, kube: Kube, pictures: Images, helming: helm.Helm, bare: Space, figures: Figures, tmp_path: Path
) -> None:
    """The release before is this chart with other numbers and images of another content."""
    name = f"{bare.name}-up"[-50:].lstrip("-")
    old_sidecar, old_injector = pictures.sidecar, pictures.injector
    if not given.sidecar_image:
        old_sidecar = images.build(given, "sidecar", version=OLDER)
        cluster.load_image(old_sidecar)
        if given.injection == "Webhook":
            old_injector = images.build(given, "injector", version=OLDER)
            cluster.load_image(old_injector)
    kube.patch("Namespace", "", bare.name, {"metadata": {"labels": {helm.SELECTED: name}}})
    bare.apply(workloads.configmap(workloads.document()))
    try:
        older = helm.copy_of_chart(tmp_path, version=OLDER)
        helming.install(name, older, name, helm.values(given.injection, run_id=name, sidecar=old_sidecar, injector=old_injector))
        helm.wait_injecting(kube, bare.name, pictures.application)
        bare.application(replicas=3)
        load = bare.load(rate=RATE)

        with pods_asked_for(bare) as seen:
            helming.install(
                name, helm.CHART, name, helm.values(given.injection, run_id=name, sidecar=pictures.sidecar, injector=pictures.injector)
            )
            # The API server keeps its connection to an injector that drains, which still injects what it knows.
            wait_for(lambda: all("deletionTimestamp" not in one["metadata"] for one in kube.all("Pod", name)), "the older injector is gone")
            restart(bare)
        report = settle(bare, load)

        assert set(seen) == {"injected"}, seen
        assert seen["injected"] >= 10
        assert all(one["spec"]["initContainers"][0]["image"] == pictures.sidecar for one in bare.kube.pods(bare.name, app="app"))
        figures["requests failed during an upgrade of the chart"] = (
            f"{report['failed']} of {report['requests']}; pods asked for meanwhile: {seen['injected']}, all injected"
        )
        assert_none_failed(report, at_least=5 * RATE)
        listed = json.loads(helming("list", "--namespace", name, "--output", "json"))
        assert [(one["status"], one["revision"]) for one in listed] == [("deployed", "2")]
    finally:
        helming.uninstall(name, name)
        kube.delete("Namespace", "", name)


@pytest.mark.timeout(400)
def test_certificates_are_rotated_without_a_pod_left_out(given: Settings, kube: Kube, space: Space, release: str) -> None:
    if given.injection != "Webhook":
        pytest.skip("there are no certificates in this run")
    bundle = first_bundle(kube, release)
    before = bundle()

    with pods_asked_for(space) as seen:
        secret = next(one for one in kube.all("Secret", release) if "ca.key" in one.get("data", {}))
        kube.patch("Secret", release, secret["metadata"]["name"], {"data": None})  # an authority that is lost is made anew
        wait_for(lambda: len(certificates(bundle())) > len(certificates(before)), "old and new authority are both trusted", timeout=60)
        expiry = leaf_expiry(kube, release)
        wait_for(lambda: leaf_expiry(kube, release) != expiry, "the injector shows a certificate of the new one", timeout=150, every=1)
        time.sleep(3)

    assert set(seen) == {"injected"}, seen
    assert seen["injected"] > 20
    assert certificates(before) < certificates(bundle())


def first_bundle(kube: Kube, release: str) -> Callable[[], str]:
    """Reads the caBundle of the release's webhook."""
    name = next(
        one["metadata"]["name"]
        for one in kube.all("MutatingWebhookConfiguration")
        if one["metadata"]["labels"].get("app.kubernetes.io/instance") == release
    )
    return lambda: str(kube.get("MutatingWebhookConfiguration", "", name)["webhooks"][0]["clientConfig"]["caBundle"])


def certificates(bundle: str) -> set[bytes]:
    """The certificates of a caBundle."""
    return {one.strip() for one in base64.b64decode(bundle).split(b"-----END CERTIFICATE-----") if one.strip()}


def leaf_expiry(kube: Kube, release: str) -> bytes:
    """When the certificate that the injector shows expires, as its metrics say."""
    injector = kube.all("Pod", release)[0]["metadata"]["name"]
    text = kube.from_pod(release, injector, 15021, "/metrics").body
    return next((line for line in text.splitlines() if line.startswith(b"outrider_injector_certificate_expiry_timestamp_seconds ")), b"")


def test_a_bad_document_is_refused_at_apply_with_its_line(given: Settings, space: Space) -> None:
    if given.injection != "Webhook":
        pytest.skip("there is no validating webhook in this run")
    bad = workloads.configmap(workloads.document().replace("port: 15001", "port: 1500100"), name="bad")
    bad["metadata"]["labels"] = {"outrider.dev/config": "true"}

    with pytest.raises(CommandFailed, match=r"listeners\[0\]\.port"):
        space.apply(bad)

    bad["data"]["sidecar.yaml"] = workloads.document()
    space.apply(bad)


MANIFESTS = ["admission-policy.yaml", "outrider.yaml"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_api_server_takes_the_manifests(name: str, kube: Kube) -> None:
    """A server-side dry run checks every field. Objects of namespaces that a dry run does not make are checked in one that is there."""
    if (
        name == "admission-policy.yaml"
        and "MutatingAdmissionPolicy" not in kube.request("GET", "/apis/admissionregistration.k8s.io/v1").body.decode()
    ):
        pytest.skip("this cluster has no MutatingAdmissionPolicy v1 (Kubernetes 1.36 has)")
    objects = [one for one in yaml.safe_load_all((ROOT / "manifests" / name).read_text()) if one]
    for one in objects:
        if one["metadata"].get("namespace"):
            one["metadata"]["namespace"] = "default"

    said = kube.kubectl("apply", "--dry-run=server", "--filename", "-", stdin=yaml.safe_dump_all(objects))

    assert said.count("(server dry run)") == len(objects) > 2


def test_the_example_of_the_manifests_runs(space: Space, given: Settings) -> None:
    """manifests/example in a namespace of ours, with the image that the nodes have."""
    text = space.kube.kubectl("kustomize", str(ROOT / "manifests/example"))
    objects = [
        one
        for one in yaml.safe_load_all(text.replace("namespace: shop", f"namespace: {space.name}").replace(".shop.", f".{space.name}."))
        if one
    ]
    wanted = [one for one in objects if one["kind"] != "Namespace"]
    for one in wanted:
        for container in one.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ()):
            container["image"] = space.images.application
    space.kube.patch("Namespace", "", space.name, {"metadata": {"labels": {"outrider.dev/inject": "enabled"}}})
    asking = injected(pod_template([workloads.application(space.images.application)], app="probe"))
    del asking["metadata"]["labels"]["outrider.dev/inject"]
    wait_for(
        lambda: has_sidecar(space.kube.create("Pod", space.name, pod("probe", asking), dry_run=True)),
        "the namespace is enrolled",
        timeout=20,
    )
    space.apply(*wanted)

    for one in wanted:
        if one["kind"] == "Deployment":
            space.kube.kubectl(
                "rollout", "status", f"deployment/{one['metadata']['name']}", "--namespace", space.name, "--timeout=150s", timeout=160
            )
    orders = space.kube.all("Pod", space.name, labels="app.kubernetes.io/name=orders")[0]["metadata"]["name"]

    assert has_sidecar(space.kube.get("Pod", space.name, orders))
    wait_for(
        lambda: b"outrider_requests_total{" in space.kube.from_pod(space.name, orders, 15021, "/metrics").body,
        "the load arrives",
        timeout=60,
    )
