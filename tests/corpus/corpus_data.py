"""Reads the corpus: README.md beside this file says how its files are written."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REQUEST_KEYS = {
    "why",
    "send",
    "values",
    "bytes",
    "status",
    "forward",
    "then",
    "setting",
    "reply",
    "rule",
    "fin",
    "partial",
    "to",
    "replies",
}
RESPONSE_KEYS = {"why", "send", "values", "bytes", "ask", "status", "client", "then", "end", "interims"}
CITED = re.compile(r"RFC \d|CVE-\d|GHSA-|CWE-\d|product\.md|http\.md|WHATWG|W3C|httpoxy|PortSwigger|Funky|ALPACA|PROXY protocol|NAME:WRECK")
EDGES = 40
"""How far from the ends of a long message it is cut."""
SHORT = 150
"""Longest message that is cut at every byte."""
EVERYWHERE = os.environ.get("CORPUS_CUTS") == "all"


@dataclass(frozen=True, slots=True)
class Vector:
    """One hostile or odd message and what must become of it. `at`: where its odd part stands; `first` of its family."""

    file: str
    why: str
    data: bytes
    expected: dict[str, Any]
    at: tuple[int, int] | None
    generated: bool
    first: bool

    def __str__(self) -> str:
        return f"{self.file}: {self.why} [{self.data[:90]!r}]"

    @property
    def cuts(self) -> list[int]:
        """Where the message is cut in two: everywhere, when it is the first of its family; the others from their odd part on.

        Long ones at their ends and around their separators, generated ones around the odd byte. CORPUS_CUTS=all: everywhere.
        """
        size = len(self.data)
        begin, end = self.at or (0, size)
        if size <= SHORT and (self.first or EVERYWHERE):
            return list(range(1, size))
        if self.generated:
            return [cut for cut in range(begin - 1, end + 2) if 0 < cut < size]
        if size <= SHORT:
            return list(range(max(begin - 1, 1), size))
        marks = sorted({match.start() + shift for match in re.finditer(rb"[\r\n:;]", self.data[: EDGES * 100]) for shift in (0, 1)})
        near = {*range(1, EDGES), *range(size - EDGES // 2, size), *marks[:EDGES], *range(8190, 8194), *range(16382, 16386)}
        return sorted(cut for cut in near if 0 < cut < size)


def to_bytes(text: str) -> bytes:
    """One character is one byte; `⟨text*n⟩` is the text n times."""
    return re.sub("⟨(.+?)\\*(\\d+)⟩", lambda match: match[1] * int(match[2]), text, flags=re.DOTALL).encode("latin-1")


def byte_set(text: str) -> list[int]:
    """`00-1f 7f` as numbers."""
    found: list[int] = []
    for part in text.split():
        first, _, last = part.partition("-")
        found += range(int(first, 16), int(last or first, 16) + 1)
    return found


def _members(family: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """(the odd part, why, whether it was generated) of each member of a family."""
    for part, why in family.get("values", {}).items():
        yield part, f"{why} ({family['why']})", False
    for byte in byte_set(family.get("bytes", "")):
        yield chr(byte), f"byte {byte:02x}: {family['why']}", True
    if "values" not in family and "bytes" not in family:
        yield "", family["why"], False


def _vectors(path: Path, known: set[str]) -> Iterator[Vector]:
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    settings = {key: value for key, value in document.items() if key != "family"}
    for family in document["family"]:
        expected = {**settings, **family}
        unknown = set(expected) - known
        assert not unknown, f"{path.name}: {unknown} in {family['why']}"
        for number, (part, why, generated) in enumerate(_members(family)):
            before, mark, after = family["send"].partition("⟨⟩")
            whole = to_bytes(before + part + after.replace("⟨⟩", part))
            at = (len(to_bytes(before)), len(to_bytes(before)) + len(to_bytes(part))) if mark else None
            filled = {
                key: [text.replace("⟨⟩", part) for text in _listed(value)] if key in ("forward", "client") else value
                for key, value in expected.items()
            }
            yield Vector(path.stem, why, whole, filled, at, generated, number == 0)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


@cache
def load(kind: str) -> tuple[Vector, ...]:
    """All vectors of `requests` or `responses`, file by file."""
    known = REQUEST_KEYS if kind == "requests" else RESPONSE_KEYS
    return tuple(vector for path in sorted((HERE / kind).glob("*.toml")) for vector in _vectors(path, known))


def files(kind: str) -> list[str]:
    """Names of the files of `requests` or `responses`."""
    return sorted(path.stem for path in (HERE / kind).glob("*.toml"))


def of_file(kind: str, name: str) -> list[Vector]:
    """The vectors of one file."""
    return [vector for vector in load(kind) if vector.file == name]
