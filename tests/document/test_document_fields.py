"""No field of the document is read and ignored: each has a test of its effect, or is refused with line and path."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from document_kit import Document, document, problems_of, proves
from msgspec import inspect

from sidecar.config.shape import document_type
from sidecar.config.unsupported import is_later
from sidecar.config.words import flat_union

NOT_YET: dict[str, Any] = {
    "listeners[].tls": {"certFile": "a.pem", "keyFile": "a.key"},
    "upstreams[].service": {"name": "orders", "port": "http"},
    "upstreams[].client": "Httpx",
    "upstreams[].protocol": "H2C",
    "upstreams[].tls": {"hostname": "a.example"},
    "upstreams[].proxyURL": "http://proxy:3128",
    "upstreams[].outlierDetection": {"consecutiveFailures": 3},
    "upstreams[].circuitBreaker": {},
    "upstreams[].healthCheck": {},
    "routes[].filters[].requestMirror": {"backendRef": {"name": "app"}},
    "telemetry.tracing.exporter": "OTLP",
    "telemetry.tracing.endpoint": "http://collector:4318",
    "telemetry.tracing.sampler": "AlwaysOn",
    "telemetry.tracing.ratio": 0.5,
    "telemetry.tracing.propagators": ["b3"],
}
"""Fields whose feature is not built, with a value that must be refused."""
TESTS = [importlib.import_module(file.stem) for file in sorted(Path(__file__).parent.glob("test_*.py")) if file != Path(__file__)]


def leaves(struct: inspect.StructType, path: str = "") -> Iterator[tuple[str, bool]]:
    """Every field below `struct` that holds a plain value, and every value of closed lists; True: not supported yet."""
    for field in struct.fields:
        place = f"{path}.{field.encode_name}" if path else field.encode_name
        if is_later(field):
            yield place, True
        else:
            yield from _inside(field.type, place)


def _inside(kind: inspect.Type, place: str) -> Iterator[tuple[str, bool]]:
    plain = False
    for one in flat_union(kind):
        if isinstance(one, inspect.StructType):
            yield from leaves(one, place)
        elif isinstance(one, inspect.ListType):
            yield from _inside(one.item_type, f"{place}[]")
        elif isinstance(one, inspect.EnumType):
            yield from ((f"{place}={member.value}", False) for member in _members(one))
        elif isinstance(one, inspect.LiteralType):
            yield from ((f"{place}={value}", False) for value in one.values)
        elif type(one).__name__ not in ("NoneType", "UnsetType"):
            plain = True
    if plain:
        yield place, False


def _members(kind: inspect.EnumType) -> list[Enum]:
    return list(kind.cls)


def model() -> dict[str, bool]:
    return dict(leaves(document_type()))


def proven() -> dict[str, list[str]]:
    """What the tests beside this file claim to show: field -> names of the tests."""
    found: dict[str, list[str]] = {}
    for module in (*TESTS, sys.modules[__name__]):
        for name, test in vars(module).items():
            if name.startswith("test_"):
                for field in getattr(test, "proves", ()):
                    found.setdefault(field, []).append(name)
    return found


def test_every_field_and_value_has_a_test_of_its_effect_or_is_refused() -> None:
    claimed = proven()
    assert [field for field, later in model().items() if not later and field not in claimed] == []


def test_every_field_that_is_not_built_has_a_value_that_is_tried() -> None:
    assert [field for field, later in model().items() if later] == list(NOT_YET)


def test_no_test_claims_a_field_that_does_not_exist() -> None:
    assert [field for field in proven() if field not in model()] == []


def with_value(field: str, value: Any) -> Document:
    """A good document but for `value` at `field`."""
    doc = document(8000)
    top, _, rest = field.partition(".")
    if top == "listeners[]":
        doc["listeners"][0][rest] = value
    elif top == "upstreams[]":
        doc["upstreams"][0][rest] = value
    elif top == "telemetry":
        doc["telemetry"] = {"tracing": {rest.removeprefix("tracing."): value}}
    else:
        doc["routes"][0]["filters"] = [{"type": "RequestMirror", "requestMirror": value}]
    return doc


@pytest.mark.parametrize("field", NOT_YET)
def test_what_is_not_built_is_refused_with_line_and_path(field: str) -> None:
    doc = with_value(field, NOT_YET[field])
    key = field.rpartition(".")[2]
    line = next(number for number, text in enumerate(json.dumps(doc, indent=1).split("\n"), 1) if f'"{key}"' in text)
    path = field.replace("[]", "[0]")
    found = problems_of(doc)
    assert any(problem.startswith(f"{line}: {path}: ") and "not supported in this version" in problem for problem in found), found


@proves("routes[].filters[].type=RequestMirror")
def test_a_mirror_filter_without_parameters_is_refused_too() -> None:
    doc = with_value("routes[].filters[].requestMirror", None)
    assert "routes[0].filters[0].type: RequestMirror is not supported in this version" in problems_of(doc)[0]


def test_https_targets_are_refused() -> None:
    found = problems_of(document("https://orders.example"))
    assert len(found) == 1
    assert "upstreams[0].targets[0].url: " in found[0]
    assert "not supported in this version" in found[0]


@proves("apiVersion=outrider.dev/v1alpha1", "kind=SidecarConfig")
def test_another_version_or_kind_is_refused_and_each_is_required() -> None:
    good = document(8000)
    assert problems_of(good) == []
    for key in ("apiVersion", "kind"):
        assert f": {key}: " in problems_of({**good, key: "v2"})[0]
        assert key in problems_of({name: value for name, value in good.items() if name != key})[0]


def test_unknown_fields_are_refused_at_every_level() -> None:
    for place, part in (("", {}), ("listeners[0].", "listeners"), ("upstreams[0].", "upstreams"), ("routes[0].", "routes")):
        doc = document(8000)
        (doc[part][0] if isinstance(part, str) else doc)["surprise"] = 1
        assert any(f"{place}surprise" in problem for problem in problems_of(doc)), place
