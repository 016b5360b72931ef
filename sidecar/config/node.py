"""The tree that reading builds: values with their places."""

from __future__ import annotations

from typing import Any, Final

from sidecar.config.problem import MAX_PROBLEMS, Path, Problem, Step, path_text, shown

MAX_DEPTH: Final = 32


class Node:
    """A value and where it begins (from 1). `value` is a dict or list of nodes, or a scalar.

    `key_line` and `key_column` are the place of its key when it is a mapping's value; `style` is YAML's: `|`, `"`...
    """

    __slots__ = ("column", "key_column", "key_line", "line", "style", "value")

    def __init__(self, line: int, column: int, value: Any, style: str | None = None) -> None:
        self.line = line
        self.column = column
        self.value = value
        self.style = style
        self.key_line = 0
        self.key_column = 0


class Tree:
    """What reading gave: `root` (None: nothing usable), and the problems found on the way.

    `broken`: reading stopped early, so there may be more problems.
    """

    __slots__ = ("broken", "problems", "root")

    def __init__(self) -> None:
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self.broken = False

    def add(self, path: Path, line: int, column: int, message: str) -> None:
        """Note a problem; beyond twice the number that is shown they are dropped, to bound memory."""
        if len(self.problems) < 2 * MAX_PROBLEMS:
            self.problems.append(Problem(path_text(path), line, column, message))


class _Frame:
    """A mapping or sequence that is being read; `key` is the mapping's current one."""

    __slots__ = ("is_mapping", "key", "node", "waits_for_key")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.is_mapping = self.waits_for_key = type(node.value) is dict
        self.key: Node | None = None


class Reader:
    """Assembles nodes in document order: `open` and `close` around the children of a mapping or sequence."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin another document."""
        self.tree = Tree()
        self._frames: list[_Frame] = []

    def open(self, node: Node) -> None:
        """A mapping or sequence begins. After a problem that makes the rest pointless, `tree.broken` is set."""
        if self.wants_key():
            self.give_up(node.line, node.column, "a key must be plain text, not a mapping or a list")
        elif len(self._frames) == MAX_DEPTH:
            self.give_up(node.line, node.column, f"nested deeper than {MAX_DEPTH} levels (no part of a document is)")
        else:
            self._attach(node)
            self._frames.append(_Frame(node))

    def close(self) -> None:
        """The mapping or sequence that was opened last ends."""
        self._frames.pop()

    def scalar(self, node: Node) -> None:
        """A scalar: a key where a mapping waits for one, else a value."""
        if self.wants_key():
            frame = self._frames[-1]
            frame.key, frame.waits_for_key = node, False
        else:
            self._attach(node)

    def give_up(self, line: int, column: int, message: str) -> None:
        """Note a problem after which nothing can be said about the rest."""
        self.tree.add(self.path(), line, column, message)
        self.tree.root = None
        self.tree.broken = True

    def wants_key(self) -> bool:
        """Whether a key of a mapping comes next; its node's value is text."""
        return bool(self._frames) and self._frames[-1].waits_for_key

    def path(self) -> Path:
        """Where the value that comes next will be."""
        steps: list[Step] = []
        for frame in self._frames:
            inner = frame is not self._frames[-1]
            if not frame.is_mapping:
                steps.append(len(frame.node.value) - inner)
            elif frame.key is not None and (inner or not frame.waits_for_key):
                steps.append(frame.key.value)
        return tuple(steps)

    def _attach(self, node: Node) -> None:
        if not self._frames:
            self.tree.root = node
            return
        frame = self._frames[-1]
        if not frame.is_mapping:
            frame.node.value.append(node)
            return
        key, siblings = frame.key, frame.node.value
        assert key is not None
        node.key_line, node.key_column = key.line, key.column
        if key.value in siblings:
            first = siblings[key.value].key_line
            self.tree.add(self.path(), key.line, key.column, f"{shown(key.value)} is given twice; the first is on line {first} (keep one)")
        else:
            siblings[key.value] = node
        frame.waits_for_key = True


def plain(node: Node) -> Any:
    """The values without their places."""
    value = node.value
    kind = type(value)
    if kind is dict:
        return {key: plain(child) for key, child in value.items()}
    if kind is list:
        return [plain(child) for child in value]
    return value


def without_places(value: Any) -> Node:
    """A tree of plain values, all at the beginning of the file."""
    if isinstance(value, dict):
        return Node(1, 1, {key: without_places(child) for key, child in value.items()})
    if isinstance(value, list):
        return Node(1, 1, [without_places(child) for child in value])
    return Node(1, 1, value)


def find(root: Node | None, path: Path) -> tuple[Node | None, bool]:
    """The node at `path`, or its nearest ancestor that is there; True when it is the node itself."""
    node = root
    for step in path:
        value = node.value if node is not None else None
        if not isinstance(value, (dict, list)):
            return node, False
        try:
            node = value[step]  # type: ignore[index]  # a step of the wrong kind is a place that is not there
        except (LookupError, TypeError):
            return node, False
    return node, True
