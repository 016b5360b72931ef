"""Numbers that the project promises, measured on this cluster. What a machine can be too slow for is shown, not judged."""

from __future__ import annotations

import re
import time
from statistics import median

from conftest import Images, Space
from kit import images, workloads
from kit.artifacts import Figures
from kit.kube import Json, containers, is_ready
from kit.settings import Settings
from kit.workloads import injected, pod, pod_template

PODS = 8
ADMISSIONS = 300
SMALL = "100m"


def test_sizes_of_the_images(given: Settings, pictures: Images, figures: Figures) -> None:
    for name in (pictures.sidecar, pictures.injector, pictures.application):
        if name:
            whole, packed = images.size(given, name), images.compressed_size(given, name)
            figures[f"size of {name.partition(':')[0]}, MB"] = {"unpacked": round(whole / 1e6), "compressed": round(packed / 1e6)}

    own = images.size(given, pictures.sidecar) - images.size(given, pictures.application)
    assert own < 80e6, "what the sidecar adds to its base image"


def test_the_delay_that_the_sidecar_adds_to_a_pods_start(space: Space, figures: Figures) -> None:
    """From the request that creates the pod to Ready, in turn without a sidecar and with one that may use so much CPU."""
    limits = {"requests": {"cpu": SMALL, "memory": "64Mi"}, "limits": {"cpu": SMALL, "memory": "64Mi"}}
    waiting = workloads.container("app", space.images.application, "", command=["sleep", "1000"], resources=limits)
    plain = pod_template([waiting], app="start")
    kinds = {
        "plain": plain,
        SMALL: injected(plain, configmap="sidecar", cpu_request=SMALL),
        "250m": injected(plain, configmap="sidecar"),  # what it has in pods that are Guaranteed
        "no quota": unlimited(injected(plain, configmap="sidecar")),
    }
    took: dict[str, list[float]] = {kind: [] for kind in kinds}

    for number in range(PODS):
        for kind, template in kinds.items():
            name = f"{kind.replace(' ', '-')}-{number}"
            took[kind].append(seconds_to_ready(space, pod(name, template)))
            if kind in (SMALL, "250m"):
                assert sidecars_cpu_limit(space, name) == kind
            space.kube.delete("Pod", space.name, name, seconds=0)

    middle = {kind: median(values) for kind, values in took.items()}
    figures[f"pod start without a sidecar, seconds (median of {PODS})"] = round(middle["plain"], 2)
    figures["added by a sidecar, by its CPU limit, seconds"] = {
        kind: round(value - middle["plain"], 2) for kind, value in middle.items() if kind != "plain"
    }
    assert middle[SMALL] - middle["plain"] < 15, "it is not held up by something that has a time-out"


def sidecars_cpu_limit(space: Space, name: str) -> str:
    """`limits.cpu` of the sidecar in a pod."""
    sidecar = next(one for one in containers(space.kube.get("Pod", space.name, name)) if one["name"] == "outrider")
    return str(sidecar["resources"]["limits"]["cpu"])


def unlimited(template: Json) -> Json:
    """Not of the class Guaranteed, so that the sidecar has no CPU limit."""
    container = {**template["spec"]["containers"][0], "resources": {"requests": {"cpu": "10m"}}}
    return {**template, "spec": {**template["spec"], "containers": [container]}}


def seconds_to_ready(space: Space, one: Json) -> float:
    """Create it and look until it is Ready."""
    began = time.monotonic()
    space.kube.create("Pod", space.name, one)
    while not is_ready(space.kube.get("Pod", space.name, one["metadata"]["name"])):
        assert time.monotonic() < began + 120
        time.sleep(0.02)
    return time.monotonic() - began


def test_the_time_that_injection_takes(space: Space, release: str, given: Settings, figures: Figures) -> None:
    body = pod("probe", injected(pod_template([workloads.application(space.images.application)], app="probe"), configmap="sidecar"))
    without = {**body, "metadata": {**body["metadata"], "labels": {**body["metadata"]["labels"], "outrider.dev/inject": "false"}}}
    before = admission_buckets(space, given)
    took: dict[str, list[float]] = {"injected": [], "left alone": []}

    for _ in range(ADMISSIONS):
        for kind, one in (("injected", body), ("left alone", without)):
            began = time.monotonic()
            space.kube.create("Pod", space.name, one, dry_run=True)
            took[kind].append(time.monotonic() - began)

    for kind, values in took.items():
        ordered = sorted(values)
        figures[f"creating a pod that is {kind}, ms"] = {
            "p50": round(ordered[len(ordered) // 2] * 1e3, 1),
            "p99": round(ordered[int(len(ordered) * 0.99)] * 1e3, 1),
        }
    if given.injection == "Webhook":
        figures["p99 of the webhook as the API server sees it, ms (upper bound of its bucket)"] = quantile(
            before, admission_buckets(space, given)
        )
        figures["p99 of the injector's answer, ms (upper bound of its bucket)"] = own_quantile(space, release)
    assert median(took["injected"]) - median(took["left alone"]) < 1


METRIC = re.compile(r"^(apiserver_admission_webhook_admission_duration_seconds_bucket)\{(.*)\} (\S+)$", re.MULTILINE)


def admission_buckets(space: Space, given: Settings) -> dict[float, float]:
    """The API server's histogram of our webhook's time: bound (seconds) to count."""
    if given.injection != "Webhook":
        return {}
    text = space.kube.request("GET", "/metrics").body.decode()
    found: dict[float, float] = {}
    for _, labels, value in METRIC.findall(text):
        if 'name="pod.inject.outrider.dev"' in labels:
            bound = bound_of(labels)
            found[bound] = found.get(bound, 0) + float(value)
    return found


def quantile(before: dict[float, float], after: dict[float, float], share: float = 0.99) -> float:
    """The upper bound, ms, of the bucket that has the quantile."""
    counts = {bound: value - before.get(bound, 0) for bound, value in after.items()}
    total = max(counts.values())
    return min(bound for bound, value in counts.items() if value >= share * total) * 1000


def own_quantile(space: Space, release: str) -> float:
    """The same from the injector's own histogram, since it started."""
    injector = space.kube.all("Pod", release)[0]["metadata"]["name"]
    text = space.kube.from_pod(release, injector, 15021, "/metrics").body.decode()
    lines = re.findall(r"^outrider_injector_request_duration_seconds_bucket\{(.*)\} (\S+)$", text, re.MULTILINE)
    return quantile({}, {bound_of(labels): float(value) for labels, value in lines if 'webhook="inject"' in labels})


def bound_of(labels: str) -> float:
    """The upper bound of a histogram's bucket, seconds."""
    return float(labels.partition('le="')[2].partition('"')[0])
