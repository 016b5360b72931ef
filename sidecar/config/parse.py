"""Bytes to a tree in which every value knows its line and column. Nothing of the document is ever run or expanded.

YAML is read event by event with libyaml: a quarter of the time of `yaml.compose` on 5,000 routes, and the rules on
depth, anchors, tags and duplicates hold while reading, before memory is spent. Words are typed by our own rules, not
by YAML 1.1's: only `true` and `false` are booleans, `012` and `12:30:45` are text, `.nan` is text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import isfinite
from typing import Any, Final

import yaml
from yaml._yaml import CParser

from sidecar.config.node import MAX_DEPTH, Node, Reader, Tree
from sidecar.config.problem import shown

MAX_BYTES: Final = 1024 * 1024
"""What a ConfigMap can hold."""

_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NULL = frozenset(("", "~", "null"))
_INT = re.compile(r"-?(?:0|[1-9][0-9]{0,17})\Z")
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,20})?(?:[eE][-+]?[0-9]{1,3})?\Z")
_FLOAT_START = frozenset("-0123456789")


def parse(data: bytes) -> Tree:
    """The tree of one document, YAML or JSON; `tree.problems` is not empty when it cannot be used as it is.

    Never raises: size, encoding and syntax errors are problems too (then `tree.root` is None).
    """
    text, tree = decode(data, MAX_BYTES)
    return tree if text is None else read_yaml(text)[0]


def parse_json(text: str) -> Any:
    """The values of a JSON document, a hundred times faster than a tree, without places. None: not for this reader.

    That is YAML, and anything doubtful (duplicate keys, NaN, huge numbers, half surrogates, deep nesting): `parse`
    reads JSON as well and says where the trouble is.
    """
    if not text.lstrip(" \t\r\n").startswith("{"):
        return None
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_doubtful, parse_int=_small, parse_float=_finite)
        "".join(_strings(value)).encode()
    except (ValueError, RecursionError):
        return None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("duplicate key")
    return mapping


def _doubtful(word: str) -> Any:
    raise ValueError(word)


def _small(digits: str) -> int:
    if _INT.match(digits) is None:
        raise ValueError("huge number")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        raise ValueError("huge number")
    return number


def _strings(value: Any) -> Iterator[str]:
    """Every string below `value`; ValueError when it is nested too deep."""
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise ValueError("nested too deep")
        depth += 1
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                yield item
            elif isinstance(item, dict):
                below.extend(item)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        level = below


def decode(data: bytes, limit: int) -> tuple[str | None, Tree]:
    """The text of `data`, or None and a tree with the reason: too large, not UTF-8, a BOM, control characters."""
    tree = Tree()
    if len(data) > limit:
        tree.add(
            (),
            1,
            1,
            f"the document is larger than {limit} bytes (a ConfigMap holds no more; say once in `defaults` what many routes repeat)",
        )
        return None, tree
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        tree.add((), 1, 1, "the document begins with a byte order mark (save it as UTF-8 without BOM)")
        return None, tree
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start]
        tree.add(
            (),
            before.count(b"\n") + 1,
            error.start - before.rfind(b"\n"),
            f"byte 0x{data[error.start]:02x} is not UTF-8 (save the document as UTF-8)",
        )
        return None, tree
    if (control := _CONTROL.search(text)) is not None:
        line, column = position(text, control.start())
        tree.add(
            (), line, column, f"control character U+{ord(control[0]):04X} is not allowed (remove it, or write an escape in double quotes)"
        )
        return None, tree
    return text, tree


def position(text: str, offset: int) -> tuple[int, int]:
    """Line and column, from 1, of a character."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def read_yaml(text: str, *, manifest: bool = False) -> list[Tree]:
    """One tree for each document of `text`, at least one.

    Without `manifest` a second document is a problem. With it any number may follow each other, and anchors, aliases
    and tags (which are not ours to judge there) are read as null.
    """
    reader = _YamlReader(text, manifest=manifest)
    return reader.read()


class _YamlReader(Reader):
    """Builds nodes from libyaml's events."""

    def __init__(self, text: str, *, manifest: bool) -> None:
        super().__init__()
        self.text = text
        self.manifest = manifest
        self.parser = CParser(text)

    def read(self) -> list[Tree]:
        trees: list[Tree] = []
        try:
            for event in self._events():
                kind = type(event)
                if kind is yaml.DocumentStartEvent:
                    self._start(event, trees)
                elif kind is not yaml.DocumentEndEvent and kind is not yaml.StreamStartEvent:
                    self._node(event, kind)
                if self.tree.broken:
                    break
        except yaml.MarkedYAMLError as error:
            self._syntax(error)
        except yaml.YAMLError as error:
            self.tree.add((), 1, 1, f"cannot be read as YAML: {shown(error)}")
        finally:
            self.parser.dispose()
        if self.tree not in trees:
            trees.append(self.tree)
        return trees

    def _events(self) -> Iterator[Any]:
        get = self.parser.get_event
        while (event := get()) is not None and type(event) is not yaml.StreamEndEvent:
            yield event

    def _start(self, event: Any, trees: list[Tree]) -> None:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if trees and not self.manifest:
            self.tree.add((), line, column, "a second YAML document begins here (keep one, and remove the `---` line)")
        if trees:
            self.restart()
        trees.append(self.tree)
        if event.version is not None or event.tags:
            self.tree.add((), line, column, "YAML directives are not allowed (remove the line that begins with %)")

    def _node(self, event: Any, kind: type) -> None:
        if kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            self.close()
            return
        mark = event.start_mark
        line, column = mark.line + 1, mark.column + 1
        if kind is yaml.AliasEvent:
            self._refuse(line, column, "YAML aliases are not allowed (write the value out)")
            self.scalar(Node(line, column, "" if self.wants_key() else None))
            return
        if event.anchor is not None:
            self._refuse(line, column, f"YAML anchors are not allowed (remove &{event.anchor[:40]})")
        if event.tag is not None:
            self._refuse(line, column, f"YAML tags are not allowed (remove {event.tag[:60]})")
        if kind is yaml.ScalarEvent:
            value = event.value if event.style or self.wants_key() else typed(event.value)
            self.scalar(Node(line, column, value, event.style))
        else:
            self.open(Node(line, column, {} if kind is yaml.MappingStartEvent else []))

    def _refuse(self, line: int, column: int, message: str) -> None:
        if not self.manifest:
            self.tree.add(self.path(), line, column, message)

    def _syntax(self, error: yaml.MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        lines = self.text.split("\n", line)
        at = lines[line - 1][column - 1 : column] if len(lines) >= line else ""
        if at == "\t":
            message = "a tab is used for indentation (use spaces)"
        else:
            what = error.problem or "unreadable"
            context = f" {error.context}" if error.context else ""
            message = f"this is not YAML: {what}{context} (look at the quotes, brackets and indentation here and on the line before)"
        self.give_up(line, column, message)


def typed(word: str) -> Any:
    """The value of a plain (unquoted) scalar."""
    if word in _NULL:
        return None
    if word == "true":
        return True
    if word == "false":
        return False
    if word[0] in _FLOAT_START:
        if _INT.match(word) is not None:
            return int(word)
        if _FLOAT.match(word) is not None and isfinite(number := float(word)):
            return number
    return word
