"""EXPLAIN for a request: what the sidecar would do with it and why, without sending anything.

The request is written down as bytes and read by the engine's own parser, and routed by the router that serves, so an
explanation cannot drift from what happens. `explain_settings.py` has the clocks and limits, `explain_text.py` the
version for people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlsplit

from sidecar.config.effective import MASK, sounds_secret
from sidecar.errors import ProxyError, UsageError
from sidecar.model.head import Field, RequestHead
from sidecar.model.reason import Reason
from sidecar.model.snapshot import Filters, HeaderModifier, Listener, Mode, Route, Snapshot
from sidecar.model.status import UpstreamStatus
from sidecar.observe.text import printable
from sidecar.policy.allow import HostDecision, check_address, decide_host, literal_address
from sidecar.policy.filters import modify, redirect_location, rewrite_target
from sidecar.policy.matching import Rule
from sidecar.policy.router import Router
from sidecar.protocol.head import HeadLimits, parse_request_head
from sidecar.protocol.hop_by_hop import strip_request
from sidecar.protocol.target import split_authority
from sidecar.proxy.explain_settings import clocks, limits, retry, upstreams
from sidecar.proxy.explain_text import render

__all__ = ["Question", "Scene", "explain", "offline_routers", "question", "render"]

Json = dict[str, Any]

MAX_CONSIDERED: Final = 200
"""Rules that an explanation tells about; the rest is counted."""
_PRINTABLE: Final = "".join(map(chr, range(0x21, 0x7F)))
_LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "::1"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The request that is asked about. `listener` None: guess."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    listener: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What the answer is worked out from. `origin`: path in the document -> `line 14`, `defaults (line 40)` or `built-in`.

    `upstreams` by name is what a live sidecar knows; empty offline. `source` says whose configuration this is.
    """

    snapshot: Snapshot
    routers: Mapping[str, Router[Any]]
    origin: Callable[[str], str]
    source: str
    revision: str = ""
    upstreams: Mapping[str, UpstreamStatus] = field(default_factory=dict)


def question(method: str, url: str, headers: list[str], listener: str | None) -> Question:
    """Check what a person typed; `headers` are `name: value` lines. Raises UsageError with what to write instead."""
    pairs = []
    for line in headers:
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or "\r" in line or "\n" in line:
            raise UsageError(f"{printable(line)!r} is not a header (write 'name: value')")
        pairs.append((name.strip(), value.strip()))
    if not method or not method.isascii() or not method.isprintable() or " " in method:
        raise UsageError(f"{printable(method)!r} is not a method (write for example GET)")
    if method != "CONNECT" and url != "*" and not url.startswith(("/", "http://", "https://")):
        raise UsageError(f"{printable(url)!r} is not a URL (write http://HOST/PATH, or /PATH)")
    return Question(method=method, url=quote(url, safe=_PRINTABLE), headers=tuple(pairs), listener=listener or None)


def offline_routers(snapshot: Snapshot) -> dict[str, Router[Any]]:
    """Routers for a configuration that nobody runs."""
    rules = [(route, None) for route in snapshot.routes]
    return {listener.name: Router(rules, listener.name) for listener in snapshot.listeners}


def explain(asked: Question, scene: Scene) -> Json:
    """The whole answer, JSON-ready. Pure: it may run in a thread. Raises UsageError for a listener that does not exist."""
    listener, why = _choose_listener(asked, scene)
    answer = _frame(asked, scene, listener, why)
    try:
        head = _parse(asked, listener)
        _check(head, listener)
    except ProxyError as error:
        return {**answer, "outcome": _reply(error.status, error.reason, error.detail)}
    answer["request"] = {**answer["request"], "host": _text(head.host), "path": _text(head.path)}
    rule = _match(scene.routers[listener.name], head)
    answer.update(_considered(scene.routers[listener.name], head))
    answer["elsewhere"] = _elsewhere(asked, scene, listener)
    if rule is None:
        return {**answer, **_without_route(head, scene, listener)}
    return {**answer, **_with_route(rule, head, scene)}


def _frame(asked: Question, scene: Scene, listener: Listener, why: str) -> Json:
    """What every answer begins with."""
    snapshot = scene.snapshot
    index = snapshot.listeners.index(listener)
    return {
        "configuration": {"source": scene.source, "revision": scene.revision, "hash": snapshot.hash},
        "request": {"method": asked.method, "url": asked.url, "headers": [list(pair) for pair in asked.headers]},
        "listener": {
            "name": listener.name,
            "mode": listener.mode.value,
            "bind": listener.bind,
            "port": listener.port,
            "why": why,
            "origin": scene.origin(f"listeners[{index}]"),
        },
        "elsewhere": [],
        "matched": False,
        "route": None,
        "considered": [],
        "consideredTotal": 0,
        "filters": [],
        "sends": None,
        "upstreams": [],
        "clocks": [],
        "retry": None,
        "limits": limits(listener, index, scene.origin),
    }


def _with_route(rule: Rule[Any], head: RequestHead, scene: Scene) -> Json:
    route = rule.route
    answer: Json = {
        "matched": True,
        "route": {"name": route.name, "index": route.index, "origin": scene.origin(f"routes[{route.index}]")},
        "filters": _filters(route, rule.prefix, head),
    }
    if (redirect := route.filters.redirect) is not None:
        host, port = split_authority(head.host, 0)
        scheme = head.scheme.decode() or "http"
        location = _text(redirect_location(redirect, scheme, host, port or None, head.path, rule.prefix))
        return {**answer, "outcome": {"kind": "redirect", "status": redirect.status, "reason": None, "detail": f"Location: {location}"}}
    if head.method != b"CONNECT":
        answer["sends"] = _sends(route, rule.prefix, head)
    answer["upstreams"] = upstreams(route.backends, scene.snapshot, scene.upstreams, scene.origin)
    answer["clocks"] = clocks(
        route.timeouts, f"routes[{route.index}].timeouts", [backend.name for backend in route.backends], scene.snapshot, scene.origin
    )
    answer["retry"] = retry(route.retry, f"routes[{route.index}].retry", scene.origin)
    if not any(backend.weight for backend in route.backends):
        return {**answer, "outcome": _reply(500, Reason.DESTINATION_NOT_FOUND, "no backend of the route has a weight above 0")}
    kind = "tunnel" if head.method == b"CONNECT" else "forward"
    return {**answer, "outcome": {"kind": kind, "status": None, "reason": None, "detail": "the upstream's answer is passed on"}}


def _without_route(head: RequestHead, scene: Scene, listener: Listener) -> Json:
    if listener.mode is Mode.REVERSE or not (head.scheme or head.method == b"CONNECT"):
        return {"outcome": _reply(404, Reason.NO_ROUTE, "no route matches")}
    return _directly(head, scene, listener)


def _directly(head: RequestHead, scene: Scene, listener: Listener) -> Json:
    """A Forward listener's own destinations: the implicit upstream `forward`, with the default clocks (product.md 3.1)."""
    name, port = split_authority(head.host, 443 if head.scheme == b"https" else 80)
    host = _text(name)
    decision = decide_host(listener.allow, host, port)
    if decision is HostDecision.REFUSED:
        return {
            "outcome": _reply(
                403, Reason.HTTP_REQUEST_DENIED, f"no route matches, and `allow` of {listener.name} does not name {host}:{port}"
            )
        }
    address = literal_address(host)
    if address is not None and not check_address(listener.allow, address, port, named=decision is HostDecision.NAMED):
        return {"outcome": _reply(403, Reason.DESTINATION_IP_PROHIBITED, f"{host} is a special address that `allow` must name by itself")}
    endpoint = {"address": _text(head.host), "state": None, "weight": 1, "inFlight": None}
    direct = {
        "name": "forward",
        "weight": 1,
        "share": 100.0,
        "origin": _allow_origin(scene, listener),
        "balancing": "the destination itself",
        "problem": "",
    }
    refusal = "http_request_denied" if decision is HostDecision.BY_ADDRESS else "destination_ip_prohibited"
    detail = (
        "allowed without a route"
        if address is not None
        else f"allowed without a route, unless it resolves to an address that is not (403 {refusal})"
    )
    return {
        "sends": None if head.method == b"CONNECT" else _sends(None, b"", head),
        "upstreams": [{**direct, "endpoints": [endpoint], "limits": []}],
        "clocks": clocks(scene.snapshot.default_timeouts, "defaults.timeouts", [], scene.snapshot, scene.origin),
        "retry": retry(scene.snapshot.default_retry, "defaults.retry", scene.origin),
        "outcome": {"kind": "tunnel" if head.method == b"CONNECT" else "forward", "status": None, "reason": None, "detail": detail},
    }


def _allow_origin(scene: Scene, listener: Listener) -> str:
    return scene.origin(f"listeners[{scene.snapshot.listeners.index(listener)}].allow")


# The request


def _parse(asked: Question, listener: Listener) -> RequestHead:
    """The head as the engine would read it. Raises BadMessage exactly when the engine would."""
    target, host = _target(asked, listener)
    lines = [f"{asked.method} {target} HTTP/1.1"]
    if not any(name.lower() == "host" for name, _ in asked.headers):
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in asked.headers]
    block = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
    limits_ = HeadLimits(max_bytes=listener.max_header_bytes, max_fields=listener.max_header_count, max_target=listener.max_target_bytes)
    return parse_request_head(block, limits_)


def _target(asked: Question, listener: Listener) -> tuple[str, str]:
    """Request-target and Host as a client would write them: absolute-form goes to a proxy, origin-form to a server."""
    url = asked.url
    if asked.method == "CONNECT":
        scheme, authority, _ = _split(url)
        authority = authority or url
        if authority.rpartition(":")[2].isdigit():
            return authority, authority
        return (f"{authority}:{443 if scheme == 'https' else 80}", authority) if scheme else (url, url)
    if url == "*" or url.startswith("/"):
        return url, "localhost"
    url = url.partition("#")[0]
    _, authority, rest = _split(url)
    if listener.mode is Mode.FORWARD:
        return url, authority
    return rest if rest.startswith("/") else f"/{rest}", authority


def _split(url: str) -> tuple[str, str, str]:
    """Scheme, authority and what follows; ("", "", url) when it is not absolute."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return "", "", url
    end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    return scheme, rest[:end], rest[end:]


def _check(head: RequestHead, listener: Listener) -> None:
    """What no configuration could permit (product.md 3.9)."""
    if head.method == b"TRACE":
        raise ProxyError(Reason.HTTP_REQUEST_DENIED, "TRACE is refused: it would echo credentials", status=405)
    if head.method == b"CONNECT" and listener.mode is Mode.REVERSE:
        raise ProxyError(Reason.HTTP_REQUEST_DENIED, "CONNECT is refused on a Reverse listener", status=405)


def _match(router: Router[Any], head: RequestHead) -> Rule[Any] | None:
    return router.match(split_authority(head.host, 0)[0], head.path or b"/", head.method, head.fields)


# The listener


def _choose_listener(asked: Question, scene: Scene) -> tuple[Listener, str]:
    listeners = scene.snapshot.listeners
    if asked.listener is not None:
        for listener in listeners:
            if listener.name == asked.listener:
                return listener, "as asked"
        names = ", ".join(listener.name for listener in listeners)
        raise UsageError(f"there is no listener {printable(asked.listener)!r} (there is {names})")
    if len(listeners) == 1:
        return listeners[0], "the only one"
    return _guess_listener(asked, scene)


def _guess_listener(asked: Question, scene: Scene) -> tuple[Listener, str]:
    listeners = scene.snapshot.listeners
    wanted = Mode.FORWARD if asked.method == "CONNECT" else Mode.REVERSE
    if asked.method == "CONNECT" or not _split(asked.url)[0]:
        what = "a CONNECT" if asked.method == "CONNECT" else "a path"
        return next(
            ((one, f"guessed: the first {wanted} one, for {what}") for one in listeners if one.mode is wanted), (listeners[0], "guessed")
        )
    host, port = _host_and_port(asked.url)
    for listener in listeners:
        if port is not None and listener.port == port and host in _LOOPBACK:
            return listener, "guessed: the URL names its port"
    for listener in listeners:
        if _route_on(asked, scene, listener) is not None:
            return listener, "guessed: the first one with a route for it"
    return next(
        ((one, "guessed: no route anywhere, and this is the way out") for one in listeners if one.mode is Mode.FORWARD),
        (listeners[0], "guessed"),
    )


def _host_and_port(url: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "", None
    return parts.hostname or "", port


def _route_on(asked: Question, scene: Scene, listener: Listener) -> str | None:
    try:
        head = _parse(asked, listener)
        _check(head, listener)
        rule = _match(scene.routers[listener.name], head)
    except ProxyError:
        return None
    return None if rule is None else rule.route.name


def _elsewhere(asked: Question, scene: Scene, chosen: Listener) -> list[Json]:
    """What the other listeners would do with it, when the listener was guessed."""
    if asked.listener is not None:
        return []
    others = [listener for listener in scene.snapshot.listeners if listener is not chosen]
    return [{"listener": listener.name, "route": _route_on(asked, scene, listener)} for listener in others]


# The rules


def _considered(router: Router[Any], head: RequestHead) -> Json:
    """Every rule and why it won or lost: the winner, then those that matched too, then the rest by precedence."""
    told = router.explain(split_authority(head.host, 0)[0], head.path or b"/", head.method, head.fields)
    told.sort(key=lambda verdict: (not verdict.matched, not verdict.why.startswith("shadowed")))
    rows = [{"route": one.route, "match": one.match, "matched": one.matched, "why": one.why} for one in told[:MAX_CONSIDERED]]
    return {"considered": rows, "consideredTotal": len(told)}


# What the filters do


def _filters(route: Route, prefix: bytes, head: RequestHead) -> list[Json]:
    filters = route.filters
    rows = [{"type": "RequestHeaderModifier", "does": does} for one in filters.request_headers for does in _changes(one)]
    if filters.rewrite is not None:
        after = rewrite_target(filters.rewrite, head.path, prefix)
        if filters.rewrite.hostname is not None:
            rows.append({"type": "URLRewrite", "does": f"host {_text(head.host)} -> {filters.rewrite.hostname}"})
        rows.append({"type": "URLRewrite", "does": f"target {_text(head.path)} -> {_text(after)}"})
    if filters.redirect is not None:
        rows.append({"type": "RequestRedirect", "does": f"answers {filters.redirect.status}, nothing is sent"})
    rows += [{"type": "RequestMirror", "does": f"copies {one.share:.4g} of the requests to {one.name}"} for one in filters.mirrors]
    return rows + [{"type": "ResponseHeaderModifier", "does": does} for one in filters.response_headers for does in _changes(one)]


def _changes(modifier: HeaderModifier) -> list[str]:
    changes = [f"set {_text(name)}: {_shown(name, value)}" for name, value in modifier.set]
    changes += [f"add {_text(name)}: {_shown(name, value)}" for name, value in modifier.add]
    return changes + [f"remove {_text(name)}" for name in sorted(modifier.remove)]


def _sends(route: Route | None, prefix: bytes, head: RequestHead) -> Json:
    """The request line and the headers that the filters leave; what every request gets (Via and so on) is not repeated."""
    fields: list[Field] = strip_request(head.fields, head.connection_tokens)
    target = head.path
    filters = Filters() if route is None else route.filters
    for modifier in filters.request_headers:
        fields = modify(fields, modifier)
    if (rewrite := filters.rewrite) is not None:
        target = rewrite_target(rewrite, target, prefix)
        if rewrite.hostname is not None:
            fields = [(name, lower, rewrite.hostname.encode() if lower == b"host" else value) for name, lower, value in fields]
    return {
        "method": _text(head.method),
        "target": _text(target or head.target),
        "headers": [[_text(name), _shown(name, value)] for name, _, value in fields],
    }


def _shown(name: bytes, value: bytes) -> str:
    """A header's value, unless it is likely to be a credential: what the document hides, its explanation hides too."""
    return MASK if sounds_secret(_text(name)) else _text(value)


def _reply(status: int, reason: Reason, detail: str) -> Json:
    return {"kind": "reply", "status": status, "reason": reason.value, "detail": detail}


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
