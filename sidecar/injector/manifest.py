"""Manifests as files hold them: YAML (several documents) or JSON, read, changed in a few places, and written again.

YAML is changed in its node graph, so that every scalar that is not ours stays as somebody wrote it: `0644`, `yes` and
`"8000"` mean to Kubernetes what they meant before. Comments, indentation and the names of anchors are not in that graph.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final, Protocol

import yaml

from sidecar.config.parse import decode, typed

MAX_BYTES: Final = 16 * 1024 * 1024
MAX_DEPTH: Final = 100
"""Schemas inside CustomResourceDefinitions come to 40."""
_LINE: Final = 1 << 20
"""Characters before a line is folded: lines that people have written stay whole."""
_TAG: Final = "tag:yaml.org,2002:"
_INDENT: Final = re.compile(r"[\[{]\r?\n( +)")

Path = tuple[str | int, ...]
Json = dict[str, Any]


class Unreadable(ValueError):
    """The text is neither YAML nor JSON; says where (`LINE:COLUMN: ...`) and why."""


class Manifest(Protocol):
    """One file."""

    documents: list[Any]
    """Their values as they were read."""

    def change(self, document: int, path: Path, operations: Sequence[Json]) -> None:
        """Apply JSON Patch operations (`add`, `remove`, `replace`) to what is at `path` of a document."""
        ...

    def texts(self) -> list[str]:
        """The file as it is now, whole or in parts that are documents of a YAML stream; what it was when nothing has changed."""
        ...


def read_manifest(data: bytes) -> Manifest:
    """Read a file. Raises Unreadable."""
    if len(data) > MAX_BYTES:
        raise Unreadable(f"larger than {MAX_BYTES} bytes (split it)")
    text, tree = decode(data, MAX_BYTES)
    if text is None:
        problem = tree.problems[0]
        raise Unreadable(f"{problem.line}:{problem.column}: {problem.message}")
    documents = _json(text)
    return _Yaml(text) if documents is None else _JsonText(documents)


def write_stream(manifests: Sequence[Manifest], more: Sequence[Json]) -> str:
    """All files and some new objects as one stream that kubectl takes: of JSON where all of it is, else of YAML, which JSON is, too."""
    texts = [text if text.endswith("\n") else text + "\n" for manifest in manifests for text in manifest.texts() if text.strip()]
    if all(text.lstrip().startswith("{") for text in texts):
        return "".join([*texts, *(json.dumps(one, indent=2, ensure_ascii=False) + "\n" for one in more)])
    if more:
        texts.append(str(yaml.dump_all(more, Dumper=yaml.CSafeDumper, sort_keys=False, width=_LINE, allow_unicode=True)))
    return texts[0] if len(texts) == 1 else "".join(text if text.startswith("---") else f"---\n{text}" for text in texts)


# -- JSON


def _json(text: str) -> list[tuple[str, Any]] | None:
    """The JSON objects of a text, one after the other, each with its own text; None when it is something else."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    documents: list[tuple[str, Any]] = []
    rest = text.lstrip()
    if not rest.startswith("{"):
        return None
    try:
        while rest:
            document, end = decoder.raw_decode(rest)
            documents.append((rest[:end], document))
            rest = rest[end:].lstrip()
    except (ValueError, RecursionError):  # YAML's reader says where the trouble is
        return None
    return documents


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(mapping := dict(pairs)) != len(pairs):
        raise ValueError("a key that is there twice")
    return mapping


class _JsonText:
    def __init__(self, documents: list[tuple[str, Any]]) -> None:
        self.documents = [document for _, document in documents]
        self._texts = [text for text, _ in documents]
        self._changed = list(self.documents)

    def change(self, document: int, path: Path, operations: Sequence[Json]) -> None:
        for operation in operations:
            where = (*path, *_steps(operation["path"]))
            self._changed[document] = _with(self._changed[document], where, operation)

    def texts(self) -> list[str]:
        return [
            old if changed is document else _json_text(changed, old)
            for old, document, changed in zip(self._texts, self.documents, self._changed, strict=True)
        ]


def _json_text(document: Any, old: str) -> str:
    """With the indentation of the text before."""
    indent = _INDENT.search(old)
    return json.dumps(document, indent=len(indent[1]) if indent else None, ensure_ascii=False)


def _with(value: Any, path: Path, operation: Json) -> Any:
    """A copy of a value in which the operation has been done."""
    step, *rest = path
    if isinstance(value, list):
        place = len(value) if step == "-" else int(step)
        return _spliced(
            value, place, _with(value[place], tuple(rest), operation) if rest else operation.get("value"), "" if rest else operation["op"]
        )
    changed = dict(value)
    if rest:
        changed[str(step)] = _with(value[step], tuple(rest), operation)
    elif operation["op"] == "remove":
        del changed[str(step)]
    else:
        changed[str(step)] = operation["value"]
    return changed


def _spliced(items: list[Any], place: int, item: Any, operation: str) -> list[Any]:
    """A copy of a list with an item added, removed or (any other operation) replaced."""
    if operation == "remove":
        return items[:place] + items[place + 1 :]
    return [*items[:place], item, *items[place if operation == "add" else place + 1 :]]


def _steps(pointer: str) -> tuple[str, ...]:
    """RFC 6901."""
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])


# -- YAML


class _Yaml:
    def __init__(self, text: str) -> None:
        self._text = text
        self._touched = False
        try:
            _check_depth(text)
            self._roots: list[yaml.Node] = [root for root in yaml.compose_all(text, Loader=yaml.CSafeLoader) if not _empty(root)]
            values = _Values()
            self.documents = [values.of(root) for root in self._roots]
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise Unreadable(f"{_place(mark)}this is not YAML: {error.problem or 'unreadable'}") from None
        except yaml.YAMLError as error:
            raise Unreadable(f"this is not YAML: {error}") from None
        except RecursionError:
            raise Unreadable("an alias is inside of what it stands for") from None

    def change(self, document: int, path: Path, operations: Sequence[Json]) -> None:
        for operation in operations:
            where = (*map(str, path), *_steps(operation["path"]))
            self._roots[document] = _node_with(self._roots[document], where, operation)
            self._touched = True

    def texts(self) -> list[str]:
        if not self._touched:
            return [self._text]
        return [str(yaml.serialize_all(self._roots, Dumper=yaml.CSafeDumper, width=_LINE, allow_unicode=True))]


def _check_depth(text: str) -> None:
    """Before the composer's recursion meets it. Raises Unreadable, yaml.YAMLError."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise Unreadable(f"{_place(event.start_mark)}nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _place(mark: Any) -> str:
    return "" if mark is None else f"{mark.line + 1}:{mark.column + 1}: "


def _empty(node: yaml.Node | None) -> bool:
    """Nothing between two `---`."""
    return node is None or (isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null")


class _Values:
    """The values of nodes; what an alias repeats is built once and shared."""

    def __init__(self) -> None:
        self._known: dict[int, Any] = {}

    def of(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if id(node) in self._known:
            if self._known[id(node)] is _Values:  # still being built
                raise Unreadable(f"{_place(node.start_mark)}an alias is inside of what it stands for")
            return self._known[id(node)]
        self._known[id(node)] = _Values
        if isinstance(node, yaml.SequenceNode):
            value: Any = [self.of(item) for item in node.value]
        else:
            value = {key: self.of(item) for key, (_, item) in _pairs(node).items()}
        self._known[id(node)] = value
        return value


def _scalar(node: yaml.ScalarNode) -> Any:
    """By our own rules for words (sidecar/config/parse.py), which are stricter than YAML 1.1's."""
    if node.tag in (_TAG + "int", _TAG + "float") and ":" in node.value:
        # 10:20 is 620 to YAML 1.1 alone. It cannot be written without quotes everywhere; to Kubernetes it is text.
        node.tag, node.style = _TAG + "str", node.style or "'"
    return node.value if node.tag == _TAG + "str" else typed(node.value)


def _pairs(mapping: yaml.Node) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """Key -> both nodes, in order; then what `<<` brings in besides. Raises Unreadable for a key that is there twice."""
    pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    merged: list[yaml.Node] = []
    for key, item in mapping.value:
        if key.tag == _TAG + "merge":
            merged += item.value if isinstance(item, yaml.SequenceNode) else [item]
        elif not isinstance(key, yaml.ScalarNode):
            raise Unreadable(f"{_place(key.start_mark)}a key must be plain text")
        elif key.value in pairs:
            raise Unreadable(f"{_place(key.start_mark)}the key {key.value[:80]!r} is there twice")
        else:
            pairs[key.value] = (key, item)
    for source in merged:
        if not isinstance(source, yaml.MappingNode) or source is mapping:
            raise Unreadable(f"{_place(mapping.start_mark)}only mappings can be merged with <<")
        pairs = {**pairs, **{name: pair for name, pair in _pairs(source).items() if name not in pairs}}
    return pairs


def _node_with(node: yaml.Node, path: tuple[str, ...], operation: Json) -> yaml.Node:
    """A copy of a node in which the operation has been done; what else an alias stands for stays as it was.

    In block style, whatever it was: what comes into it is too long for a line.
    """
    step, *rest = path
    if isinstance(node, yaml.SequenceNode):
        place = len(node.value) if step == "-" else int(step)
        item = _node_with(node.value[place], tuple(rest), operation) if rest else _node_of(operation)
        return yaml.SequenceNode(node.tag, _spliced(node.value, place, item, "" if rest else operation["op"]), flow_style=False)
    pairs = _pairs(node)
    if rest:
        key, item = pairs[step]
        pairs[step] = (key, _node_with(item, tuple(rest), operation))
    elif operation["op"] == "remove":
        del pairs[step]
    else:
        key = pairs[step][0] if step in pairs else _represent(step)
        pairs[step] = (key, _node_of(operation))
    return yaml.MappingNode(node.tag, list(pairs.values()), flow_style=False)


def _node_of(operation: Json) -> yaml.Node:
    return _represent(operation.get("value"))


def _represent(value: Any) -> yaml.Node:
    return _Representer(default_flow_style=False, sort_keys=False).represent_data(value)


class _Representer(yaml.representer.SafeRepresenter):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - overrides
        return True
