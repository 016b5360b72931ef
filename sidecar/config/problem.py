"""What is wrong with a document: problems with their place, and the exception that carries them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from sidecar.errors import OutriderError

Step = str | int
Path = tuple[Step, ...]
"""A place in the document: ("routes", 2, "timeouts")."""

MAX_PROBLEMS: Final = 200
"""More are counted, not listed: a script that writes the same mistake 5,000 times needs to read it once."""


_STEP_SHOWN: Final = 80


class Problem(Struct, frozen=True):
    """One mistake: where (line and column from 1), and what is wrong with what to write instead."""

    path: str
    line: int
    column: int
    message: str

    def render(self, source: str) -> str:
        """`FILE:LINE:COLUMN: path: message` (interface.md section 1)."""
        where = f"{source}:{self.line}:{self.column}: "
        return f"{where}{self.path}: {self.message}" if self.path else f"{where}{self.message}"


class ConfigRejected(OutriderError):
    """A document cannot become active. `problems` is never empty."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems[0].message)
        self.problems = tuple(problems)


def path_text(path: Path) -> str:
    """`routes[2].timeouts.request`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            word = step if step.isprintable() and len(step) <= _STEP_SHOWN else shown(step, _STEP_SHOWN)
            text += f".{word}" if text else word
    return text


def shown(value: object, limit: int = 60) -> str:
    """`value` for a message: quoted, without control characters, cut to `limit` characters."""
    text = str(value)
    text = text[: limit + 1].encode("unicode_escape").decode("ascii") if not text[: limit + 1].isprintable() else text
    return f'"{text}"' if len(text) <= limit else f'"{text[:limit]}..."'


def capped(problems: Sequence[Problem]) -> list[Problem]:
    """`problems` in the order of the document, at most `MAX_PROBLEMS` and a last one that says how many more."""
    ordered = sorted(problems, key=lambda problem: (problem.line, problem.column))
    if len(ordered) <= MAX_PROBLEMS:
        return ordered
    last = ordered[MAX_PROBLEMS]
    more = Problem("", last.line, last.column, f"and {len(ordered) - MAX_PROBLEMS} more problems, not shown (correct these first)")
    return [*ordered[:MAX_PROBLEMS], more]
