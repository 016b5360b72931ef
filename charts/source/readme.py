"""The table of values in charts/outrider/README.md: texts and defaults from values.yaml, types from values.schema.json.

A value is what a comment `# -- text` stands above in values.yaml. The schema decides what may be written; this decides
nothing, and fails when the two files do not know the same values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from charts.source.catalog import ROOT

CHART: Final = ROOT / "charts/outrider"
BEGIN, END = "<!-- values: begin (written by `make charts`) -->", "<!-- values: end -->"
_KEY: Final = re.compile(r"( *)([A-Za-z]+):")


class Value(NamedTuple):
    """One value: its path with dots, what it is, its default, its meaning."""

    path: str
    kind: str
    default: str
    text: str


def readme() -> str:
    """The README with its table as it should be. ValueError: the files disagree, or the README has no place for the table."""
    text = (CHART / "README.md").read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError("charts/outrider/README.md has no place for the table of values any more")
    return f"{head}{BEGIN}\n{_table(values())}\n{END}{tail}"


def values() -> list[Value]:
    """All values, in the order of values.yaml. ValueError: one of them has no text, or the schema does not know it."""
    source = CHART / "values.yaml"
    defaults = yaml.safe_load(source.read_text(encoding="utf-8"))
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    found = []
    for path, text in _comments(source):
        default, part = defaults, schema
        for step in path.split("."):
            default = default[step]
            part = _resolved(part, schema)["properties"].get(step)
            if part is None:
                raise ValueError(f"values.yaml has {path}, values.schema.json has not")
        found.append(Value(path, _kind(_resolved(part, schema)), json.dumps(default), text))
    return found


def leaves(schema: Mapping[str, Any]) -> Iterator[str]:
    """The paths of all values that the schema knows."""

    def walk(part: Mapping[str, Any], path: str) -> Iterator[str]:
        part = _resolved(part, schema)
        own = part.get("properties")
        if own is None or path in ("injection.namespaceSelector", "injector.certificates.issuerRef"):  # one value with a shape
            yield path
            return
        for name, inner in own.items():
            yield from walk(inner, f"{path}.{name}".lstrip("."))

    return walk(schema, "")


def _comments(source: Path) -> Iterator[tuple[str, str]]:
    """Paths of the commented values, with their texts."""
    stack: list[tuple[int, str]] = []
    text = ""
    for line in source.read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("# -- "):
            text = line.strip().removeprefix("# -- ")
        elif key := _KEY.match(line):
            indent = len(key[1])
            stack = [*(step for step in stack if step[0] < indent), (indent, key[2])]
            path = ".".join(name for _, name in stack)
            if text:
                yield path, text
            text = ""


def _resolved(part: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = part.get("$ref")
    return schema["definitions"][reference.removeprefix("#/definitions/")] if reference else part


def _kind(part: Mapping[str, Any]) -> str:
    if "enum" in part:
        return ", ".join(f"`{word}`" for word in part["enum"])
    kind = part["type"]
    return {"string": "text", "integer": "number", "array": "list", "object": "map", "boolean": "true or false"}.get(
        kind if isinstance(kind, str) else "", "number or percentage" if isinstance(kind, list) else str(kind)
    )


def _table(rows: list[Value]) -> str:
    lines = ["| value | type | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{row.path}` | {row.kind} | `{row.default}` | {row.text} |" for row in rows]
    return "\n".join(lines)
