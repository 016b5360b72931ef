"""Rules that can never get a request, found when a document is loaded.

A warning is certain: what cannot be proved is not said (a rule that several others cover together is missed).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sidecar.model.snapshot import Match, PathType, Route, ValueMatch
from sidecar.policy.matching import document_path

_META = frozenset(".[]{}()\\*+?|^$")


class _Conditions(NamedTuple):
    """Everything but host and path."""

    method: str | None
    headers: frozenset[ValueMatch]
    queries: frozenset[ValueMatch]


_NONE = _Conditions(None, frozenset(), frozenset())


class _Key(NamedTuple):
    """A rule at one hostname of one listener ("" and None: every one)."""

    listener: str | None
    host: str
    kind: PathType
    path: str | bytes
    conditions: _Conditions


class _Named(NamedTuple):
    route: Route
    number: int

    def __str__(self) -> str:
        return f"route {self.route.name} (matches[{self.number}])"


def shadowed(routes: Sequence[Route]) -> list[str]:
    """One sentence for each rule that no request can reach, in document order."""
    seen: dict[_Key, _Named] = {}
    rules = [(_Named(route, number), _keys(route, match)) for route in routes for number, match in enumerate(route.matches)]
    for rule, keys in rules:
        for key in keys:
            seen.setdefault(key, rule)
    told = []
    for rule, keys in rules:
        why = _unmatchable(rule.route.matches[rule.number]) or _covered(rule, keys, seen)
        if why is not None:
            told.append(f"{rule} can never be reached: {why}")
    return told


def _keys(route: Route, match: Match) -> list[_Key]:
    kind, value = match.path.type, match.path.value
    path = value if kind is PathType.REGEX else document_path(kind, value)
    conditions = _Conditions(match.method, _first_of_each(match.headers), _first_of_each(match.query_params))
    hosts = [name.lower().removesuffix(".") for name in route.hostnames] or [""]
    return [_Key(route.listener, host, kind, path, conditions) for host in hosts]


def _first_of_each(sources: tuple[ValueMatch, ...]) -> frozenset[ValueMatch]:
    first: dict[str, ValueMatch] = {}
    for source in sources:
        first.setdefault(source.name, source)
    return frozenset(first.values())


def _covered(rule: _Named, keys: list[_Key], seen: dict[_Key, _Named]) -> str | None:
    """Why every hostname of `rule` belongs to a rule that always goes first, or None."""
    first = None
    for key in keys:
        why = _covered_at(rule, key, seen)
        if why is None:
            return None
        first = first or why
    return first


def _covered_at(rule: _Named, key: _Key, seen: dict[_Key, _Named]) -> str | None:
    for listener in dict.fromkeys((None, key.listener)):
        other = seen.get(key._replace(listener=listener))
        if other is not None and (other.route.index, other.number) < (rule.route.index, rule.number):
            return f"{other} has the same conditions and comes first"
    if key.kind is PathType.REGEX:
        for wider in _wider_prefixes(key):
            if (other := seen.get(wider)) is not None:
                return f"{other} takes its paths, because a PathPrefix goes before a RegularExpression"
    return None


def _wider_prefixes(key: _Key) -> Iterator[_Key]:
    """The PathPrefix rules that, if they exist, win whatever this expression matches."""
    literal = _literal_start(str(key.path)).encode()
    ends = [place for place, byte in enumerate(literal) if byte == 0x2F]
    for listener in dict.fromkeys((None, key.listener)):
        for conditions in dict.fromkeys((_NONE, _NONE._replace(method=key.conditions.method), key.conditions)):
            for end in ends or [0]:
                yield _Key(listener, key.host, PathType.PREFIX, literal[:end], conditions)


def _literal_start(pattern: str) -> str:
    """The text that everything which `pattern` matches begins with, as far as that is plain to see."""
    if "|" in pattern:
        return ""
    end = next((place for place, char in enumerate(pattern) if char in _META), len(pattern))
    if end < len(pattern) and pattern[end] in "*?{":
        end -= 1  # the character before may be absent
    return pattern[:end] if pattern.isascii() else ""


def _unmatchable(match: Match) -> str | None:
    value = match.path.value
    if match.path.type is PathType.REGEX and value[:1].isalnum() and "|" not in value and value[1:2] not in {"*", "?", "{"}:
        return f"paths begin with /, the expression {value} does not"
    return None
