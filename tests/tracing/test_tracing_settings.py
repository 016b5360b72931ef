"""The document, then the environment, then defaults: what tracing does, and what is said about variables that make no sense."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.model.telemetry import Exporter, Propagator, Sampler
from sidecar.model.telemetry import Tracing as Document
from sidecar.observe.tracing.resource import make_resource, service_name
from sidecar.observe.tracing.settings import Kind, Settings, resolve, shown

URL = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
OTLP = Document(exporter=Exporter.OTLP)


def settings(document: Document | None = None, warnings: list[str] | None = None, **env: str) -> Settings | None:
    said: list[str] = []
    found = resolve(document or Document(), env, said.append)
    assert said == (warnings or [])
    return found


def given(document: Document | None = None, **env: str) -> Settings:
    found = settings(document, **env)
    assert found is not None
    return found


def test_nothing_said_is_off():
    assert settings() is None
    assert settings(Document(endpoint="http://collector:4318", sampler=Sampler.ALWAYS_ON)) is None


@pytest.mark.parametrize(
    ("env", "kind"),
    [
        (URL, Kind.HTTP),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, Kind.HTTP),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, Kind.HTTP),
        ({"OTEL_TRACES_EXPORTER": "console"}, Kind.CONSOLE),
        ({**URL, "OTEL_TRACES_EXPORTER": "none"}, None),
        ({**URL, "OTEL_TRACES_EXPORTER": ""}, Kind.HTTP),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, None),
        ({**URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, Kind.GRPC),
        ({**URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, Kind.HTTP),
        ({**URL, "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({**URL, "OTEL_SDK_DISABLED": "1"}, Kind.HTTP),
    ],
)
def test_the_environment_speaks_where_the_document_is_silent(env: dict[str, str], kind: Kind | None):
    found = settings(**env)
    assert (None if found is None else found.kind) is kind
    assert found is None or not found.from_document


def test_the_document_wins_and_only_the_kill_switch_wins_over_it():
    found = given(
        Document(exporter=Exporter.OTLP, endpoint="http://mine:4318/"),
        **URL,
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        OTEL_TRACES_EXPORTER="none",
    )
    assert (found.kind, found.endpoint, found.from_document) == (Kind.HTTP, "http://mine:4318/v1/traces", True)
    assert settings(OTLP, OTEL_SDK_DISABLED="true") is None


def test_a_grpc_endpoint_gets_no_path():
    assert given(Document(exporter=Exporter.OTLP_GRPC, endpoint="http://mine:4317")).endpoint == "http://mine:4317"


@pytest.mark.parametrize(
    ("document", "env", "expected"),
    [
        ({}, {}, ("ParentBasedTraceIdRatio", 0.01, True)),
        ({"ratio": 0.5}, {}, ("ParentBasedTraceIdRatio", 0.5, True)),
        ({}, {"OTEL_TRACES_SAMPLER_ARG": "0.25"}, ("ParentBasedTraceIdRatio", 0.25, True)),
        ({"ratio": 0.5}, {"OTEL_TRACES_SAMPLER_ARG": "0.25"}, ("ParentBasedTraceIdRatio", 0.5, True)),
        ({"sampler": Sampler.RATIO, "ratio": 0.5}, {"OTEL_TRACES_SAMPLER": "always_on"}, ("TraceIdRatio", 0.5, False)),
        ({"sampler": Sampler.ALWAYS_ON}, {}, ("AlwaysOn", 1.0, False)),
        ({"sampler": Sampler.ALWAYS_OFF}, {}, ("AlwaysOff", 0.0, False)),
        ({}, {"OTEL_TRACES_SAMPLER": "always_on"}, ("always_on", 1.0, False)),
        ({}, {"OTEL_TRACES_SAMPLER": "always_off"}, ("always_off", 0.0, False)),
        ({}, {"OTEL_TRACES_SAMPLER": "traceidratio"}, ("traceidratio", 1.0, False)),
        ({}, {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}, ("traceidratio", 0.1, False)),
        ({}, {"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, ("parentbased_always_on", 1.0, True)),
        ({}, {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, ("parentbased_always_off", 0.0, True)),
        ({}, {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, ("parentbased_traceidratio", 0.0, True)),
    ],
)
def test_samplers(document: dict[str, Any], env: dict[str, str], expected: tuple[str, float, bool]):
    found = given(Document(exporter=Exporter.OTLP, **document), **env)
    assert (found.sampler, found.ratio, found.parent_based) == expected


def test_batches_and_queues_are_bounded():
    found = given(OTLP)
    assert (found.queue, found.batch, found.delay) == (2048, 128, 1.0)
    found = given(OTLP, OTEL_BSP_MAX_QUEUE_SIZE="100", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="512", OTEL_BSP_SCHEDULE_DELAY="250")
    assert (found.queue, found.batch, found.delay) == (100, 100, 0.25)
    found = given(OTLP, OTEL_BSP_MAX_QUEUE_SIZE="99999999", OTEL_BSP_SCHEDULE_DELAY="inf")
    assert (found.queue, found.delay) == (65536, 60.0)


def test_propagators():
    assert given(OTLP).propagators == (Propagator.TRACE_CONTEXT, Propagator.BAGGAGE)
    assert given(OTLP, OTEL_PROPAGATORS="b3, tracecontext,b3").propagators == (Propagator.B3, Propagator.TRACE_CONTEXT)
    assert given(OTLP, OTEL_PROPAGATORS="none").propagators == ()
    assert given(Document(exporter=Exporter.OTLP, propagators=()), OTEL_PROPAGATORS="b3").propagators == ()


def test_methods_that_spans_name():
    assert "QUERY" in given(OTLP).methods
    assert given(OTLP, OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS="GET,BREW").methods == {"GET", "BREW"}


@pytest.mark.parametrize(
    ("env", "warning"),
    [
        ({"OTEL_TRACES_SAMPLER_ARG": "half"}, "OTEL_TRACES_SAMPLER_ARG=half is not a number that makes sense here; 0.01 is used"),
        ({"OTEL_TRACES_SAMPLER_ARG": "nan"}, "OTEL_TRACES_SAMPLER_ARG=nan is not a number that makes sense here; 0.01 is used"),
        ({"OTEL_TRACES_SAMPLER_ARG": "7"}, "OTEL_TRACES_SAMPLER_ARG=7 is not between 0 and 1; 0.01 is used"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "OTEL_BSP_MAX_QUEUE_SIZE=-1 is not a number that makes sense here; 2048 is used"),
        (
            {"OTEL_TRACES_SAMPLER": "jaeger_remote"},
            "OTEL_TRACES_SAMPLER=jaeger_remote is not known here (always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off, parentbased_traceidratio)",
        ),
        (
            {"OTEL_PROPAGATORS": "ottrace"},
            "OTEL_PROPAGATORS: ottrace is not known here (tracecontext, baggage, b3, b3multi, jaeger); it is left out",
        ),
        (
            {"OTEL_PYTHON_EXCLUDED_URLS": "("},
            "OTEL_PYTHON_EXCLUDED_URLS: ( is not a regular expression (missing ), unterminated subpattern at position 0); it is left out",
        ),
    ],
)
def test_variables_that_make_no_sense_are_named_and_ignored(env: dict[str, str], warning: str):
    assert settings(OTLP, [warning], **env) is not None


def test_other_exporters_and_protocols_are_named():
    warning = "OTEL_TRACES_EXPORTER=zipkin is not known here (otlp, console, none); no spans are exported"
    assert settings(None, [warning], OTEL_TRACES_EXPORTER="zipkin") is None
    warning = "OTEL_EXPORTER_OTLP_PROTOCOL=http/json is not known here (http/protobuf, grpc); http/protobuf is used"
    found = settings(None, [warning], **URL, OTEL_EXPORTER_OTLP_PROTOCOL="http/json")
    assert found is not None
    assert found.kind is Kind.HTTP


def test_what_is_shown_is_what_holds():
    assert shown(None) == {"exporter": "None"}
    assert shown(given(**URL, OTEL_TRACES_SAMPLER="always_on")) == {
        "exporter": "OTLP",
        "sampler": "always_on",
        "ratio": 1.0,
        "propagators": ["tracecontext", "baggage"],
    }
    assert shown(given(Document(exporter=Exporter.OTLP, endpoint="http://c:4318")))["endpoint"] == "http://c:4318"


POD = {"POD_NAME": "orders-7d4b9c6f5b-x2x9z", "POD_UID": "u-1", "POD_NAMESPACE": "shop", "NODE_NAME": "node-1", "NODE_ZONE": "zone-a"}


def resource(monkeypatch: pytest.MonkeyPatch, **env: str) -> dict[str, Any]:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return dict(make_resource(env).attributes)


def test_the_resource_of_a_pod(monkeypatch: pytest.MonkeyPatch):
    found = resource(monkeypatch, **POD)
    assert {name: value for name, value in found.items() if not name.startswith("telemetry.")} == {
        "service.name": "orders",
        "service.namespace": "shop",
        "service.instance.id": "shop.orders-7d4b9c6f5b-x2x9z.outrider",
        "k8s.pod.name": "orders-7d4b9c6f5b-x2x9z",
        "k8s.pod.uid": "u-1",
        "k8s.namespace.name": "shop",
        "k8s.node.name": "node-1",
        "k8s.container.name": "outrider",
        "cloud.availability_zone": "zone-a",
    }
    assert (found["telemetry.sdk.name"], found["telemetry.distro.name"]) == ("opentelemetry", "outrider")


def test_what_the_environment_says_about_the_resource_wins(monkeypatch: pytest.MonkeyPatch):
    found = resource(monkeypatch, **POD, OTEL_RESOURCE_ATTRIBUTES="service.name=mine,service.instance.id=7,team=a")
    assert (found["service.name"], found["service.instance.id"], found["team"]) == ("mine", "7", "a")
    assert resource(monkeypatch, **POD, OTEL_SERVICE_NAME="yours")["service.name"] == "yours"


def test_without_a_pod_the_service_is_the_sidecar(monkeypatch: pytest.MonkeyPatch):
    found = resource(monkeypatch)
    assert found["service.name"] == "outrider"
    assert len(found["service.instance.id"]) == 36


@pytest.mark.parametrize(
    ("pod", "name"),
    [
        ("orders-7d4b9c6f5b-x2x9z", "orders"),
        ("orders-api-6799fc88d8-bq2tw", "orders-api"),
        ("orders-0", "orders"),
        ("orders-12", "orders"),
        ("orders", "orders"),
        ("my-app-worker", "my-app-worker"),
        ("", "outrider"),
    ],
)
def test_the_service_is_named_after_what_owns_the_pod(pod: str, name: str):
    assert service_name(pod) == name
