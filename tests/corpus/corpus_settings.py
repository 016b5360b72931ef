"""The sidecars that request vectors name as their `setting`."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from support.engine import Engine, upstream

from sidecar.model.snapshot import (
    AllowEntry,
    Backend,
    Filters,
    HeaderModifier,
    Match,
    PathMatch,
    PathType,
    Redirect,
    Route,
    UrlRewrite,
)


def engine(setting: str, app: int, guarded: int) -> Engine:
    """A sidecar in front of two upstreams on these ports; what is no name below is one that routes everything to `app`."""
    ups = (upstream(app), upstream(guarded, name="guarded"))
    if setting in _ROUTES:
        return Engine(*ups, routes=_ROUTES[setting]())
    if setting in ALLOW:
        routes = [Route(name="app", index=0, listener="outbound", hostnames=("a", "*.internal"), backends=(Backend(name="app"),))]
        return Engine(*ups, routes=routes, outbound={"allow": ALLOW[setting]})
    listeners: dict[str, dict[str, Any]] = {"distrust": {"trusted_proxies": ()}, "small": {"max_request_body": 10}}
    return Engine(*ups, listener=listeners.get(setting))


ALLOW = {
    "outbound": (AllowEntry(host="*.test", network=None, ports=frozenset({80, 443})),),
    "outbound-public": tuple(AllowEntry(host=None, network=ip_network(network), ports=None) for network in ("0.0.0.0/0", "::/0")),
}
"""Forward listeners: names under .test; every address that needs no naming."""


def _prefix(value: str) -> tuple[Match, ...]:
    return (Match(path=PathMatch(type=PathType.PREFIX, value=value)),)


def _paths() -> list[Route]:
    """What is under /private goes to `guarded`: no spelling of that prefix may get to `app`."""
    return [
        Route(name="private", index=0, listener="inbound", matches=_prefix("/private"), backends=(Backend(name="guarded"),)),
        Route(name="rest", index=1, listener="inbound", backends=(Backend(name="app"),)),
    ]


def _filters() -> list[Route]:
    """/old is rewritten to /new for another host, /moved is redirected, /full loses its path."""
    modifier = HeaderModifier(set=((b"X-Set", b"ours"),), remove=frozenset((b"x-remove",)))
    rewrite = Filters(request_headers=(modifier,), rewrite=UrlRewrite(hostname="inner", replace_prefix_match="/new"))
    moved = Filters(redirect=Redirect(scheme="https", replace_prefix_match="/elsewhere"))
    full = Filters(rewrite=UrlRewrite(replace_full_path="/whole"))
    app = (Backend(name="app"),)
    return [
        Route(name="old", index=0, listener="inbound", matches=_prefix("/old"), backends=app, filters=rewrite),
        Route(name="moved", index=1, listener="inbound", matches=_prefix("/moved"), filters=moved),
        Route(name="full", index=2, listener="inbound", matches=_prefix("/full"), backends=app, filters=full),
        Route(name="rest", index=3, listener="inbound", backends=app),
    ]


_ROUTES = {"paths": _paths, "filters": _filters}
