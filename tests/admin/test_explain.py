"""EXPLAIN: the answer is what the engine, the router and the filters would do."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest
from admin_fakes import active, shop, with_routes
from msgspec.structs import replace

from sidecar.config.load import Problems, load
from sidecar.errors import UsageError
from sidecar.model.snapshot import AllowEntry, Backend, Filters, HeaderModifier, Listener, Mode, Route, Snapshot
from sidecar.model.status import EndpointStatus, UpstreamStatus
from sidecar.proxy.explain import Scene, explain, offline_routers, question, render


def scene(snapshot: Snapshot | None = None, origin: Callable[[str], str] | None = None, **more: Any) -> Scene:
    config = active(snapshot or shop())
    return Scene(snapshot=config.snapshot, routers=config.routers, origin=origin or config.origin, source="file", **more)


def answer(method: str, url: str, *headers: str, listener: str | None = None, at: Scene | None = None) -> dict[str, Any]:
    return explain(question(method, url, list(headers), listener), at or scene())


@pytest.mark.parametrize(
    ("method", "url", "headers", "listener", "route", "kind", "reason"),
    [
        ("GET", "http://orders.shop.svc/v1/items", ["x-tenant: a"], "inbound", "orders", "forward", None),
        ("GET", "http://orders.shop.svc/v1/items", ["x-tenant: b"], "inbound", "all", "forward", None),
        ("GET", "/v1/items", ["Host: orders.shop.svc", "x-tenant: a"], "inbound", "orders", "forward", None),
        ("GET", "/old/page", [], "inbound", "old", "redirect", None),
        ("OPTIONS", "*", [], "inbound", "all", "forward", None),
        ("GET", "http://other.example.com/x", [], "outbound", None, "forward", None),
        ("GET", "http://nowhere.example/x", [], "outbound", None, "reply", "http_request_denied"),
        ("GET", "http://api.example.com:8443/x", [], "outbound", None, "reply", "http_request_denied"),
        ("GET", "/x", [], "outbound", None, "reply", "no_route"),
        ("CONNECT", "api.example.com:443", [], "outbound", None, "tunnel", None),
        ("CONNECT", "https://api.example.com", [], "outbound", None, "tunnel", None),
        ("CONNECT", "api.example.com:22", [], "outbound", None, "reply", "http_request_denied"),
        ("CONNECT", "api.example.com:443", [], "inbound", None, "reply", "http_request_denied"),
        ("CONNECT", "api.example.com", [], "outbound", None, "reply", "http_request_error"),
        ("TRACE", "/", [], "inbound", None, "reply", "http_request_denied"),
        ("GET", "/" + "x" * 9000, [], "inbound", None, "reply", "uri_too_long"),
        ("GET", "/", ["x: " + "y" * 40000], "inbound", None, "reply", "header_section_too_large"),
        ("GET", "/", ["Content-Length: 1", "Transfer-Encoding: chunked"], "inbound", None, "reply", "http_request_error"),
        ("GET", "http://user@orders.shop.svc/", [], "outbound", None, "reply", "http_request_error"),
    ],
)
def test_a_request_gets_its_route_or_its_refusal(
    method: str, url: str, headers: list[str], listener: str, route: str | None, kind: str, reason: str | None
) -> None:
    told = answer(method, url, *headers, listener=listener)
    assert (told["route"] or {}).get("name") == route
    assert (told["outcome"]["kind"], told["outcome"]["reason"]) == (kind, reason)
    assert told["matched"] is (route is not None)
    assert render(told).endswith("\n")


@pytest.mark.parametrize(
    ("method", "url", "listener", "why"),
    [
        ("GET", "/v1", "inbound", "for a path"),
        ("CONNECT", "api.example.com:443", "outbound", "for a CONNECT"),
        ("GET", "http://localhost:15002/", "outbound", "the URL names its port"),
        ("GET", "http://anything.svc/", "inbound", "the first one with a route"),
    ],
)
def test_a_listener_that_is_not_named_is_guessed_and_the_answer_says_how(method: str, url: str, listener: str, why: str) -> None:
    told = answer(method, url)
    assert told["listener"]["name"] == listener
    assert why in told["listener"]["why"]


def test_an_absolute_url_without_a_route_is_explained_at_the_way_out() -> None:
    told = answer("GET", "http://api.example.com/", at=scene(replace(shop(), routes=shop().routes[:2])))
    assert told["listener"]["name"] == "outbound"
    assert told["outcome"]["kind"] == "forward"


def test_a_guess_tells_what_the_other_listeners_would_do() -> None:
    assert answer("GET", "/x")["elsewhere"] == [{"listener": "outbound", "route": None}]
    assert answer("GET", "/x", listener="inbound")["elsewhere"] == []


def test_the_only_listener_needs_no_guess() -> None:
    snapshot = replace(shop(), listeners=shop().listeners[:1])
    assert answer("GET", "/x", at=scene(snapshot))["listener"]["why"] == "the only one"


def test_every_rule_says_why_it_won_or_lost_the_winner_first() -> None:
    considered = answer("GET", "http://orders.shop.svc/v1/items", "x-tenant: a", listener="inbound")["considered"]
    assert [(one["route"], one["matched"]) for one in considered] == [("orders", True), ("all", False), ("old", False)]
    assert considered[1]["why"] == "shadowed by route orders: more specific hostname"
    assert considered[2]["why"] == "path PathPrefix /old does not match /v1/items"


def test_filters_show_what_they_do_to_target_host_and_headers() -> None:
    told = answer("GET", "http://orders.shop.svc/v1/items?q=%20x", "x-tenant: a", "X-Debug: 1", "Connection: close", listener="inbound")
    assert told["sends"]["target"] == "/items?q=%20x"
    assert told["sends"]["headers"] == [["Host", "orders.internal"], ["x-tenant", "a"], ["X-Stage", "prod"]]
    assert {"type": "URLRewrite", "does": "target /v1/items?q=%20x -> /items?q=%20x"} in told["filters"]
    assert {"type": "RequestHeaderModifier", "does": "remove x-debug"} in told["filters"]


def test_credentials_that_filters_set_are_masked() -> None:
    modifier = HeaderModifier(set=((b"Authorization", b"Bearer s3cret"),), add=((b"X-Api-Key", b"s3cret"),))
    route = Route(
        name="r", index=0, backends=(Backend(name="app"),), filters=Filters(request_headers=(modifier,), response_headers=(modifier,))
    )
    told = answer("GET", "/", listener="inbound", at=scene(replace(shop(), routes=(route,))))
    assert "s3cret" not in str(told) + render(told)
    assert ["Authorization", "***"] in told["sends"]["headers"]


def test_a_redirect_shows_its_location_and_sends_nothing() -> None:
    told = answer("GET", "http://shop.example/old/page?q=1", listener="inbound")
    assert told["outcome"] == {"kind": "redirect", "status": 302, "reason": None, "detail": "Location: http://new.example/old/page?q=1"}
    assert told["sends"] is None


def test_backends_show_their_share_and_configured_endpoints_offline() -> None:
    upstreams = answer("GET", "http://orders.shop.svc/v1", "x-tenant: a", listener="inbound")["upstreams"]
    assert [(one["name"], one["share"], one["endpoints"][0]["address"]) for one in upstreams] == [
        ("app", 90.0, "127.0.0.1:8000"),
        ("canary", 10.0, "dns:canary.svc:80"),
    ]
    assert upstreams[0]["endpoints"][0]["state"] is None


def test_a_live_sidecar_shows_the_state_of_its_endpoints() -> None:
    status = UpstreamStatus(
        name="app",
        source="static",
        endpoints=(EndpointStatus(address="10.0.0.1:80", state="ejected", weight=2, active=5, requests=9, failures=9),),
        connections_active=0,
        connections_idle=0,
        connections_connecting=0,
        pending=0,
        learned_idle_timeout=None,
        budget_available=1.0,
        problem="all endpoints are ejected",
    )
    told = answer("GET", "/x", listener="inbound", at=scene(upstreams={"app": status}))
    assert told["upstreams"][0]["endpoints"] == [{"address": "10.0.0.1:80", "state": "ejected", "weight": 2, "inFlight": 5}]
    text = render(told)
    assert "10.0.0.1:80  ejected  weight 2  5 in flight" in text
    assert "! all endpoints are ejected" in text


def test_a_route_whose_backends_have_no_weight_answers_500() -> None:
    snapshot = replace(shop(), routes=(Route(name="none", index=0, backends=(Backend(name="app", weight=0),)),))
    assert answer("GET", "/", listener="inbound", at=scene(snapshot))["outcome"]["status"] == 500


DOCUMENT = b"""\
apiVersion: outrider.dev/v1alpha1
kind: SidecarConfig
listeners:
  - name: inbound
    port: 15001
    headerTimeout: 9s
    maxRequestBody: 1Mi
upstreams:
  - name: app
    targets: [{url: "http://127.0.0.1:8000"}]
    connectTimeout: 2s
    connectionPool:
      maxRequests: 7
defaults:
  timeouts:
    responseHeader: 20s
  retry:
    attempts: 3
routes:
  - name: app
    backendRefs: [{name: app}]
    timeouts:
      request: 3s
"""


def from_document(text: bytes = DOCUMENT) -> Scene:
    loaded = load(text)
    assert not isinstance(loaded, Problems)
    return Scene(snapshot=loaded.snapshot, routers=offline_routers(loaded.snapshot), origin=loaded.origins.of, source="x")


def row(rows: list[dict[str, Any]], name: str) -> tuple[str, str]:
    found = next(one for one in rows if one["name"] == name)
    return found["value"], found["origin"]


def test_every_clock_retry_field_and_limit_has_the_place_that_set_it() -> None:
    told = answer("GET", "/", at=from_document())
    assert row(told["clocks"], "request") == ("3s", "line 23")
    assert row(told["clocks"], "responseHeader") == ("20s", "defaults (line 16)")
    assert row(told["clocks"], "streamIdle") == ("5m", "built-in")
    assert row(told["clocks"], "backendRequest") == ("off", "built-in")
    assert row(told["clocks"], "connect") == ("2s", "line 11")
    assert row(told["retry"]["settings"], "attempts") == ("3", "defaults (line 18)")
    assert row(told["retry"]["settings"], "backoff") == ("25ms", "built-in")
    assert row(told["limits"], "headerTimeout") == ("9s", "line 6")
    assert row(told["limits"], "maxRequestBody") == ("1Mi", "line 7")
    assert row(told["limits"], "maxHeaderBytes") == ("32Ki", "built-in")
    assert row(told["upstreams"][0]["limits"], "connectionPool.maxRequests") == ("7", "line 13")


def test_all_clocks_of_the_document_are_there() -> None:
    clocks = {one["name"] for one in answer("GET", "/", at=from_document())["clocks"]}
    assert clocks == {"request", "backendRequest", "queue", "responseHeader", "streamIdle", "tunnelIdle", "upgradeHandshake", "connect"}


def test_without_a_stanza_the_one_replay_is_told() -> None:
    told = answer("GET", "/x", listener="inbound")
    assert told["retry"]["enabled"] is False
    assert "one replay when the connection could not be made" in told["retry"]["note"]


def forward_only(*networks: str, host: str | None = None) -> Scene:
    allow = [AllowEntry(host=None, network=ip_network(one), ports=None) for one in networks]
    if host is not None:
        allow.append(AllowEntry(host=host, network=None, ports=None))
    listener = Listener(name="outbound", port=1, bind="127.0.0.1", mode=Mode.FORWARD, allow=tuple(allow))
    return scene(replace(shop(), listeners=(listener,), routes=()))


@pytest.mark.parametrize(
    ("at", "url", "reason"),
    [
        (forward_only("10.0.0.0/8"), "http://10.1.2.3/", None),
        (forward_only("10.0.0.0/8"), "http://192.168.0.1/", "http_request_denied"),
        (forward_only(host="*"), "http://169.254.169.254/latest", "destination_ip_prohibited"),
        (forward_only(), "http://api.example.com/", "http_request_denied"),
    ],
)
def test_destinations_without_a_route_are_judged_by_the_allow_list(at: Scene, url: str, reason: str | None) -> None:
    assert answer("GET", url, at=at)["outcome"]["reason"] == reason


def test_a_name_that_is_allowed_is_told_to_depend_on_its_address() -> None:
    told = answer("GET", "http://api.example.com/", at=forward_only(host="*.example.com"))
    assert "destination_ip_prohibited" in told["outcome"]["detail"]
    assert told["upstreams"][0]["name"] == "forward"
    assert row(told["clocks"], "responseHeader")[0] == "1m"


@pytest.mark.parametrize(
    ("method", "url", "header", "words"),
    [
        ("GET", "orders/x", "a: b", "is not a URL (write http://HOST/PATH, or /PATH)"),
        ("GET", "", "a: b", "is not a URL"),
        ("G T", "/", "a: b", "is not a method"),
        ("", "/", "a: b", "is not a method"),
        ("GET", "/", "nothing", "write 'name: value'"),
        ("GET", "/", ": b", "write 'name: value'"),
        ("GET", "/", "a: b\r\nc: d", "write 'name: value'"),
    ],
)
def test_what_is_no_request_is_refused_with_what_to_write(method: str, url: str, header: str, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(").replace(")", r"\)")):
        question(method, url, [header], None)


def test_characters_that_no_url_may_hold_are_sent_encoded_as_clients_do() -> None:
    assert answer("GET", "/caf\u00e9 x", listener="inbound")["request"]["url"] == "/caf%C3%A9%20x"


def test_the_text_cannot_move_a_terminal() -> None:
    text = render(answer("GET", "/x", "x-evil: \x1b[2J\u202e", listener="inbound"))
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_the_text_tells_twelve_losers_and_counts_the_rest() -> None:
    text = render(answer("GET", "/r/3", listener="inbound", at=scene(with_routes(500))))
    assert text.count("not  ") == 12
    assert "and 487 more that did not match" in text


def test_the_columns_of_the_text_are_aligned() -> None:
    lines = render(answer("GET", "/", at=from_document())).splitlines()
    clocks = [line for line in lines if "built-in" in line and line.endswith(("attempt", "direction", "tunnel", "101"))]
    assert len(clocks) == 4
    assert len({line.index("built-in") for line in clocks}) == 1
    assert all(line[10] == " " for line in lines if line)
