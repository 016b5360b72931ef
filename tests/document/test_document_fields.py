"""No field of the document is read and ignored: each has a test of its effect."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from document_kit import document, problems_of, proves
from msgspec import inspect

from sidecar.config.shape import document_type
from sidecar.config.words import flat_union

TESTS = [importlib.import_module(file.stem) for file in sorted(Path(__file__).parent.glob("test_*.py")) if file != Path(__file__)]


def leaves(struct: inspect.StructType, path: str = "") -> Iterator[str]:
    """Every field below `struct` that holds a plain value, and every value of closed lists."""
    for field in struct.fields:
        yield from _inside(field.type, f"{path}.{field.encode_name}" if path else field.encode_name)


def _inside(kind: inspect.Type, place: str) -> Iterator[str]:
    plain = False
    for one in flat_union(kind):
        if isinstance(one, inspect.StructType):
            yield from leaves(one, place)
        elif isinstance(one, inspect.ListType):
            yield from _inside(one.item_type, f"{place}[]")
        elif isinstance(one, inspect.EnumType):
            yield from ((f"{place}={member.value}") for member in _members(one))
        elif isinstance(one, inspect.LiteralType):
            yield from ((f"{place}={value}") for value in one.values)
        elif type(one).__name__ not in ("NoneType", "UnsetType"):
            plain = True
    if plain:
        yield place


def _members(kind: inspect.EnumType) -> list[Enum]:
    return list(kind.cls)


def model() -> list[str]:
    return list(dict.fromkeys(leaves(document_type())))


def proven() -> dict[str, list[str]]:
    """What the tests beside this file claim to show: field -> names of the tests."""
    found: dict[str, list[str]] = {}
    for module in (*TESTS, sys.modules[__name__]):
        for name, test in vars(module).items():
            if name.startswith("test_"):
                for field in getattr(test, "proves", ()):
                    found.setdefault(field, []).append(name)
    return found


def test_every_field_and_value_has_a_test_of_its_effect() -> None:
    claimed = proven()
    assert [field for field in model() if field not in claimed] == []


def test_no_test_claims_a_field_that_does_not_exist() -> None:
    assert [field for field in proven() if field not in model()] == []


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
