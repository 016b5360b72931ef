"""The router: which rule a request gets.

Tables by host, exact path and path prefix, so that the cost of a match does not grow with the number of routes; only
regular expressions and rules that share a path are tried one by one.

Precedence (product.md 3.1 and 3.9, Gateway API HTTPRoute): exact hostname, longest wildcard, no hostname; then Exact
path, longest PathPrefix, longest RegularExpression; then method, most headers, most query parameters, document order.

When the rules of the most specific hostname all refuse a request, the next less specific hostname is asked. Gateway
API ranks rules, not virtual hosts: "precedence must be given" orders those that match, and one that does not match
takes no part. So adding `api.shop.svc` with a rule for `/v2` never takes `/v1` away from `*.shop.svc`.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Final, Generic, TypeVar

from sidecar.model.head import Field
from sidecar.model.snapshot import PathType, Route
from sidecar.policy.explain import Request, Ruling, Verdict, split_hostnames, verdicts
from sidecar.policy.matching import Candidate, Compiler, Facts, Rank, Regex, Rule, compile_regex, matched_path
from sidecar.policy.shadow import shadowed
from sidecar.policy.slices import Slices, at_once

__all__ = ["Regex", "Router", "Rule", "Verdict", "compile_regex", "routers_in_slices", "shadowed"]

T = TypeVar("T")

_NO_FACTS: Final = Facts([], b"")
_HOSTS: Final = 63
"""A rule with many hostnames pauses after each 64 of them."""


def _insert(candidates: list[Candidate[T]], candidate: Candidate[T]) -> None:
    """Keep the order of precedence, however they come: mostly in order."""
    if not candidates or candidates[-1].rank < candidate.rank:
        candidates.append(candidate)
    else:
        insort(candidates, candidate, key=_rank)


def _rank(candidate: Candidate[T]) -> Rank:
    return candidate.rank


class _Bucket(Generic[T]):
    """Rules that share a path, in order of precedence."""

    __slots__ = ("candidates", "sure")

    def __init__(self) -> None:
        self.candidates: list[Candidate[T]] = []
        self.sure: Rule[T] | None = None
        """The first rule, if it takes every request that comes here."""

    def add(self, candidate: Candidate[T]) -> None:
        _insert(self.candidates, candidate)
        first = self.candidates[0]
        self.sure = first.rule if first.plain else None

    def first(self, method: bytes, facts: Facts) -> Rule[T] | None:
        for candidate in self.candidates:
            if candidate.plain or candidate.admits(method, facts):
                return candidate.rule
        return None


class _Table(Generic[T]):
    """The rules of one hostname."""

    __slots__ = ("depth", "exact", "prefixes", "regexes", "root")

    def __init__(self) -> None:
        self.exact: dict[bytes, _Bucket[T]] = {}
        self.prefixes: dict[bytes, _Bucket[T]] = {}
        self.regexes: list[Candidate[T]] = []
        self.root: _Bucket[T] = _Bucket()
        """The rules for the prefix `/`: they match every target, also `*` and that of CONNECT."""
        self.depth = 0
        """Elements of the longest prefix."""

    def add(self, candidate: Candidate[T]) -> None:
        kind = candidate.rule.match.path.type
        if kind is PathType.REGEX:
            _insert(self.regexes, candidate)
        elif kind is PathType.PREFIX and not candidate.path:
            self.root.add(candidate)
        else:
            buckets = self.exact if kind is PathType.EXACT else self.prefixes
            bucket = buckets.get(candidate.path)
            if bucket is None:
                bucket = buckets[candidate.path] = _Bucket()
            bucket.add(candidate)
            if kind is PathType.PREFIX:
                self.depth = max(self.depth, candidate.path.count(b"/"))

    def find(self, path: bytes, method: bytes, facts: Facts) -> Rule[T] | None:
        """The best rule for a normalised `path`."""
        if self.exact and (bucket := self.exact.get(path)) is not None and (rule := bucket.sure or bucket.first(method, facts)):
            return rule
        if self.depth:
            end, elements = 0, self.depth
            while elements and end >= 0:  # cut behind the last element that a prefix can have
                end = path.find(b"/", end + 1)
                elements -= 1
            if end < 0:
                end = len(path)
            while end > 0:
                if (bucket := self.prefixes.get(path[:end])) is not None and (rule := bucket.sure or bucket.first(method, facts)):
                    return rule
                end = path.rfind(b"/", 0, end)
        if rule := self.root.sure or self.root.first(method, facts):
            return rule
        for candidate in self.regexes:
            if candidate.admits(method, facts) and candidate.regex is not None and candidate.regex.fullmatch(path) is not None:
                return candidate.rule
        return None


class Router(Generic[T]):
    """The compiled rules of one listener. Immutable once it is filled."""

    __slots__ = ("_any", "_asks", "_hosts", "_only", "_paths", "_rulings", "_wild_depth", "_wildcards")

    def __init__(self, rules: Sequence[tuple[Route, T]], listener: str) -> None:
        """Keep the routes of `listener` and those of every listener. Raises ValueError for a bad expression."""
        self._empty()
        compiler = cache(compile_regex)
        kept = ((route, payload) for route, payload in rules if route.listener is None or route.listener == listener)
        at_once(self._fill(ruling for route, payload in kept for ruling in _rulings(route, payload, compiler)))

    def _empty(self) -> None:
        self._hosts: dict[bytes, _Table[T]] = {}
        self._wildcards: dict[bytes, _Table[T]] = {}
        self._any: _Table[T] | None = None
        self._rulings: list[Ruling[T]] = []
        self._wild_depth = 0
        """Labels of the longest wildcard."""
        self._asks = False
        """Some rule looks at headers or query parameters."""
        self._paths = False
        """Some rule looks at the path."""
        self._only: Rule[T] | None = None

    def _fill(self, rulings: Iterable[Ruling[T]]) -> Slices[None]:
        for ruling in rulings:
            candidate = ruling.candidate
            self._rulings.append(ruling)
            for count, table in enumerate(self._tables_for(ruling)):
                table.add(candidate)
                if count & _HOSTS == _HOSTS:
                    yield
            self._asks = self._asks or bool(candidate.headers or candidate.queries)
            self._paths = self._paths or bool(candidate.path) or candidate.rule.match.path.type is not PathType.PREFIX
            yield
        self._only = self._catch_all()

    def _tables_for(self, ruling: Ruling[T]) -> Iterator[_Table[T]]:
        for host in ruling.exact:
            yield _table(self._hosts, host)
        for suffix in ruling.wildcards:
            self._wild_depth = max(self._wild_depth, suffix.count(b".") + 1)
            yield _table(self._wildcards, suffix)
        if not ruling.exact and not ruling.wildcards:
            self._any = self._any or _Table()
            yield self._any

    def _catch_all(self) -> Rule[T] | None:
        """The rule of a document that has but one, which takes everything: then there is nothing to look at."""
        if self._any is None or len(self._rulings) != 1 or self._paths:
            return None
        candidate = self._rulings[0].candidate
        return candidate.rule if candidate.plain else None

    def match(self, host: bytes, path: bytes, method: bytes, fields: list[Field]) -> Rule[T] | None:
        """The rule of a request, None when no route matches (404).

        `host` is in lower case without its port (one final dot is ignored, it names the same host), `path` the raw
        origin-form target with its query. `*` and the empty target of CONNECT have no elements: the prefix `/` matches
        them, and an expression may.
        """
        if self._only is not None:
            return self._only
        facts = Facts(fields, path) if self._asks else _NO_FACTS
        clean = matched_path(path) if self._paths else b""
        if self._hosts or self._wildcards:
            host = host.removesuffix(b".")
            if (table := self._hosts.get(host)) is not None and (rule := table.find(clean, method, facts)) is not None:
                return rule
            if self._wildcards and (rule := self._by_wildcard(host, clean, method, facts)) is not None:
                return rule
        return None if self._any is None else self._any.find(clean, method, facts)

    def _by_wildcard(self, host: bytes, path: bytes, method: bytes, facts: Facts) -> Rule[T] | None:
        """Longest suffix first; looks at no more labels than the longest wildcard has, whatever the host's length."""
        found = []
        cut = len(host)
        for _ in range(self._wild_depth):
            cut = host.rfind(b".", 0, cut)
            if cut <= 0:
                break
            if (table := self._wildcards.get(host[cut + 1 :])) is not None:
                found.append(table)
        for table in reversed(found):
            if (rule := table.find(path, method, facts)) is not None:
                return rule
        return None

    def explain(self, host: bytes, path: bytes, method: bytes, fields: list[Field]) -> list[Verdict]:
        """Every rule in order of precedence for this request, and why it did or did not get it. Not for the hot path."""
        return verdicts(self._rulings, Request(host.removesuffix(b"."), matched_path(path), method, Facts(fields, path)))


def _table(tables: dict[bytes, _Table[T]], name: bytes) -> _Table[T]:
    table = tables.get(name)
    if table is None:
        table = tables[name] = _Table()
    return table


def _rulings(route: Route, payload: T, compiler: Compiler) -> Iterator[Ruling[T]]:
    """The rules of a route, one per match."""
    exact, wildcards = split_hostnames(route)
    for number in range(len(route.matches)):
        yield Ruling(Candidate(payload, route, number, compiler), exact, wildcards)


def routers_in_slices(rules: Iterable[tuple[Route, T]], listeners: Iterable[str]) -> Slices[dict[str, Router[T]]]:
    """The router of each listener, made in small steps.

    Every rule and every expression is compiled once, and listeners without routes of their own share one router.
    Raises ValueError for a bad expression.
    """
    compiler = cache(compile_regex)
    everywhere: list[Ruling[T]] = []
    own: dict[str, list[Ruling[T]]] = {}
    for route, payload in rules:
        rulings = everywhere if route.listener is None else own.setdefault(route.listener, [])
        for ruling in _rulings(route, payload, compiler):
            rulings.append(ruling)
            yield
    shared = yield from _made(everywhere)
    routers = {}
    for listener in listeners:
        routers[listener] = (yield from _made(chain(everywhere, own[listener]))) if listener in own else shared
    return routers


def _made(rulings: Iterable[Ruling[T]]) -> Slices[Router[T]]:
    router: Router[T] = Router((), "")
    yield from router._fill(rulings)
    return router
