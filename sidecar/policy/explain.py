"""Why a request got its rule, in sentences.

Sorts and tries every rule in the plainest way, on purpose: the answers must not depend on the router's tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

from sidecar.model.snapshot import Route
from sidecar.policy.matching import Candidate, Condition, Facts, Rank

T = TypeVar("T")


class Verdict(NamedTuple):
    """What became of one rule. `matched` is true for the one that got the request, for no other."""

    route: str
    match: int
    """Index in the route's `matches`."""
    matched: bool
    why: str


def split_hostnames(route: Route) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """(exact names, wildcard suffixes without `*.`) of a route, in lower case, each once."""
    names = dict.fromkeys(name.lower().removesuffix(".").encode() for name in route.hostnames)
    return tuple(name for name in names if not name.startswith(b"*.")), tuple(name[2:] for name in names if name.startswith(b"*."))


HostRank = tuple[int, int]
_EXACT: HostRank = (0, 0)
_ANY: HostRank = (2, 0)
_FOREIGN: HostRank = (3, 0)


class Ruling(Generic[T]):
    """A candidate with the hostnames under which it is found."""

    __slots__ = ("candidate", "exact", "wildcards")

    def __init__(self, candidate: Candidate[T], exact: tuple[bytes, ...], wildcards: tuple[bytes, ...]) -> None:
        self.candidate = candidate
        self.exact = exact
        self.wildcards = wildcards

    def host_rank(self, host: bytes) -> HostRank:
        """How well the route's hostnames fit: less is better, `_FOREIGN` not at all."""
        if not self.exact and not self.wildcards:
            return _ANY
        if host in self.exact:
            return _EXACT
        fitting = [len(suffix) for suffix in self.wildcards if len(host) > len(suffix) + 1 and host.endswith(b"." + suffix)]
        return (1, -max(fitting)) if fitting else _FOREIGN


class Request(NamedTuple):
    """What is looked at; `path` is normalised."""

    host: bytes
    path: bytes
    method: bytes
    facts: Facts


def verdicts(rulings: Iterable[Ruling[T]], request: Request) -> list[Verdict]:
    """Judge `rulings` for a request."""
    ranked = sorted(((ruling.host_rank(request.host), ruling.candidate) for ruling in rulings), key=lambda pair: (pair[0], pair[1].rank))
    winner: tuple[HostRank, Candidate[T]] | None = None
    told = []
    for rank, candidate in ranked:
        why = _refusal(rank, candidate, request)
        matched = why is None and winner is None
        if why is None:
            why = _approval(rank, candidate) if winner is None else _beaten(winner, (rank, candidate))
            winner = winner or (rank, candidate)
        told.append(Verdict(candidate.rule.route.name, candidate.number, matched, why))
    return told


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _refusal(rank: HostRank, candidate: Candidate[T], request: Request) -> str | None:
    """The first condition that does not hold, None when all do."""
    match = candidate.rule.match
    if rank == _FOREIGN:
        return f"hostnames {', '.join(candidate.rule.route.hostnames)} do not match {_text(request.host) or 'a request without a host'}"
    if not candidate.admits_path(request.path):
        return f"path {match.path.type} {match.path.value} does not match {_text(request.path)}"
    if candidate.method is not None and candidate.method != request.method:
        return f"method {match.method} does not match {_text(request.method)}"
    for condition in candidate.headers:
        if not condition.holds(value := request.facts.header(condition.name)):
            return _mismatch("header", condition, value)
    for condition in candidate.queries:
        if not condition.holds(value := request.facts.query(condition.name)):
            return _mismatch("query parameter", condition, value)
    return None


def _mismatch(what: str, condition: Condition, value: bytes | None) -> str:
    source = condition.source
    seen = "is absent" if value is None else f"does not match {_text(value)}"
    return f"{what} {source.name} {source.type} {source.value} {seen}"


def _approval(rank: HostRank, candidate: Candidate[T]) -> str:
    route, match = candidate.rule.route, candidate.rule.match
    parts = [] if rank == _ANY else [f"hostname {', '.join(route.hostnames)}"]
    parts.append(f"path {match.path.type} {match.path.value}")
    if match.method is not None:
        parts.append(f"method {match.method}")
    parts += [f"header {condition.source.name}" for condition in candidate.headers]
    parts += [f"query parameter {condition.source.name}" for condition in candidate.queries]
    return "matches by " + ", ".join(parts)


_BETTER = (
    "{0} path beats {1}",
    "longer {0}",
    "method",
    "more headers",
    "more query parameters",
    "earlier in the document",
    "earlier in the same route",
)
"""Why the better of two ranks is better: one phrase per place of `matching.Rank`."""
_KINDS = ("exact", "prefix", "regular expression")


def _beaten(winner: tuple[HostRank, Candidate[T]], loser: tuple[HostRank, Candidate[T]]) -> str:
    by = f"shadowed by route {winner[1].rule.route.name}: "
    if winner[0] < loser[0]:
        return by + "more specific hostname"
    return by + _difference(winner[1].rank, loser[1].rank)


def _difference(better: Rank, worse: Rank) -> str:
    place = next((place for place in range(len(better)) if better[place] != worse[place]), len(better) - 1)
    return _BETTER[place].format(_KINDS[better[0]], _KINDS[worse[0]])
