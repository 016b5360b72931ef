"""Traces in a real Jaeger and series in a real Prometheus, both in the cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from conftest import Images, Space
from kit import images, workloads
from kit.cluster import Cluster
from kit.kube import Json, wait_for
from kit.settings import Settings

MANIFEST = Path(__file__).parent / "telemetry.yaml"
SERVICES = ("frontend", "backend")


@pytest.fixture
def observed(given: Settings, cluster: Cluster, pictures: Images, space: Space) -> Space:
    """A namespace with both of them, ready."""
    text = MANIFEST.read_text()
    for name, value in (("jaeger", given.jaeger), ("prometheus", given.prometheus)):
        if not value:
            pytest.skip(f"NO {name.upper()}: name its program, or an image of it, in E2E_{name.upper()}")
        reference = value
        if Path(value).is_file():
            reference = images.around(given, name, value)
            cluster.load_image(reference)
        text = text.replace(f"{name.upper()}_IMAGE", reference)
    space.apply(*yaml.safe_load_all(text))
    for name in ("jaeger", "prometheus"):
        space.kube.wait_pods(space.name, app=name, count=1)
    return space


def service_of(space: Space, name: str) -> None:
    """An application with its sidecar, which both tell Jaeger what they do."""
    collector = f"http://jaeger.{space.name}.svc:4318"
    environment = [{"name": "OTLP", "value": collector}, {"name": "SERVICE", "value": f"{name}-code"}]
    template = workloads.pod_template(
        [workloads.application(space.images.application, env=environment)], app=name, labels={"app.kubernetes.io/name": name}
    )
    space.application(name, template=template, outbound_proxy_env="true")


def spans_of(trace: Json) -> dict[str, Json]:
    """Spans by id, each with its service under `service`."""
    services = {key: value["serviceName"] for key, value in trace["processes"].items()}
    return {one["spanID"]: {**one, "service": services[one["processID"]]} for one in trace["spans"]}


def parent_of(span: Json) -> str:
    return next((str(one["spanID"]) for one in span["references"] if one["refType"] == "CHILD_OF"), "")


def test_one_trace_has_the_application_and_both_sidecars_in_their_order(observed: Space) -> None:
    space = observed
    tracing = {"tracing": {"exporter": "OTLP", "endpoint": f"http://jaeger.{space.name}.svc:4318", "sampler": "AlwaysOn"}}
    space.apply(workloads.configmap(workloads.document(telemetry=tracing)))
    for name in SERVICES:
        service_of(space, name)
    pod = space.kube.pods(space.name, app="frontend")[0]["metadata"]["name"]

    answer = space.kube.from_pod(space.name, pod, 15001, "/call?url=" + quote(f"http://backend.{space.name}.svc/"))
    assert answer.status == 200
    assert answer.json()["status"] == 200, answer.body
    trace_id = answer.json()["answer"]["headers"]["traceparent"].split("-")[1]

    def complete() -> dict[str, Json] | None:
        found = space.kube.from_service(space.name, "jaeger", 16686, f"/api/traces/{trace_id}")
        spans = spans_of(found.json()["data"][0]) if found.status == 200 else {}
        return spans if len(spans) == 8 else None

    spans = wait_for(complete, "the trace is complete", timeout=30)
    innermost = next(one for one in spans.values() if one["service"] == "backend" and kind(one) == "client")
    way = []
    span: Json | None = innermost
    while span is not None:
        way.append((span["service"], kind(span)))
        span = spans.get(parent_of(span))

    assert way[::-1] == [
        ("frontend", "server"),
        ("frontend", "client"),
        ("frontend-code", "server"),
        ("frontend-code", "client"),
        *OUTBOUND,
        ("backend", "server"),
        ("backend", "client"),
    ]


OUTBOUND: list[tuple[str, str]] = [("frontend", "server"), ("frontend", "client")]
"""What the frontend's own sidecar does on the way out."""


def kind(span: Json) -> str:
    return next((str(one["value"]) for one in span["tags"] if one["key"] == "span.kind"), "")


def test_every_sidecars_series_are_in_prometheus(observed: Space) -> None:
    space = observed
    space.application(replicas=2)
    names = {one["metadata"]["name"] for one in space.kube.pods(space.name, app="app")}
    for name in names:
        assert space.kube.from_pod(space.name, name, 15001, "/").status == 200

    def ask(query: str) -> list[Any]:
        answer = space.kube.from_service(space.name, "prometheus", 9090, "/api/v1/query?query=" + quote(query)).json()
        assert answer["status"] == "success", answer
        found: list[Any] = answer["data"]["result"]
        return found

    def counted() -> list[Any] | None:
        found = ask('outrider_requests_total{route="all", code="200", container="outrider"} > 0')
        return found if {one["metric"]["pod"] for one in found} == names else None

    wait_for(counted, "both pods' requests are counted", timeout=60)
    assert {one["value"][1] for one in ask("up")} == {"1"}
    assert len(ask("outrider_config_info")) == len(names)
