"""Does a tree have the shape of the document: known fields, right types, values in range? Every mistake is reported.

msgspec decides and is fast, but it stops at its first mistake and knows no lines. So a document that it refuses is
walked here, with the same types, to say everything that is wrong at once. What is wrong is replaced by a stand-in, so
that the rules of `validate.py` can judge the rest; `Shaped.suspects` are the places that they must not judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import inspect

from sidecar.config.node import Node, plain
from sidecar.config.problem import Path, shown
from sidecar.config.words import close_match, describe, flat_union
from sidecar.model.document import Document

_BAD: Final = object()
_SCALARS: Final[dict[type, tuple[type, ...]]] = {
    inspect.BoolType: (bool,),
    inspect.IntType: (int,),
    inspect.FloatType: (float, int),
    inspect.StrType: (str,),
    inspect.EnumType: (str,),
    inspect.LiteralType: (str, int),
}


@cache
def document_type() -> inspect.StructType:
    """The document's type, taken apart."""
    kind = inspect.type_info(Document)
    assert isinstance(kind, inspect.StructType)
    return kind


class Mistake:
    """A place and what is wrong there; `at_key`: the key is wrong, not its value."""

    __slots__ = ("at_key", "message", "node", "path")

    def __init__(self, path: Path, node: Node, message: str, *, at_key: bool = False) -> None:
        self.path = path
        self.node = node
        self.message = message
        self.at_key = at_key


class Shaped:
    """A document that later rules can look at, the mistakes of its shape, and where not to look."""

    __slots__ = ("document", "mistakes", "suspects")

    def __init__(self, document: Document, mistakes: list[Mistake], suspects: set[Path]) -> None:
        self.document = document
        self.mistakes = mistakes
        self.suspects = suspects


def convert(value: Any) -> Document | None:
    """The document, when `value` has its shape exactly; the fast way."""
    try:
        return msgspec.convert(value, Document)
    except msgspec.ValidationError:
        return None


def shape(root: Node) -> Shaped:
    """The document that `root` describes, as far as it does."""
    document = convert(plain(root))
    if document is not None:
        return Shaped(document, [], set())
    walk = _Walk()
    value = walk.value(document_type(), root, ())
    try:
        document = msgspec.convert(_placeholder(document_type()) if value is _BAD else value, Document)
    except msgspec.ValidationError as error:  # our walk and msgspec disagree: believe the stricter one
        walk.wrong((), root, f"the document does not have the right shape: {error}")
        document = msgspec.convert(_placeholder(document_type()), Document)
    return Shaped(document, walk.mistakes, walk.suspects)


class _Walk:
    """Goes through nodes and types side by side and makes plain values without what is wrong."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []
        self.suspects: set[Path] = set()

    def wrong(self, path: Path, node: Node, message: str) -> Any:
        """Note a mistake."""
        self.mistakes.append(Mistake(path, node, message))
        self.suspects.add(path)
        return _BAD

    def value(self, kind: inspect.Type, node: Node, path: Path) -> Any:
        """The plain value of `node`, or `_BAD`."""
        kinds = flat_union(kind)
        for one in kinds:
            if isinstance(one, inspect.NoneType) and node.value is None:
                return None
            if isinstance(one, inspect.StructType) and isinstance(node.value, dict):
                return self._struct(one, node, path)
            if isinstance(one, inspect.DictType) and isinstance(node.value, dict):
                return self._dict(one, node, path)
            if isinstance(one, inspect.ListType) and isinstance(node.value, list):
                return self._list(one, node, path)
        if any(_fits(one, node.value) for one in kinds):
            return node.value
        return self.wrong(path, node, describe(kinds, node))

    def _struct(self, kind: inspect.StructType, node: Node, path: Path) -> dict[str, Any]:
        fields = {field.encode_name: field for field in kind.fields}
        out: dict[str, Any] = {}
        for key, child in node.value.items():
            field = fields.get(key)
            below = (*path, key)
            if field is None:
                self.mistakes.append(Mistake(below, child, _unknown(key, list(fields)), at_key=True))
            elif (child.value is not None or _nullable(field.type)) and (value := self.value(field.type, child, below)) is not _BAD:
                out[key] = value
        for name, field in fields.items():
            if field.required and name not in out:
                given = node.value.get(name)
                if given is None or given.value is None:
                    self.mistakes.append(Mistake((*path, name), given or node, f"is required (write {_example(name)})"))
                    self.suspects.add((*path, name))
                out[name] = _placeholder(field.type)
        return out

    def _dict(self, kind: inspect.DictType, node: Node, path: Path) -> dict[str, Any]:
        values = ((key, self.value(kind.value_type, child, (*path, key))) for key, child in node.value.items())
        return {key: value for key, value in values if value is not _BAD}

    def _list(self, kind: inspect.ListType, node: Node, path: Path) -> list[Any]:
        values = (self.value(kind.item_type, child, (*path, index)) for index, child in enumerate(node.value))
        return [_placeholder(kind.item_type) if value is _BAD else value for value in values]


def _fits(kind: inspect.Type, value: Any) -> bool:
    """Whether a scalar has the type and its constraints."""
    if type(value) not in _SCALARS.get(type(kind), ()):
        return False
    if isinstance(kind, inspect.EnumType):
        return value in {member.value for member in kind.cls}
    if isinstance(kind, inspect.LiteralType):
        return value in kind.values
    if isinstance(kind, inspect.StrType):
        return kind.pattern is None or re.search(kind.pattern, value) is not None
    return not isinstance(kind, (inspect.IntType, inspect.FloatType)) or _in_range(kind, value)


def _in_range(kind: inspect.IntType | inspect.FloatType, value: float) -> bool:
    if kind.gt is not None and value <= kind.gt:
        return False
    if kind.ge is not None and value < kind.ge:
        return False
    return kind.le is None or value <= kind.le


def _nullable(kind: inspect.Type) -> bool:
    return any(isinstance(one, inspect.NoneType) for one in flat_union(kind))


def _unknown(key: str, names: list[str]) -> str:
    lower = {name.lower(): name for name in names}
    close = close_match(key, lower)
    if close is not None:
        return f"unknown field {shown(key)} (did you mean {lower[close]}?)"
    return f"unknown field {shown(key)} (known here: {', '.join(names)})"


def _example(name: str) -> str:
    examples = {"apiVersion": "apiVersion: outrider.dev/v1alpha1", "kind": "kind: SidecarConfig", "url": 'url: "http://127.0.0.1:8000"'}
    return examples.get(name, f"{name}: ...")


def _placeholder(kind: inspect.Type) -> Any:
    """A value of the type, for later rules; its place is suspect."""
    one = next(iter(flat_union(kind)))
    match one:
        case inspect.StructType():
            return {field.encode_name: _placeholder(field.type) for field in one.fields if field.required}
        case inspect.ListType():
            return []
        case inspect.DictType():
            return {}
        case inspect.EnumType():
            return next(iter(one.cls)).value
        case inspect.LiteralType():
            return one.values[0]
        case inspect.IntType() | inspect.FloatType():
            return one.ge or (0 if one.gt is None else one.gt + 1)
        case inspect.BoolType():
            return False
        case _:
            return "0s"


def walk_types(kind: inspect.Type) -> Iterator[inspect.StructType]:
    """Every mapping type below `kind`, each once, in the order of the document."""
    seen: dict[type, inspect.StructType] = {}
    stack: list[inspect.Type] = [kind]
    while stack:
        one = stack.pop()
        if isinstance(one, inspect.StructType) and one.cls not in seen:
            seen[one.cls] = one
            stack.extend(field.type for field in reversed(one.fields))
        elif isinstance(one, inspect.ListType):
            stack.append(one.item_type)
        elif isinstance(one, inspect.DictType):
            stack.append(one.value_type)
        elif isinstance(one, (inspect.UnionType, inspect.Metadata)):
            stack.extend(flat_union(one))
    yield from seen.values()
