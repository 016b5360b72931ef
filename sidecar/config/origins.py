"""Where an effective value came from: a line of the document, `defaults`, or built-in. For `explain`."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from sidecar.config.node import Node
from sidecar.config.problem import Path, Step

BUILT_IN: Final = "built-in"
_step = re.compile(r"\[([0-9]+)\]|([^.\[\]]+)")
_RETRY: Final = 2

Lines = Any
"""Lines as nested lists: `[line, {key: Lines} or [Lines, ...]]`, or `line` alone for a scalar. 0: not known."""


def lines_of(node: Node) -> Lines:
    """The lines of everything below `node`; a mapping's value stands at its key."""
    line = node.key_line or node.line
    if isinstance(node.value, dict):
        return [line, {key: lines_of(child) for key, child in node.value.items()}]
    if isinstance(node.value, list):
        return [line, [lines_of(child) for child in node.value]]
    return line


def lines_of_plain(value: Any) -> Lines:
    """The same for a document whose lines are not known: only what it gives."""
    if isinstance(value, dict):
        return [0, {key: lines_of_plain(child) for key, child in value.items()}]
    if isinstance(value, list):
        return [0, [lines_of_plain(child) for child in value]]
    return 0


class Origins:
    """Answers for any path of the document.

    It is asked seldom and 5,000 routes have 100,000 lines, so each item of a top-level list is kept packed.
    """

    __slots__ = ("_lines",)

    def __init__(self, lines: Lines = None) -> None:
        self._lines = lines

    @classmethod
    def packing(cls, lines: Lines) -> Origins:
        """From what `lines_of` gave."""
        if not isinstance(lines, list) or not isinstance(lines[1], dict):
            return cls(lines)
        return cls([lines[0], {key: _packed_items(section) for key, section in lines[1].items()}])

    @classmethod
    def decode(cls, data: bytes) -> Origins:
        """From what `encode` gave."""
        return cls(msgspec.msgpack.decode(data))

    def encode(self) -> bytes:
        """For another process."""
        return msgspec.msgpack.encode(self._lines)

    def of(self, path: str) -> str:
        """`line 14`, `defaults (line 40)` or `built-in` for a path such as `routes[3].timeouts.request`.

        `document` stands for `line N` where the lines of a large JSON document are not known. A list or mapping has
        the line where it begins.
        """
        lines, steps = self._lines, _steps(path)
        line = _find(lines, steps)
        if line is not None:
            return _place(line)
        inherited = _inherited(lines, steps)
        line = None if inherited is None else _find(lines, inherited)
        return BUILT_IN if line is None else f"defaults ({_place(line)})"

    def line(self, path: str) -> int:
        """The line where `path` begins; 0 when the document does not have it, or lines are not known."""
        return _find(self._lines, _steps(path)) or 0


def _steps(path: str) -> Path:
    return tuple(int(index) if index else name for index, name in _step.findall(path))


def _packed_items(section: Lines) -> Lines:
    if isinstance(section, list) and isinstance(section[1], list):
        return [section[0], [msgspec.msgpack.encode(item) for item in section[1]]]
    return section


def _place(line: int) -> str:
    return f"line {line}" if line else "document"


def _inherited(lines: Lines, steps: Path) -> Path | None:
    """Where `defaults` would say it: timeouts key by key, a retry stanza whole."""
    match steps:
        case ("routes", int(), "timeouts", *rest):
            return ("defaults", "timeouts", *rest)
        case ("routes", int(), "retry", *rest) if _find(lines, steps[: _RETRY + 1]) is None:
            return ("defaults", "retry", *rest)
        case _:
            return None


def _find(lines: Lines, steps: Path) -> int | None:
    """The line of what is given at `steps`; None when nothing is."""
    for step in steps:
        lines = _child(_opened(lines), step)
        if lines is None:
            return None
    lines = _opened(lines)
    line: int | None = lines[0] if isinstance(lines, list) else lines
    return line


def _opened(lines: Lines) -> Lines:
    return msgspec.msgpack.decode(lines) if isinstance(lines, bytes) else lines


def _child(lines: Lines, step: Step) -> Lines:
    children = lines[1] if isinstance(lines, list) else None
    if isinstance(children, dict):
        return children.get(step)
    if isinstance(children, list) and isinstance(step, int) and step < len(children):
        return children[step]
    return None
