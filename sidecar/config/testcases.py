"""Runs a document's own `tests:` against its routes, without sending anything. A document whose tests fail is rejected."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from msgspec import UNSET

from sidecar.config import values
from sidecar.config.problem import shown
from sidecar.config.rules_routes import case_url
from sidecar.config.rules_values import Finding
from sidecar.model.document import CaseDoc, CaseExpectDoc, TimeoutsDoc
from sidecar.model.head import Field
from sidecar.model.quantity import format_duration
from sidecar.model.snapshot import Mode, Route, Snapshot
from sidecar.policy.filters import modify
from sidecar.policy.matching import joined_header
from sidecar.policy.router import Router, Rule, routers_in_slices
from sidecar.policy.slices import at_once
from sidecar.protocol.target import split_authority

_Rule = Rule[None]


def failures(cases: list[CaseDoc], snapshot: Snapshot) -> Iterator[Finding]:
    """A finding for each expectation that does not hold; `cases` have been validated."""
    if not cases:
        return
    rules = [(route, None) for route in snapshot.routes]
    routers = at_once(routers_in_slices(rules, [listener.name for listener in snapshot.listeners]))
    for index, case in enumerate(cases):
        for what, message in _failures(case, snapshot, routers):
            name = f" ({case.name})" if case.name else ""
            yield ("tests", index, "expect", *what), f"this test{name} fails: {message}"


def _failures(case: CaseDoc, snapshot: Snapshot, routers: dict[str, Router[None]]) -> Iterator[Finding]:
    rule, fields = _match(case, snapshot, routers)
    expect = case.expect
    if rule is None:
        if expect != CaseExpectDoc(route=None):
            yield ("route",), "no route matches (correct the routes, or expect route: null)"
        return
    route = rule.route
    if expect.route is not UNSET and expect.route != route.name:
        wanted = "that none matches" if expect.route is None else f"route {shown(expect.route)}"
        yield ("route",), f"it expects {wanted}, but {shown(route.name)} matches (correct the routes or the test)"
    yield from _wrong_upstream(expect, route)
    yield from _wrong_timeouts(expect.timeouts, route)
    for name, value in expect.headers.items():
        yield from _wrong_header(name, value, _filtered(route, fields))


def _match(case: CaseDoc, snapshot: Snapshot, routers: dict[str, Router[None]]) -> tuple[_Rule | None, list[Field]]:
    request = case.request
    host, target = case_url(request.url)
    fields = [(name.encode(), name.lower().encode(), value.encode()) for name, value in request.headers.items()]
    written = host.encode() or joined_header(fields, b"host") or b"localhost"
    if host or joined_header(fields, b"host") is None:
        fields = [(b"Host", b"host", written), *(field for field in fields if field[1] != b"host")]
    bare = split_authority(written, 0)[0].lower() if not host else written.lower()
    found = partial(Router.match, host=bare, path=target.encode(), method=request.method.encode(), fields=fields)
    rules = [found(routers[name]) for name in _listeners(case, snapshot, absolute=bool(host))]
    return next((rule for rule in rules if rule is not None), None), fields


def _listeners(case: CaseDoc, snapshot: Snapshot, *, absolute: bool) -> list[str]:
    """Where the request may arrive; the first with a route for it counts."""
    if case.request.listener is not None:
        return [case.request.listener]
    wanted = next((route.listener for route in snapshot.routes if route.name == case.expect.route), None)
    if wanted is not None:
        return [wanted]
    if absolute:
        return [listener.name for listener in snapshot.listeners]
    reverse = [listener.name for listener in snapshot.listeners if listener.mode is Mode.REVERSE]
    return reverse[:1] or [snapshot.listeners[0].name]


def _wrong_upstream(expect: CaseExpectDoc, route: Route) -> Iterator[Finding]:
    if expect.upstream is UNSET:
        return
    names = [backend.name for backend in route.backends if backend.weight]
    if expect.upstream not in names:
        there = " or ".join(map(shown, names)) if names else "no upstream (it redirects)"
        yield (
            ("upstream",),
            f"it expects upstream {shown(expect.upstream)}, but {shown(route.name)} sends to {there} (correct the route or the test)",
        )


def _wrong_timeouts(expect: TimeoutsDoc, route: Route) -> Iterator[Finding]:
    for attribute, name in zip(TimeoutsDoc.__struct_fields__, TimeoutsDoc.__struct_encode_fields__, strict=True):
        wanted, real = getattr(expect, attribute), getattr(route.timeouts, attribute)
        if wanted is not UNSET and values.seconds(wanted) != real:
            yield (
                ("timeouts", name),
                f"it expects {wanted}, but {shown(route.name)} has {format_duration(real)} (correct the route or the test)",
            )


def _wrong_header(name: str, wanted: str | None, fields: list[Field]) -> Iterator[Finding]:
    real = joined_header(fields, name.lower().encode())
    if (None if wanted is None else wanted.encode()) == real:
        return
    expected = "that it is absent" if wanted is None else shown(wanted)
    got = "it is absent" if real is None else f"it is {shown(real.decode('utf-8', 'replace'))}"
    yield ("headers", name), f"it expects {expected}, but {got} (correct the filters or the test)"


def _filtered(route: Route, fields: list[Field]) -> list[Field]:
    """The request's headers as the route's filters leave them."""
    for modifier in route.filters.request_headers:
        fields = modify(fields, modifier)
    rewrite = route.filters.rewrite
    if rewrite is not None and rewrite.hostname is not None:
        fields = [(b"Host", b"host", rewrite.hostname.encode()), *(field for field in fields if field[1] != b"host")]
    return fields
