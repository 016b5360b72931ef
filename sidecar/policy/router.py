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

from collections.abc import Iterator, Sequence
from typing import Final, Generic, TypeVar

from sidecar.model.head import Field
from sidecar.model.snapshot import PathType, Route
from sidecar.policy.explain import Request, Ruling, Verdict, verdicts
from sidecar.policy.matching import Candidate, Facts, Regex, Rule, compile_regex, matched_path
from sidecar.policy.shadow import shadowed

__all__ = ["Regex", "Router", "Rule", "Verdict", "compile_regex", "shadowed"]

T = TypeVar("T")

_NO_FACTS: Final = Facts([], b"")


class _Bucket(Generic[T]):
    """Rules that share a path, in order of precedence."""

    __slots__ = ("candidates", "sure")

    def __init__(self) -> None:
        self.candidates: list[Candidate[T]] = []
        self.sure: Rule[T] | None = None
        """The first rule, if it takes every request that comes here."""

    def add(self, candidate: Candidate[T]) -> None:
        if not self.candidates and candidate.plain:
            self.sure = candidate.rule
        self.candidates.append(candidate)

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
        """Candidates come by ascending rank."""
        kind = candidate.rule.match.path.type
        if kind is PathType.EXACT:
            self.exact.setdefault(candidate.path, _Bucket()).add(candidate)
        elif kind is PathType.REGEX:
            self.regexes.append(candidate)
        elif candidate.path:
            self.prefixes.setdefault(candidate.path, _Bucket()).add(candidate)
            self.depth = max(self.depth, candidate.path.count(b"/"))
        else:
            self.root.add(candidate)

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
    """The compiled rules of one listener. Immutable."""

    __slots__ = ("_any", "_asks", "_hosts", "_only", "_paths", "_rulings", "_wild_depth", "_wildcards")

    def __init__(self, rules: Sequence[tuple[Route, T]], listener: str) -> None:
        """Keep the routes of `listener` and those of every listener. Raises ValueError for a bad expression."""
        self._hosts: dict[bytes, _Table[T]] = {}
        self._wildcards: dict[bytes, _Table[T]] = {}
        self._any: _Table[T] | None = None
        candidates = [
            Candidate(payload, route, number)
            for route, payload in rules
            if route.listener is None or route.listener == listener
            for number in range(len(route.matches))
        ]
        candidates.sort(key=lambda candidate: candidate.rank)
        self._rulings = [Ruling(candidate) for candidate in candidates]
        for ruling in self._rulings:
            for table in self._tables_for(ruling):
                table.add(ruling.candidate)
        self._wild_depth = max((suffix.count(b".") + 1 for suffix in self._wildcards), default=0)
        self._asks = any(candidate.headers or candidate.queries for candidate in candidates)
        self._paths = any(candidate.path or candidate.rule.match.path.type is not PathType.PREFIX for candidate in candidates)
        self._only = self._catch_all()

    def _tables_for(self, ruling: Ruling[T]) -> Iterator[_Table[T]]:
        for host in ruling.exact:
            yield self._hosts.setdefault(host, _Table())
        for suffix in ruling.wildcards:
            yield self._wildcards.setdefault(suffix, _Table())
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
