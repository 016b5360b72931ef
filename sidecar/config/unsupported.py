"""Fields whose feature is not built yet: anything but the default is refused, never accepted and ignored."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

from msgspec import NODEFAULT, UNSET, Struct, inspect

from sidecar.config.problem import Path
from sidecar.config.rules_ends import Finding
from sidecar.config.shape import document_type, walk_types
from sidecar.config.words import flat_union


class _Field(NamedTuple):
    attribute: str
    name: str
    later: bool
    default: Any


@cache
def _types() -> dict[type, inspect.StructType]:
    return {kind.cls: kind for kind in walk_types(document_type())}


@cache
def _plan(struct: type[Struct]) -> tuple[_Field, ...]:
    """The fields of a mapping type that are marked, or hold mappings with marked fields below."""
    fields = []
    for field in _types()[struct].fields:
        later = is_later(field)
        if later or any(_plan(one.cls) for one in _structs(field.type)):
            fields.append(_Field(field.name, field.encode_name, later, default_of(field)))
    return tuple(fields)


def is_later(field: inspect.Field) -> bool:
    """Whether the field is marked as not supported in this version."""
    return isinstance(field.type, inspect.Metadata) and bool((field.type.extra or {}).get("later"))


def default_of(field: inspect.Field) -> Any:
    """The default of a field; `NODEFAULT` when it is required."""
    return field.default if field.default_factory is NODEFAULT else field.default_factory()


def _structs(kind: inspect.Type) -> Iterator[inspect.StructType]:
    for one in flat_union(kind):
        if isinstance(one, inspect.StructType):
            yield one
        elif isinstance(one, inspect.ListType):
            yield from _structs(one.item_type)


def check_unsupported(value: Struct, path: Path = ()) -> Iterator[Finding]:
    """A finding for each marked field below `value` that has not its default. An explicit default or null is fine."""
    for field in _plan(type(value)):
        child = getattr(value, field.attribute)
        place = (*path, field.name)
        if child is None or child is UNSET:
            continue
        if field.later:
            if child != field.default:
                yield place, _refusal(child, field.default)
        elif isinstance(child, Struct):
            yield from check_unsupported(child, place)
        else:
            for index, item in enumerate(child):
                if isinstance(item, Struct):
                    yield from check_unsupported(item, (*place, index))


def _refusal(value: Any, default: Any) -> str:
    if isinstance(value, Enum):
        return f"{value.value} is not supported in this version (remove the line, or write {default.value})"
    return "not supported in this version (remove it)"
