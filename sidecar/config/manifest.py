"""Documents inside Kubernetes manifests: `validate` takes a ConfigMap as it is kept in a repository or comes from kubectl.

Lines stay those of the outer file when the value is a literal block (`sidecar.yaml: |`), which is how people write it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from sidecar.config.node import Node, Tree
from sidecar.config.parse import read_yaml
from sidecar.config.problem import Problem

MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
_KINDS: Final = re.compile(rb"""(?:^|[\s{,])["']?kind["']?\s*:\s*["']?(?:ConfigMap|ConfigMapList|List)\b""")


class Embedded(NamedTuple):
    """A document found in a manifest. `outer` moves a problem to its place in the manifest."""

    name: str
    data: bytes
    outer: Callable[[Problem], Problem]


class Found(NamedTuple):
    """What a manifest holds. None of both: it is no manifest."""

    documents: list[Embedded]
    problems: list[Problem]


def may_be_manifest(data: bytes) -> bool:
    """A quick look: whether parsing it as a manifest is worth the time."""
    return _KINDS.search(data) is not None


def find_documents(text: str, key: str) -> Found | None:
    """The documents under `data[key]` of the ConfigMaps in `text`; None when `text` is no manifest of ConfigMaps."""
    trees = read_yaml(text, manifest=True)
    objects = [item for tree in trees if tree.root is not None for item in _objects(tree.root)]
    maps = [item for item in objects if _scalar(item, "kind") == "ConfigMap"]
    if not maps:
        return None
    lines = text.split("\n")
    found = Found([], _syntax_problems(trees))
    for item in maps:
        _collect(item, key, lines, found)
    if not found.documents and not found.problems:
        node = maps[0]
        found.problems.append(
            Problem("data", node.line, node.column, f"no ConfigMap here has the key {key} (write it under data, or name another key)")
        )
    return found


def _syntax_problems(trees: list[Tree]) -> list[Problem]:
    return [problem for tree in trees if tree.root is None for problem in tree.problems]


def _objects(root: Node) -> Iterator[Node]:
    items = _child(root, "items")
    if items is not None and isinstance(items.value, list):
        for item in items.value:
            yield from _objects(item)
    elif isinstance(root.value, dict):
        yield root


def _collect(item: Node, key: str, lines: list[str], found: Found) -> None:
    data = _child(item, "data")
    node = None if data is None else _child(data, key)
    if node is None:
        binary = _child(item, "binaryData")
        if binary is not None and (hidden := _child(binary, key)) is not None:
            found.problems.append(Problem(f"binaryData.{key}", hidden.line, hidden.column, "the document is not binary (move it to data)"))
        return
    if not isinstance(node.value, str):
        found.problems.append(
            Problem(
                f"data.{key}", node.line, node.column, f"values of a ConfigMap are text (write `{key}: |` and indent the document below)"
            )
        )
        return
    metadata = _child(item, "metadata")
    name = "" if metadata is None else str(_scalar(metadata, "name") or "")
    found.documents.append(Embedded(name, node.value.encode("utf-8", "surrogatepass"), _mover(node, lines)))


def _mover(node: Node, lines: list[str]) -> Callable[[Problem], Problem]:
    """From places in the value to places in the file. Values that are not literal blocks have no lines of their own."""
    if node.style != "|":
        return lambda problem: Problem(problem.path, node.line, node.column, problem.message)
    first = node.line
    inner = node.value.split("\n")
    shift = 0
    for number, line in enumerate(inner):
        outer = lines[first + number] if first + number < len(lines) else ""
        if line.strip() and outer.rstrip("\r").endswith(line):
            shift = len(outer.rstrip("\r")) - len(line)
            break
    return lambda problem: Problem(problem.path, first + problem.line, shift + problem.column, problem.message)


def _child(node: Node, key: str) -> Node | None:
    child: Node | None = node.value.get(key) if isinstance(node.value, dict) else None
    return child


def _scalar(node: Node, key: str) -> Any:
    child = _child(node, key)
    return None if child is None else child.value
