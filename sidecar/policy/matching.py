"""What one rule asks of a request, compiled: path, method, headers, query parameters, and the rank among its peers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final, Generic, Protocol, TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

from sidecar.model.head import Field
from sidecar.model.snapshot import Match, PathType, Route, ValueMatch, ValueType
from sidecar.protocol.target import normalize_path

T = TypeVar("T")

PATH_RANK: Final = {PathType.EXACT: 0, PathType.PREFIX: 1, PathType.REGEX: 2}
"""Exact before PathPrefix before RegularExpression (product.md 3.1)."""

_PATH_SAFE: Final = "/%!$&'()*+,;=:@-._~"
"""What stands in a path as it is (RFC 3986 section 3.3); the rest is percent-encoded, as clients send it."""


PATTERN_CHARACTERS: Final = 1024
PATTERN_INSTRUCTIONS: Final = 2000
"""Size of one compiled expression. RE2 without its table of states takes a step per instruction and byte of the path."""
_PATTERN_MEMORY: Final = 128 * 1024
"""Bytes that RE2 may take for one expression, its table of states included (RE2::Options max_mem)."""
_UNICODE_CLASSES: Final = 16
"""Each takes 0.1 ms to read, whatever comes out."""
_TOO_LARGE: Final = "the expression is too large (write smaller repetition counts, `*` for `{0,1000}`, or fewer classes)"


class Regex(Protocol):
    """What is asked of a compiled expression."""

    @property
    def programsize(self) -> int:
        """Instructions: what it costs to compile and to match."""
        ...

    def fullmatch(self, text: bytes) -> object | None:
        """Something when the whole of `text` matches, else None."""
        ...


def compile_regex(pattern: str) -> Regex:
    """Compile `pattern` with RE2: linear time whatever the input, no look-around, no back-references.

    At most a few milliseconds, because what is too large is refused. Raises ValueError with a sentence for the
    document's author. RE2 is imported at the first call, because most documents have no expression.
    """
    if len(pattern) > PATTERN_CHARACTERS:
        raise ValueError(f"the expression is longer than {PATTERN_CHARACTERS} characters (write a shorter one)")
    if pattern.lower().count("\\p") > _UNICODE_CLASSES:
        raise ValueError(_TOO_LARGE)
    import re2  # noqa: PLC0415 - 3 MB and 20 ms that most documents need not pay

    options = re2.Options()
    options.log_errors = False  # it would write to stderr
    options.never_capture = True
    options.max_mem = _PATTERN_MEMORY
    try:
        compiled: Regex = re2.compile(pattern.encode(), options)
    except re2.error as error:
        told = error.args[0] if error.args else "unknown error"
        text = told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)
        if "too large" in text:
            raise ValueError(_TOO_LARGE) from None
        raise ValueError(
            f"not a regular expression that RE2 accepts: {text} (write RE2 syntax: no look-around, no back-references)"
        ) from None
    if compiled.programsize > PATTERN_INSTRUCTIONS:
        raise ValueError(_TOO_LARGE)
    return compiled


Compiler = Callable[[str], Regex]
"""`compile_regex`, or one that remembers."""


@lru_cache(maxsize=4096)
def wire_path(value: str) -> bytes:
    """A path of the document as it looks on the wire: bytes that no URI may hold are percent-encoded."""
    return quote_from_bytes(value.encode(), safe=_PATH_SAFE).encode("ascii")


def matched_path(target: bytes) -> bytes:
    """The path that rules are compared with: no query, unreserved characters decoded, dot segments resolved."""
    path = target.partition(b"?")[0] if 0x3F in target else target
    # Looking for one byte costs a fifth of looking for b"/.", which most paths need not be searched for.
    return normalize_path(path) if 0x25 in path or (0x2E in path and b"/." in path) else path


def joined_header(fields: list[Field], name: bytes) -> bytes | None:
    """The value of `name` (lower case), repeated lines joined by `, ` (RFC 9110 section 5.3); None when absent."""
    value: bytes | None = None
    for _, lower, line in fields:
        if lower == name:
            value = line if value is None else value + b", " + line
    return value


def query_values(target: bytes) -> dict[bytes, bytes]:
    """The first value of each query parameter, decoded as forms are (`+` is a blank)."""
    values: dict[bytes, bytes] = {}
    for pair in target.partition(b"?")[2].split(b"&"):
        name, _, value = pair.partition(b"=")
        values.setdefault(_decode(name), value)
    return {name: _decode(value) for name, value in values.items()}


def _decode(text: bytes) -> bytes:
    if b"+" in text:
        text = text.replace(b"+", b" ")
    return unquote_to_bytes(text) if b"%" in text else text


class Facts:
    """What header and query conditions look at, worked out once per request and only when somebody asks."""

    __slots__ = ("_fields", "_headers", "_query", "_target")

    def __init__(self, fields: list[Field], target: bytes) -> None:
        self._fields = fields
        self._target = target
        self._headers: dict[bytes, bytes | None] = {}
        self._query: dict[bytes, bytes] | None = None

    def header(self, name: bytes) -> bytes | None:
        """The joined value of a header, None when absent."""
        try:
            return self._headers[name]
        except KeyError:
            value = self._headers[name] = joined_header(self._fields, name)
            return value

    def query(self, name: bytes) -> bytes | None:
        """The first value of a query parameter, None when absent."""
        if self._query is None:
            self._query = query_values(self._target)
        return self._query.get(name)


class Condition:
    """A header or a query parameter that must have a value."""

    __slots__ = ("exact", "name", "regex", "source")

    def __init__(self, source: ValueMatch, name: bytes, compiler: Compiler) -> None:
        self.source = source
        self.name = name
        self.exact = source.value.encode()
        self.regex = compiler(source.value) if source.type is ValueType.REGEX else None

    def holds(self, value: bytes | None) -> bool:
        """Whether `value` is what is asked for; an absent one never is. Expressions must match the whole value."""
        if value is None:
            return False
        return value == self.exact if self.regex is None else self.regex.fullmatch(value) is not None


def _conditions(sources: tuple[ValueMatch, ...], compiler: Compiler, *, lower: bool) -> tuple[Condition, ...]:
    """Of several entries with one name the first counts (Gateway API HTTPRouteMatch.headers, .queryParams)."""
    if not sources:
        return ()
    first: dict[bytes, Condition] = {}
    for source in sources:
        name = (source.name.lower() if lower else source.name).encode()
        if name not in first:
            first[name] = Condition(source, name, compiler)
    return tuple(first.values())


class Rule(Generic[T]):
    """One match of one route, with what the caller attached to the route."""

    __slots__ = ("match", "payload", "prefix", "route")

    def __init__(self, payload: T, route: Route, match: Match, prefix: bytes) -> None:
        self.payload = payload
        self.route = route
        self.match = match
        self.prefix = prefix
        """The PathPrefix value without its trailing slash, as on the wire; b"" for `/` and other kinds of match."""


Rank = tuple[int, int, bool, int, int, int, int]


class Candidate(Generic[T]):
    """A rule with its conditions compiled."""

    __slots__ = ("headers", "method", "number", "path", "plain", "queries", "rank", "regex", "rule")

    def __init__(self, payload: T, route: Route, number: int, compiler: Compiler) -> None:
        match = route.matches[number]
        kind, value = match.path.type, match.path.value
        self.number = number
        self.regex = compiler(value) if kind is PathType.REGEX else None
        self.path = b"" if kind is PathType.REGEX else document_path(kind, value)
        self.method = None if match.method is None else match.method.encode()
        self.headers = _conditions(match.headers, compiler, lower=True)
        self.queries = _conditions(match.query_params, compiler, lower=False)
        self.plain = self.method is None and not self.headers and not self.queries
        length = 0 if kind is PathType.EXACT else len(self.path) if kind is PathType.PREFIX else len(value)
        self.rank: Rank = (PATH_RANK[kind], -length, self.method is None, -len(self.headers), -len(self.queries), route.index, number)
        self.rule = Rule(payload, route, match, self.path if kind is PathType.PREFIX else b"")

    def admits(self, method: bytes, facts: Facts) -> bool:
        """Whether everything but host and path holds."""
        if self.method is not None and self.method != method:
            return False
        for condition in self.headers:
            if not condition.holds(facts.header(condition.name)):
                return False
        for condition in self.queries:  # noqa: SIM110 - a generator costs more than the loop
            if not condition.holds(facts.query(condition.name)):
                return False
        return True

    def admits_path(self, path: bytes) -> bool:
        """Whether the normalised `path` is matched. The hot path asks the tables of the router instead."""
        kind = self.rule.match.path.type
        if kind is PathType.EXACT:
            return path == self.path
        if self.regex is not None:
            return self.regex.fullmatch(path) is not None
        return not self.path or path == self.path or path.startswith(self.path + b"/")


def document_path(kind: PathType, value: str) -> bytes:
    """An Exact or PathPrefix value as it is compared: normalised like requests are, a prefix without its last slash."""
    path = matched_path(wire_path(value))
    return path.rstrip(b"/") if kind is PathType.PREFIX else path
