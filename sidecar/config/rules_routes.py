"""Rules for routes, their filters, clocks and retries, and for the document's own tests."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import UNSET, UnsetType

from sidecar.config import values
from sidecar.config.problem import Path, shown
from sidecar.config.rules_ends import unique
from sidecar.config.rules_values import Finding, attempt
from sidecar.model.document import (
    CaseDoc,
    FilterDoc,
    FilterType,
    HeaderModifierDoc,
    MatchDoc,
    PathModifierDoc,
    PathModifierType,
    RetryDoc,
    RouteDoc,
    TimeoutsDoc,
    UrlRewriteDoc,
    ValueMatchDoc,
)
from sidecar.model.quantity import parse_size
from sidecar.model.snapshot import PathType, ValueType
from sidecar.policy.matching import PATTERN_INSTRUCTIONS, compile_regex

MAX_KEPT_BODY: Final = 16 * 1024 * 1024
"""The process-wide limit of bodies kept for retries (product.md 3.3)."""
MAX_EXPRESSIONS: Final = 1000
"""Different expressions of a document: the rules of a hostname that have one are tried one by one."""
MAX_INSTRUCTIONS: Final = 50_000
"""Of all expressions together: 50 ms to compile, 2 MB, and for the worst path of 8 KiB two seconds to match."""
MAX_PLACES: Final = 100_000
"""Entries of the routers' tables, some 40 MB: one for each listener, hostname and match of a route."""
_MEMBERS: Final = {
    FilterType.REQUEST_HEADERS: ("requestHeaderModifier", "request_header_modifier"),
    FilterType.RESPONSE_HEADERS: ("responseHeaderModifier", "response_header_modifier"),
    FilterType.REWRITE: ("urlRewrite", "url_rewrite"),
    FilterType.REDIRECT: ("requestRedirect", "request_redirect"),
    FilterType.MIRROR: ("requestMirror", "request_mirror"),
}


class Names:
    """What a route may refer to. None: not to be judged, because a name itself is wrong."""

    __slots__ = ("listeners", "upstreams")

    def __init__(self, listeners: Collection[str] | None, upstreams: Collection[str] | None) -> None:
        self.listeners = listeners
        self.upstreams = upstreams


class Expressions:
    """The expressions of one document: each is compiled once, and all together within bounds."""

    __slots__ = ("_left", "_told", "_verdicts")

    def __init__(self) -> None:
        self._left = MAX_INSTRUCTIONS
        self._verdicts: dict[str, str] = {}
        """Expression -> what is wrong with it, "" for nothing."""
        self._told = False

    def check(self, path: Path, pattern: str) -> Iterator[Finding]:
        """What is wrong with `pattern`. When the bounds are reached it is said once, and nothing is compiled any more."""
        if pattern not in self._verdicts:
            if self._left <= 0 or len(self._verdicts) >= MAX_EXPRESSIONS:
                if not self._told:
                    self._told = True
                    yield path, self._spent()
                return
            self._verdicts[pattern] = self._judge(pattern)
        if why := self._verdicts[pattern]:
            yield path, why

    def _judge(self, pattern: str) -> str:
        try:
            self._left -= compile_regex(pattern).programsize
        except ValueError as error:
            self._left -= PATTERN_INSTRUCTIONS
            return str(error)
        return ""

    def _spent(self) -> str:
        advice = "write Exact or PathPrefix where they do, and `*` instead of large repetition counts"
        if self._left <= 0:
            return f"the {len(self._verdicts)} different expressions up to here are too large together ({advice})"
        return f"the document has more than {MAX_EXPRESSIONS} different expressions ({advice})"


def check_routes(routes: list[RouteDoc], names: Names, defaults: TimeoutsDoc) -> Iterator[Finding]:
    """Everything about the routes."""
    yield from unique(("routes",), (route.name for route in routes))
    yield from _check_places(routes, names)
    expressions = Expressions()
    for index, route in enumerate(routes):
        path: Path = ("routes", index)
        if route.name is not UNSET and "[" in route.name and route.name != f"routes[{index}]":
            yield (*path, "name"), f"{route.name} is the name of an unnamed route in another place (write another, or none)"
        if route.listener is not None:
            yield from _known((*path, "listener"), route.listener, names.listeners, "listener")
        for number, text in enumerate(route.hostnames):
            yield from attempt((*path, "hostnames", number), values.route_hostname, text)
        for number, match in enumerate(route.matches):
            yield from _check_match((*path, "matches", number), match, expressions)
        yield from _check_filters(path, route, names)
        yield from _check_backends(path, route, names)
        yield from check_timeouts((*path, "timeouts"), route.timeouts, defaults)
        if isinstance(route.retry, RetryDoc):
            yield from check_retry((*path, "retry"), route.retry)


def _known(path: Path, name: str, names: Collection[str] | None, what: str) -> Iterator[Finding]:
    if names is None or name in names:
        return
    there = ", ".join(sorted(names)[:10]) or "none"
    yield path, f"there is no {what} {shown(name)} (write one of: {there})"


def _check_places(routes: list[RouteDoc], names: Names) -> Iterator[Finding]:
    """Hostnames times matches times listeners is more than any reader of the document would expect."""
    listeners = len(names.listeners or ()) or 1
    places = 0
    for index, route in enumerate(routes):
        places += (len(route.hostnames) or 1) * (len(route.matches) or 1) * (listeners if route.listener is None else 1)
        if places > MAX_PLACES:
            yield (
                ("routes", index),
                f"hostnames x matches x listeners of the routes up to here is more than {MAX_PLACES} (name listeners, use wildcards)",
            )
            return


def _check_match(path: Path, match: MatchDoc, expressions: Expressions) -> Iterator[Finding]:
    place = (*path, "path", "value")
    if match.path.type is PathType.REGEX:
        yield from expressions.check(place, match.path.value)
    else:
        yield from attempt(place, values.path, match.path.value)
    if match.method is not None:
        yield from attempt((*path, "method"), values.method, match.method)
    if match.headers:
        yield from _check_conditions((*path, "headers"), match.headers, expressions, header=True)
    if match.query_params:
        yield from _check_conditions((*path, "queryParams"), match.query_params, expressions, header=False)


def _check_conditions(path: Path, conditions: list[ValueMatchDoc], expressions: Expressions, *, header: bool) -> Iterator[Finding]:
    seen: set[str] = set()
    for number, condition in enumerate(conditions):
        name = condition.name.lower() if header else condition.name
        if header:
            yield from attempt((*path, number, "name"), values.header_name, condition.name)
        elif not name:
            yield (*path, number, "name"), "is empty (write the name of a query parameter)"
        if name in seen:
            yield (*path, number, "name"), f"{shown(name)} has a condition already (write one, with a RegularExpression if need be)"
        seen.add(name)
        if condition.type is ValueType.REGEX:
            yield from expressions.check((*path, number, "value"), condition.value)


def _check_filters(path: Path, route: RouteDoc, names: Names) -> Iterator[Finding]:
    if not route.filters:
        return
    only_prefixes = all(match.path.type is PathType.PREFIX for match in route.matches)
    kinds: set[FilterType] = set()
    for number, item in enumerate(route.filters):
        place = (*path, "filters", number)
        if item.type in kinds and item.type in {FilterType.REWRITE, FilterType.REDIRECT}:
            yield (*place, "type"), f"a second {item.type.value} in one route (merge the two)"
        kinds.add(item.type)
        yield from _check_members(place, item)
        if item.request_mirror is not None:
            name = item.request_mirror.backend_ref.name
            yield from _known((*place, "requestMirror", "backendRef", "name"), name, names.upstreams, "upstream")
        yield from _check_filter(place, item, only_prefixes=only_prefixes)
    if {FilterType.REWRITE, FilterType.REDIRECT} <= kinds:
        yield (*path, "filters"), "URLRewrite and RequestRedirect exclude each other (keep one)"
    if {FilterType.MIRROR, FilterType.REDIRECT} <= kinds:
        yield (*path, "filters"), "a route that redirects has nothing to copy (remove the RequestMirror filter)"
    if FilterType.REDIRECT in kinds and route.backend_refs:
        yield (
            (*path, "backendRefs"),
            "a route that redirects sends nothing to an upstream (remove backendRefs, or the RequestRedirect filter)",
        )


def _check_members(path: Path, item: FilterDoc) -> Iterator[Finding]:
    wanted, attribute = _MEMBERS[item.type]
    if getattr(item, attribute) is None:
        yield path, f"a filter of type {item.type.value} has its parameters in {wanted} (write {wanted}: {{...}})"
    for name, other in _MEMBERS.values():
        if name != wanted and getattr(item, other) is not None:
            yield (*path, name), f"does not belong to a filter of type {item.type.value} (write {wanted}, or another type)"


def _check_filter(path: Path, item: FilterDoc, *, only_prefixes: bool) -> Iterator[Finding]:
    if item.request_header_modifier is not None:
        yield from _check_modifier((*path, "requestHeaderModifier"), item.request_header_modifier, "request")
    if item.response_header_modifier is not None:
        yield from _check_modifier((*path, "responseHeaderModifier"), item.response_header_modifier, "response")
    change: Any
    for name, change in (("urlRewrite", item.url_rewrite), ("requestRedirect", item.request_redirect)):
        if change is None:
            continue
        if change.hostname is not None:
            yield from attempt((*path, name, "hostname"), values.hostname, change.hostname)
        if change.path is not None:
            yield from _check_path_modifier((*path, name, "path"), change.path, only_prefixes=only_prefixes)
    if item.url_rewrite == UrlRewriteDoc():
        yield (*path, "urlRewrite"), "changes nothing (write hostname or path)"


def _check_modifier(path: Path, modifier: HeaderModifierDoc, message: Any) -> Iterator[Finding]:
    def name_of(text: str) -> bytes:
        return values.modified_name(text, message)

    written: set[str] = set()
    for kind, headers in (("set", modifier.set), ("add", modifier.add)):
        for number, header in enumerate(headers):
            place = (*path, kind, number)
            yield from attempt((*place, "name"), name_of, header.name)
            yield from attempt((*place, "value"), values.header_value, header.value)
            lower = header.name.lower()
            if kind == "set" and lower in written:
                yield (*place, "name"), f"{shown(header.name)} is set twice (keep one)"
            written.add(lower)
    for number, text in enumerate(modifier.remove):
        place = (*path, "remove", number)
        yield from attempt(place, name_of, text)
        if text.lower() in written:
            yield place, f"{shown(text)} is written by the same filter (keep one; set replaces what is there)"


def _check_path_modifier(path: Path, change: PathModifierDoc, *, only_prefixes: bool) -> Iterator[Finding]:
    full, prefix = change.replace_full_path, change.replace_prefix_match
    is_prefix = change.type is PathModifierType.PREFIX
    wanted, other = ("replacePrefixMatch", "replaceFullPath") if is_prefix else ("replaceFullPath", "replacePrefixMatch")
    value, foreign = (prefix, full) if is_prefix else (full, prefix)
    if value is None:
        yield path, f"type {change.type.value} has its value in {wanted} (write {wanted}: /...)"
    elif value or not is_prefix:
        yield from attempt((*path, wanted), values.path, value)
    if foreign is not None:
        yield (*path, other), f"does not belong to type {change.type.value} (remove it)"
    if is_prefix and not only_prefixes:
        yield (
            (*path, "type"),
            "ReplacePrefixMatch needs a prefix, so every match of the route must be a PathPrefix (write ReplaceFullPath, or split the route)",
        )


def _check_backends(path: Path, route: RouteDoc, names: Names) -> Iterator[Finding]:
    refs = route.backend_refs
    if not refs:
        if not any(item.type is FilterType.REDIRECT for item in route.filters):
            yield path, "goes nowhere (write backendRefs: [{name: UPSTREAM}], or a RequestRedirect filter)"
        return
    seen: set[str] = set()
    for number, ref in enumerate(refs):
        yield from _known((*path, "backendRefs", number, "name"), ref.name, names.upstreams, "upstream")
        if ref.name in seen:
            yield (*path, "backendRefs", number, "name"), f"{shown(ref.name)} is listed twice (keep one and add the weights)"
        seen.add(ref.name)
    if not any(ref.weight for ref in refs):
        yield (*path, "backendRefs"), "every weight is 0, so no upstream would get a request (write a weight above 0)"


def check_timeouts(path: Path, own: TimeoutsDoc, defaults: TimeoutsDoc) -> Iterator[Finding]:
    """`backendRequest` <= `request`, unless one is off, after `defaults` have been merged (product.md 3.2)."""
    if own.request is UNSET and own.backend_request is UNSET and own is not defaults:
        return
    request, one = _merged(own.request, defaults.request), _merged(own.backend_request, defaults.backend_request)
    if 0 < values.seconds(request) < values.seconds(one):
        place = "backendRequest" if own.backend_request is not UNSET else "request"
        yield (
            (*path, place),
            f"backendRequest ({one}) is longer than request ({request}), so it could never fire (write a shorter one, or 0s for off)",
        )


def _merged(own: str | UnsetType, default: str | UnsetType) -> str:
    return own if own is not UNSET else default if default is not UNSET else "0s"


def check_retry(path: Path, retry: RetryDoc) -> Iterator[Finding]:
    """Back-off in order, no code or condition twice, a body that fits the process-wide limit."""
    if values.seconds(retry.backoff) > values.seconds(retry.max_backoff):
        place = "maxBackoff" if retry.backoff == RetryDoc().backoff else "backoff"
        yield (
            (*path, place),
            f"backoff ({retry.backoff}) is longer than maxBackoff ({retry.max_backoff}) (write a shorter backoff or a longer maxBackoff)",
        )
    for name, items in (("codes", retry.codes), ("conditions", retry.conditions)):
        if len(set(items)) != len(items):
            yield (*path, name), "the same entry is given twice (keep one)"
    if parse_size(retry.max_buffered_body) > MAX_KEPT_BODY:
        yield (*path, "maxBufferedBody"), f"{retry.max_buffered_body} is more than the whole process keeps (write at most 16Mi)"


def check_cases(cases: list[CaseDoc], names: Names, routes: Collection[str]) -> Iterator[Finding]:
    """The requests of `tests` are possible ones, and what they expect exists."""
    for index, case in enumerate(cases):
        path: Path = ("tests", index)
        yield from attempt((*path, "request", "url"), case_url, case.request.url)
        yield from attempt((*path, "request", "method"), values.method, case.request.method)
        for name, value in case.request.headers.items():
            yield from attempt((*path, "request", "headers", name), values.header_name, name)
            yield from attempt((*path, "request", "headers", name), values.header_value, value)
        if case.request.listener is not None:
            yield from _known((*path, "request", "listener"), case.request.listener, names.listeners, "listener")
        expect = case.expect
        if isinstance(expect.route, str):
            yield from _known((*path, "expect", "route"), expect.route, routes, "route")
        if expect.upstream is not UNSET:
            yield from _known((*path, "expect", "upstream"), expect.upstream, names.upstreams, "upstream")
        if expect.route is UNSET and expect.upstream is UNSET and expect.timeouts == TimeoutsDoc() and not expect.headers:
            yield (*path, "expect"), "expects nothing (write route, upstream, timeouts or headers)"


def case_url(text: str) -> tuple[str, str]:
    """Host ("" when `text` is a path alone) and target of a test's `url`."""
    if text.isascii() and text.isprintable() and " " not in text:
        if text.startswith("/"):
            return "", text.partition("#")[0]
        parts = urlsplit(text)
        if parts.scheme in {"http", "https"} and parts.hostname and "@" not in parts.netloc:
            query = f"?{parts.query}" if parts.query else ""
            return parts.hostname, (parts.path or "/") + query
    raise ValueError(f"{shown(text)} is not a URL that can be tested (write /PATH, or http://HOST/PATH)")
