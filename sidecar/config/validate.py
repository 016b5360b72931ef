"""All problems of a document at once: its shape, and the rules between its fields.

Nothing here runs anything of the document. Problems are ordered by line; one mistake is reported once, where it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from msgspec import UNSET

from sidecar.config import values
from sidecar.config.node import Node, find
from sidecar.config.problem import Path, Problem, path_text
from sidecar.config.rules_ends import check_listeners, check_upstreams
from sidecar.config.rules_routes import Names, check_cases, check_retry, check_routes, check_timeouts
from sidecar.config.rules_values import Finding, attempt
from sidecar.config.shape import Mistake, Shaped, shape
from sidecar.model.document import AccessLogDoc, Document, OtlpMetricsDoc, SlowerThanDoc, TelemetryDoc

_MAX_BUCKETS = 64
_MIN_INTERVAL = 1.0
_MAX_INTERVAL = 3600.0
"""Seconds between two exports of metrics."""


class Validated(NamedTuple):
    """`document` is only to be used when there are no problems."""

    document: Document
    problems: list[Problem]


def validate(root: Node) -> Validated:
    """Judge a tree."""
    shaped = shape(root)
    problems = [_mistake(mistake) for mistake in shaped.mistakes]
    for path, message in findings(shaped.document, shaped):
        if not _is_suspect(path, shaped.suspects):
            problems.append(locate(root, path, message))
    return Validated(shaped.document, problems)


def is_valid(document: Document) -> bool:
    """Whether a document of the right shape keeps all rules; the fast way, without places."""
    return next(findings(document, None), None) is None


def findings(document: Document, shaped: Shaped | None) -> Iterator[Finding]:
    """Every broken rule, as a place and a sentence."""
    yield from check_listeners(document.listeners)
    yield from check_upstreams(document.upstreams)
    names = _names(document, shaped)
    yield from check_routes(document.routes, names, document.defaults.timeouts)
    if not document.routes and len(document.upstreams) > 1:
        yield ("routes",), "with more than one upstream the document must say what goes where (write routes)"
    yield from check_timeouts(("defaults", "timeouts"), document.defaults.timeouts, document.defaults.timeouts)
    if document.defaults.retry is not None:
        yield from check_retry(("defaults", "retry"), document.defaults.retry)
    yield from _check_telemetry(document.telemetry)
    if document.tests:
        yield from check_cases(document.tests, names, route_names(document))


def route_names(document: Document) -> list[str]:
    """The name of each route, `routes[N]` where it has none; that of the implied route when there are none."""
    names = [f"routes[{index}]" if route.name is UNSET else route.name for index, route in enumerate(document.routes)]
    return names or ["routes[0]"]


def _names(document: Document, shaped: Shaped | None) -> Names:
    """What may be referred to; nothing is said about references while a name itself is in doubt."""
    suspects = shaped.suspects if shaped is not None else set()
    unsure = {path[0] for path in suspects if path and (len(path) < 3 or path[2] == "name")}
    listeners = None if "listeners" in unsure else {listener.name for listener in document.listeners}
    upstreams = None if "upstreams" in unsure else {upstream.name for upstream in document.upstreams}
    return Names(listeners, upstreams)


def _check_telemetry(telemetry: TelemetryDoc) -> Iterator[Finding]:
    endpoint = telemetry.tracing.endpoint
    if endpoint is not None:
        yield from attempt(("telemetry", "tracing", "endpoint"), values.collector, endpoint)
    if telemetry.metrics.otlp is not None:
        yield from _check_otlp(("telemetry", "metrics", "otlp"), telemetry.metrics.otlp)
    path: Path = ("telemetry", "metrics", "buckets")
    buckets = telemetry.metrics.buckets
    if not 0 < len(buckets) <= _MAX_BUCKETS:
        yield path, f"{len(buckets)} buckets (write 1 to {_MAX_BUCKETS}; each is a series per label set)"
    for index, (before, after) in enumerate(pairwise(buckets), start=1):
        if after <= before:
            yield (*path, index), f"{after} does not come after {before} (write the bounds in ascending order)"
    yield from _check_access_log(("telemetry", "accessLog"), telemetry.access_log)


def _check_otlp(path: Path, otlp: OtlpMetricsDoc) -> Iterator[Finding]:
    yield from attempt((*path, "endpoint"), values.collector, otlp.endpoint)
    if not _MIN_INTERVAL <= values.seconds(otlp.interval) <= _MAX_INTERVAL:
        yield (*path, "interval"), f"{otlp.interval} between two exports (write 1s to 1h)"


def _check_access_log(path: Path, access_log: AccessLogDoc) -> Iterator[Finding]:
    for index, name in enumerate(access_log.redact_headers):
        yield from attempt((*path, "redactHeaders", index), values.header_name, name)
    slower = [index for index, rule in enumerate(access_log.always) if isinstance(rule, SlowerThanDoc)]
    for index in slower[1:]:
        yield (*path, "always", index), "a second slowerThan (keep the shorter one)"


def _is_suspect(path: Path, suspects: set[Path]) -> bool:
    """Whether the place, or one around or inside it, has been reported already."""
    if not suspects:
        return False
    if any(path[:length] in suspects for length in range(len(path) + 1)):
        return True
    return any(suspect[: len(path)] == path for suspect in suspects)


def _mistake(mistake: Mistake) -> Problem:
    node = mistake.node
    line, column = (node.key_line, node.key_column) if mistake.at_key and node.key_line else (node.line, node.column)
    return Problem(path_text(mistake.path), line, column, mistake.message)


def locate(root: Node | None, path: Path, message: str) -> Problem:
    """A problem at `path`, or at the nearest place around it that the document has."""
    node, _ = find(root, path)
    return Problem(path_text(path), node.line if node else 1, node.column if node else 1, message)
