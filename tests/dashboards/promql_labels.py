"""A reader of PromQL that knows which labels every part of a query has: a misspelt metric, label or match is an error here.

Prometheus itself accepts `sum by (rout) (...)` or a division whose sides never match, and answers nothing; this reader
does not. It reads what our queries use, and refuses the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

Labels = frozenset[str] | None
"""None: a number, not a vector."""
TOKENS = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<duration>(?:[0-9]+(?:ms|[smhdwy]))+)\b|(?P<number>[0-9]+(?:\.[0-9]+)?)"""
    r"""|(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)|(?P<sign>=~|!~|!=|==|>=|<=|[-+*/()\[\]{},=<>]))"""
)
BINDING = {"or": 1, "and": 2, "unless": 2, **dict.fromkeys(["==", "!=", ">", "<", ">=", "<="], 3), "+": 4, "-": 4, "*": 5, "/": 5}
AGGREGATIONS = ("sum", "min", "max", "avg", "count", "topk")
OVER_RANGES = ("rate", "increase", "changes", "avg_over_time", "max_over_time", "sum_over_time")


class Match(NamedTuple):
    """One matcher of a selector."""

    series: str
    label: str
    sign: str
    value: str


class Reading(NamedTuple):
    """What a query uses: `labels` of its result."""

    labels: Labels
    series: frozenset[str]
    matches: tuple[Match, ...]


def read(text: str, labels_of: Callable[[str], frozenset[str]]) -> Reading:
    """Read one query. `labels_of` gives the labels of a series and raises KeyError for one that does not exist.

    ValueError: it is not well-formed, or uses a label that is not there, or combines vectors that cannot match.
    """
    reader = _Reader(text, labels_of)
    labels = reader.expression(0)
    if reader.at < len(reader.tokens):
        raise ValueError(f"{reader.peek()!r} is left over in {text}")
    return Reading(labels, frozenset(reader.series), tuple(reader.matches))


class _Reader:
    def __init__(self, text: str, labels_of: Callable[[str], frozenset[str]]) -> None:
        self.text = text
        self.labels_of = labels_of
        self.tokens: list[tuple[str, str]] = []
        self.at = 0
        self.series: set[str] = set()
        self.matches: list[Match] = []
        end = 0
        while text[end:].strip():
            found = TOKENS.match(text, end)
            if found is None:
                raise ValueError(f"not PromQL at {text[end : end + 30]!r} in {text}")
            self.tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
            end = found.end()

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self, wanted: str = "", kind: str = "") -> str:
        found_kind, found = self.tokens[self.at] if self.at < len(self.tokens) else ("", "the end")
        if (wanted and found != wanted) or (kind and found_kind != kind):
            raise ValueError(f"{found!r} where {wanted or kind} should be in {self.text}")
        self.at += 1
        return found

    def expression(self, binding: int) -> Labels:
        left = self.operand()
        while BINDING.get(self.peek(), 0) > binding:
            sign = self.take()
            on, many = self.matching()
            left = self.combine(sign, left, self.expression(BINDING[sign]), on, many)
        return left

    def matching(self) -> tuple[frozenset[str] | None, bool]:
        on, many = None, False
        if self.peek() == "on":
            self.take()
            on = self.names()
        if self.peek() == "group_left":
            self.take()
            if self.names():
                raise ValueError(f"group_left with labels is not read here: {self.text}")
            many = True
        return on, many

    def combine(self, sign: str, left: Labels, right: Labels, on: frozenset[str] | None, many: bool) -> Labels:
        if left is None or right is None:
            return left if right is None else right
        for side in (left, right):
            if on is not None and not on <= side:
                raise ValueError(f"{sorted(on - side)} is in on(), but not on both sides of {sign}: {self.text}")
        if on is None and left != right:
            raise ValueError(f"the sides of {sign} have the labels {sorted(left)} and {sorted(right)} and never match: {self.text}")
        if sign in ("and", "or", "unless") or on is None or many:
            return left
        return on

    def operand(self) -> Labels:
        kind, token = self.tokens[self.at] if self.at < len(self.tokens) else ("", "")
        if token == "(":
            self.take()
            inner = self.expression(0)
            self.take(")")
            return inner
        if kind == "number":
            self.take()
            return None
        name = self.take(kind="name")
        if name in AGGREGATIONS:
            return self.aggregation(name)
        return self.call(name) if self.peek() == "(" else self.selector(name)

    def aggregation(self, name: str) -> Labels:
        by: frozenset[str] = frozenset()
        if self.peek() == "by":
            self.take()
            by = self.names()
        self.take("(")
        if name == "topk":
            self.take(kind="number")
            self.take(",")
        inner = self.expression(0)
        self.take(")")
        if inner is None or not by <= inner:
            raise ValueError(f"there is no {sorted(by - (inner or frozenset()))} to aggregate by in {self.text}")
        return inner if name == "topk" else by

    def call(self, name: str) -> Labels:
        self.take("(")
        if name == "time":
            self.take(")")
            return None
        if name == "histogram_quantile":
            self.take(kind="number")
            self.take(",")
        inner = self.expression(0)
        if name == "label_replace":
            target, _, source, pattern = [(self.take(","), self.take(kind="string"))[1][1:-1] for _ in range(4)]
            re.compile(pattern)
            inner = (inner or frozenset()) | {target} if source in (inner or ()) else None
        elif name == "histogram_quantile":
            inner = inner - {"le"} if inner is not None and "le" in inner else None
        elif name in ("vector", "scalar"):
            self.take(")")
            return frozenset() if name == "vector" else None
        elif name not in OVER_RANGES:
            raise ValueError(f"the function {name} is not read here: {self.text}")
        if inner is None:
            raise ValueError(f"{name} lacks a label that it needs in {self.text}")
        self.take(")")
        return inner

    def selector(self, series: str) -> Labels:
        labels = self.labels_of(series)
        self.series.add(series)
        if self.peek() == "{":
            self.take()
            while self.peek() != "}":
                label, sign, value = self.take(kind="name"), self.take(kind="sign"), self.take(kind="string")[1:-1]
                if label not in labels:
                    raise ValueError(f"{series} has no label {label} in {self.text}")
                self.matches.append(Match(series, label, sign, value))
                if self.peek() == ",":
                    self.take()
            self.take("}")
        if self.peek() == "[":
            self.take()
            self.take(kind="duration")
            self.take("]")
        if self.peek() == "offset":
            self.take()
            self.take(kind="duration")
        return labels

    def names(self) -> frozenset[str]:
        self.take("(")
        found = set()
        while self.peek() != ")":
            found.add(self.take(kind="name"))
            if self.peek() == ",":
                self.take()
        self.take(")")
        return frozenset(found)
