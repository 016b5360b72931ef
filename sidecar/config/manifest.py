"""Documents inside Kubernetes manifests: `validate` takes a ConfigMap as it is kept in a repository or comes from kubectl.

Lines stay those of the outer file when the value is a literal block (`sidecar.yaml: |`), which is how people write it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from sidecar.config.node import Node, Tree, without_places
from sidecar.config.parse import parse_json, read_yaml
from sidecar.config.problem import Problem, shown

MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
LABEL: Final = "outrider.dev/config"
"""`"true"` says that a ConfigMap is meant for a sidecar, so the key must be there."""
_BLANKS: Final = {ord(blank): None for blank in " \t\r\n"}
_KINDS: Final = re.compile(rb"""(?:^|[\s{,])["']?kind["']?\s*:\s*["']?(?:ConfigMap|ConfigMapList|List)\b""")


class Embedded(NamedTuple):
    """A document found in a manifest. `outer` moves a problem to its place in the manifest."""

    name: str
    data: bytes
    outer: Callable[[Problem], Problem]


class Found(NamedTuple):
    """What a manifest holds.

    `ours`: a ConfigMap has the key or the label, so somebody means it for a sidecar; `broken`: a part cannot be read.
    """

    documents: list[Embedded]
    problems: list[Problem]
    ours: bool
    broken: bool


def may_be_manifest(data: bytes) -> bool:
    """A quick look: whether parsing it as a manifest is worth the time."""
    return _KINDS.search(data) is not None


def find_documents(text: str, key: str) -> Found | None:
    """The documents under `key` of the ConfigMaps in `text`, in `data` or `binaryData`; None when it holds no ConfigMap."""
    trees = _read(text)
    objects = [item for tree in trees if tree.root is not None for item in _objects(tree.root)]
    maps = [item for item in objects if _scalar(item, "kind") == "ConfigMap"]
    if not maps:
        return None
    lines = text.split("\n")
    documents: list[Embedded] = []
    broken = [problem for tree in trees if tree.root is None for problem in tree.problems]
    problems: list[Problem] = []
    for item in maps:
        found = _document(item, key, lines)
        if isinstance(found, Embedded):
            documents.append(found)
        elif found is not None:
            problems.append(found)
    ours = bool(documents or problems)
    if ours:
        loose = [item for item in objects if _scalar(item, "kind") == "SidecarConfig"]
        problems += [
            Problem("", item.line, item.column, "nobody reads a document between manifests (put it into a ConfigMap)") for item in loose
        ]
    if not ours and not broken:
        problems.append(_no_key(maps[0], key))
    return Found(documents, broken + problems, ours, bool(broken))


def _read(text: str) -> list[Tree]:
    trees = read_yaml(text, manifest=True)
    if trees[0].root is None and (value := parse_json(text)) is not None:  # JSON that YAML cannot read: no places
        trees[0].root = without_places(value)
    return trees


def _objects(root: Node) -> Iterator[Node]:
    items = _child(root, "items")
    if items is not None and isinstance(items.value, list):
        for item in items.value:
            yield from _objects(item)
    elif isinstance(root.value, dict):
        yield root


def _document(item: Node, key: str, lines: list[str]) -> Embedded | Problem | None:
    """The document of a ConfigMap, what is wrong with it, or None when the ConfigMap is not meant for a sidecar."""
    metadata = _child(item, "metadata") or Node(1, 1, {})
    name = str(_scalar(metadata, "name") or "")
    for field in ("data", "binaryData"):
        values = _child(item, field)
        node = None if values is None else _child(values, key)
        if node is None:
            continue
        if not isinstance(node.value, str):
            wanted = f"text (write `{key}: |` and indent the document below)" if field == "data" else "Base64 text"
            return Problem(f"{field}.{key}", node.line, node.column, f"values of a ConfigMap's {field} are {wanted}")
        if field == "data":
            return Embedded(name, node.value.encode("utf-8", "surrogatepass"), _mover(node, lines))
        try:
            return Embedded(name, base64.b64decode(node.value.translate(_BLANKS), validate=True), _told_at(node))
        except ValueError:
            return Problem(f"{field}.{key}", node.line, node.column, "this is not Base64 (write the document itself under data)")
    labels = _child(metadata, "labels")
    return _no_key(item, key) if labels is not None and _scalar(labels, LABEL) == "true" else None


def _no_key(item: Node, key: str) -> Problem:
    name = _scalar(_child(item, "metadata") or item, "name")
    which = f"the ConfigMap {shown(name)}" if name else "the ConfigMap"
    return Problem("data", item.line, item.column, f"{which} has no key {key} (write the document under it, or name another key)")


def _mover(node: Node, lines: list[str]) -> Callable[[Problem], Problem]:
    """From places in the value to places in the file."""
    if node.style != "|":
        return _told_at(node)
    first = node.line
    inner = node.value.split("\n")
    shift = 0
    for number, line in enumerate(inner):
        outer = lines[first + number] if first + number < len(lines) else ""
        if line.strip() and outer.rstrip("\r").endswith(line):
            shift = len(outer.rstrip("\r")) - len(line)
            break
    return lambda problem: Problem(problem.path, first + problem.line, shift + problem.column, problem.message)


def _told_at(node: Node) -> Callable[[Problem], Problem]:
    """A value without lines of its own in the file: its own place, the line inside in words."""

    def move(problem: Problem) -> Problem:
        return Problem(problem.path, node.line, node.column, f"line {problem.line} of the document: {problem.message}")

    return move


def _child(node: Node, key: str) -> Node | None:
    child: Node | None = node.value.get(key) if isinstance(node.value, dict) else None
    return child


def _scalar(node: Node, key: str) -> Any:
    child = _child(node, key)
    return None if child is None else child.value
