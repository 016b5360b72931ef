"""Every field of a route's hosts, matches, filters and references has the effect that the reference says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from document_kit import (
    INBOUND,
    OUTBOUND,
    Chain,
    document,
    echo_head,
    field_of,
    line_of,
    live,
    playing,
    problems_of,
    proves,
    reason_of,
    route_to,
    says,
    upstream_at,
)
from support import Response, ScriptedUpstream

MATCHES = "routes[].matches[]"
FILTERS = "routes[].filters[]"


async def which(routes: list[dict[str, Any]], *requests: dict[str, Any], listeners: list[dict[str, Any]] | None = None) -> list[str]:
    """The upstreams that answer these requests; each is called like a route, and answers with its name."""
    names = sorted({ref["name"] for route in routes for ref in route["backendRefs"]})
    async with ScriptedUpstream(says("a")) as one, ScriptedUpstream(says("b")) as two:
        doc = document(routes=routes, upstreams=[upstream_at(url, name=name) for name, url in zip(names, (one.url, two.url), strict=False)])
        doc["listeners"] = listeners or doc["listeners"]
        async with Chain(doc) as chain:
            return [reason_of(await chain.ask(**request)) for request in requests]


NONE = "404 no_route"


# Which requests


@proves("routes[].listener")
@live
async def test_a_route_of_one_listener_is_for_that_one_alone() -> None:
    routes = [route_to("a", listener="inbound"), route_to("b", listener="outbound")]
    requests: list[dict[str, Any]] = [{}, {"listener": "outbound"}]
    assert await which(routes, *requests, listeners=[INBOUND, OUTBOUND]) == ["a", "b"]
    assert await which(routes[:1], *requests, listeners=[INBOUND, OUTBOUND]) == ["a", NONE]
    assert await which([route_to("a")], *requests, listeners=[INBOUND, OUTBOUND]) == ["a", "a"]


@proves("routes[].hostnames[]")
@live
async def test_hostnames_are_exact_or_wildcards_of_one_or_more_labels() -> None:
    hosts = ("orders.shop", "ORDERS.shop:8080", "x.internal", "x.y.internal", "internal", "other")
    routes = [route_to("a", hostnames=["orders.shop"]), route_to("b", hostnames=["*.internal"])]
    assert await which(routes, *({"host": host} for host in hosts)) == ["a", "a", "b", "b", NONE, NONE]


@proves(f"{MATCHES}.path.type=Exact", f"{MATCHES}.path.type=PathPrefix", f"{MATCHES}.path.type=RegularExpression", f"{MATCHES}.path.value")
@pytest.mark.parametrize(
    ("kind", "value", "yes", "no"),
    [
        ("Exact", "/api", ["/api", "/api?x=1", "/x/../api", "/%61pi"], ["/api/", "/api/x", "/apis", "/API"]),
        ("PathPrefix", "/api", ["/api", "/api/", "/api/x?y", "/%61pi/x"], ["/apis", "/x/api", "/api/../x", "/api%2Fx"]),
        ("RegularExpression", "/api/[0-9]+", ["/api/1", "/api/42"], ["/api/", "/api/1/x", "/x/api/1"]),
    ],
)
@live
async def test_paths_match_by_their_type(kind: str, value: str, yes: list[str], no: list[str]) -> None:
    routes = [route_to("a", matches=[{"path": {"type": kind, "value": value}}])]
    assert await which(routes, *({"target": target} for target in yes + no)) == ["a"] * len(yes) + [NONE] * len(no)


@live
async def test_a_path_without_type_is_a_prefix() -> None:
    assert await which([route_to("a", matches=[{"path": {"value": "/api"}}])], {"target": "/api/x"}, {"target": "/x"}) == ["a", NONE]


@proves(f"{MATCHES}.method")
@live
async def test_a_method_matches_to_the_letter() -> None:
    routes = [route_to("a", matches=[{"method": "PUT"}])]
    assert await which(routes, *({"method": method} for method in ("PUT", "GET", "put"))) == ["a", NONE, NONE]


@proves(*(f"{MATCHES}.headers[].{field}" for field in ("name", "value", "type=Exact", "type=RegularExpression")))
@live
async def test_headers_match_whole_values_by_their_type() -> None:
    exact = [route_to("a", matches=[{"headers": [{"name": "X-Tenant", "value": "blue.1"}]}])]
    lines = ["x-tenant: blue.1\r\n", "x-tenant: bluex1\r\n", "x-tenant: blue.12\r\n", "x-other: blue.1\r\n", ""]
    assert await which(exact, *({"headers": line} for line in lines)) == ["a", NONE, NONE, NONE, NONE]
    pattern = [route_to("a", matches=[{"headers": [{"type": "RegularExpression", "name": "x-tenant", "value": "blue.1"}]}])]
    assert await which(pattern, *({"headers": line} for line in lines)) == ["a", "a", NONE, NONE, NONE]
    joined = [route_to("a", matches=[{"headers": [{"name": "x-tenant", "value": "one, two"}]}])]
    assert await which(joined, {"headers": "x-tenant: one\r\nX-Tenant: two\r\n"}) == ["a"]


@proves(*(f"{MATCHES}.queryParams[].{field}" for field in ("name", "value", "type=Exact", "type=RegularExpression")))
@live
async def test_query_parameters_match_by_their_type_and_the_first_value_counts() -> None:
    exact = [route_to("a", matches=[{"queryParams": [{"name": "v", "value": "2.0"}]}])]
    targets = ["/?v=2.0", "/?x=1&v=2.0&v=3", "/?v=2x0", "/?v=3&v=2.0", "/?V=2.0", "/"]
    assert await which(exact, *({"target": target} for target in targets)) == ["a", "a", NONE, NONE, NONE, NONE]
    pattern = [route_to("a", matches=[{"queryParams": [{"type": "RegularExpression", "name": "v", "value": "2.0"}]}])]
    assert await which(pattern, *({"target": target} for target in targets)) == ["a", "a", "a", NONE, NONE, NONE]


@live
async def test_all_parts_of_a_match_must_hold_and_one_match_is_enough() -> None:
    both = {
        "path": {"value": "/x"},
        "method": "GET",
        "headers": [{"name": "a", "value": "1"}],
        "queryParams": [{"name": "q", "value": "1"}],
    }
    routes = [route_to("a", matches=[both, {"path": {"value": "/other"}}])]
    good = {"target": "/x?q=1", "headers": "a: 1\r\n"}
    wrong = [{**good, "target": "/y?q=1"}, {**good, "method": "PUT"}, {**good, "headers": ""}, {**good, "target": "/x?q=2"}]
    assert await which(routes, good, *wrong, {"target": "/other", "method": "PUT"}) == ["a", NONE, NONE, NONE, NONE, "a"]


@live
async def test_the_most_specific_route_wins_whatever_the_order() -> None:
    routes = [route_to("a", matches=[{"path": {"value": "/"}}]), route_to("b", matches=[{"path": {"value": "/api"}, "method": "GET"}])]
    for order in (routes, routes[::-1]):
        assert await which(order, {"target": "/api"}, {"target": "/x"}, {"target": "/api", "method": "PUT"}) == ["b", "a", "a"]


# Where they go


@proves("routes[].name")
@live
async def test_a_route_is_known_by_its_name_or_its_place() -> None:
    for name, known in ({"name": "orders"}, "orders"), ({}, "routes[0]"):
        async with ScriptedUpstream(says("hi")) as fake:
            async with Chain({**document(fake.port), "routes": [{**name, "backendRefs": [{"name": "app"}]}]}) as chain:
                await chain.ask()
                route = (await chain.seen.last()).route
                assert route is not None
                assert route.name == known


@proves("routes[].backendRefs[].name", "routes[].backendRefs[].weight")
@live
async def test_requests_are_shared_out_by_weight() -> None:
    async def shares(one: int | None, two: int) -> Counter[str]:
        first = {"name": "a"} if one is None else {"name": "a", "weight": one}
        return Counter(await which([{"backendRefs": [first, {"name": "b", "weight": two}]}], *({} for _ in range(60))))

    assert await shares(1, 0) == {"a": 60}
    assert await shares(0, 1) == {"b": 60}
    assert await shares(1, 1_000_000) == {"b": 60}
    assert set(await shares(None, 1)) == {"a", "b"}


def test_weights_of_references_that_are_all_zero_are_refused() -> None:
    doc = document(1, route={"backendRefs": [{"name": "app", "weight": 0}]})
    assert "routes[0].backendRefs: every weight is 0" in problems_of(doc)[0]


def test_a_reference_to_an_upstream_that_is_not_there_is_refused_with_its_line() -> None:
    doc = document(1, route={"backendRefs": [{"name": "ordres"}]})
    (problem,) = problems_of(doc)
    assert 'routes[0].backendRefs[0].name: there is no upstream "ordres" (write one of: app)' in problem


@live
async def test_without_routes_everything_goes_to_the_only_upstream() -> None:
    async with ScriptedUpstream(says("hi")) as fake, Chain({**document(fake.port), "routes": []}) as chain:
        assert reason_of(await chain.ask("/any", host="any")) == "hi"
    two = {**document(1), "routes": [], "upstreams": [upstream_at(1), upstream_at(2, name="b")]}
    assert "routes: with more than one upstream" in problems_of(two)[0]


# Filters


def modifier(kind: str) -> dict[str, Any]:
    """A filter that sets, adds and removes."""
    parts = {
        "set": [{"name": "X-Set", "value": "ours"}, {"name": "x-new", "value": "n"}],
        "add": [{"name": "X-Add", "value": "more"}],
        "remove": ["X-Gone"],
    }
    return {"type": f"{kind}HeaderModifier", f"{kind.lower()}HeaderModifier": parts}


BEFORE = "x-set: a\r\nX-SET: b\r\nx-add: a\r\nx-gone: a\r\nx-same: a\r\n"
AFTER = {"x-set": ["ours"], "x-new": ["n"], "x-add": ["a", "more"], "x-gone": [], "x-same": ["a"]}
PARTS = ("set[].name", "set[].value", "add[].name", "add[].value", "remove[]")


@proves(f"{FILTERS}.type=RequestHeaderModifier", *(f"{FILTERS}.requestHeaderModifier.{part}" for part in PARTS))
@live
async def test_request_headers_are_set_added_and_removed() -> None:
    async with playing(echo_head, route={"filters": [modifier("Request")]}) as (_, _, client):
        echoed = await client.request(headers=BEFORE)
        assert {name: field_of(echoed, name) for name in AFTER} == AFTER
        assert "X-Set: ours" in echoed.body.decode()  # as the document writes it


@proves(f"{FILTERS}.type=ResponseHeaderModifier", *(f"{FILTERS}.responseHeaderModifier.{part}" for part in PARTS))
@live
async def test_response_headers_are_set_added_and_removed() -> None:
    async with playing(says("hi", headers=BEFORE), route={"filters": [modifier("Response")]}) as (_, _, client):
        reply = await client.request(headers=BEFORE)
        assert {name: reply.get_all(name) for name in AFTER} == AFTER


async def rewritten(rewrite: dict[str, Any], target: str, prefix: str = "/api") -> Response:
    route = {"matches": [{"path": {"value": prefix}}], "filters": [{"type": "URLRewrite", "urlRewrite": rewrite}]}
    async with playing(echo_head, route=route) as (_, _, client):
        return await client.request(target, host="shop.example:81")


@proves(f"{FILTERS}.type=URLRewrite", f"{FILTERS}.urlRewrite.hostname")
@live
async def test_a_rewrite_may_change_the_host_alone() -> None:
    echoed = await rewritten({"hostname": "orders.internal"}, "/api/x?y=1")
    assert (line_of(echoed), field_of(echoed, "host")) == ("GET /api/x?y=1 HTTP/1.1", ["orders.internal"])
    assert field_of(echoed, "x-forwarded-host") == ["shop.example:81"]


@proves(
    *(
        f"{FILTERS}.urlRewrite.path.{part}"
        for part in ("type=ReplaceFullPath", "type=ReplacePrefixMatch", "replaceFullPath", "replacePrefixMatch")
    )
)
@pytest.mark.parametrize(
    ("kind", "new", "target", "sent"),
    [
        ("FullPath", "/new", "/api/x?y=1", "/new?y=1"),
        ("FullPath", "/new", "/api", "/new"),
        ("PrefixMatch", "/v2", "/api/x?y=1", "/v2/x?y=1"),
        ("PrefixMatch", "/", "/api/x", "/x"),
        ("PrefixMatch", "/v2/", "/api", "/v2"),
    ],
)
@live
async def test_a_rewrite_changes_the_whole_path_or_the_prefix_and_keeps_query_and_host(kind: str, new: str, target: str, sent: str) -> None:
    echoed = await rewritten({"path": {"type": f"Replace{kind}", f"replace{kind}": new}}, target)
    assert (line_of(echoed), field_of(echoed, "host")) == (f"GET {sent} HTTP/1.1", ["shop.example:81"])


async def redirected(redirect: dict[str, Any], target: str = "/api/x?y=1", host: str = "shop.example:81") -> tuple[int, str | None]:
    doc = document(1)
    doc["routes"] = [{"matches": [{"path": {"value": "/api"}}], "filters": [{"type": "RequestRedirect", "requestRedirect": redirect}]}]
    async with Chain(doc) as chain:
        reply = await chain.ask(target, host=host)
        return reply.status, reply.get("location")


@proves(
    f"{FILTERS}.type=RequestRedirect",
    *(f"{FILTERS}.requestRedirect.{part}" for part in ("scheme=http", "scheme=https", "hostname", "port", "statusCode=302")),
    *(
        f"{FILTERS}.requestRedirect.path.{part}"
        for part in ("type=ReplaceFullPath", "type=ReplacePrefixMatch", "replaceFullPath", "replacePrefixMatch")
    ),
)
@pytest.mark.parametrize(
    ("redirect", "location"),
    [
        ({}, "http://shop.example:81/api/x?y=1"),
        ({"scheme": "https"}, "https://shop.example/api/x?y=1"),
        ({"scheme": "http"}, "http://shop.example/api/x?y=1"),
        ({"hostname": "new.example"}, "http://new.example:81/api/x?y=1"),
        ({"port": 8080}, "http://shop.example:8080/api/x?y=1"),
        ({"scheme": "https", "port": 443}, "https://shop.example/api/x?y=1"),
        ({"scheme": "https", "port": 80}, "https://shop.example:80/api/x?y=1"),
        ({"path": {"type": "ReplaceFullPath", "replaceFullPath": "/new"}}, "http://shop.example:81/new?y=1"),
        ({"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2"}}, "http://shop.example:81/v2/x?y=1"),
    ],
)
@live
async def test_a_redirect_keeps_of_the_request_what_it_does_not_change(redirect: dict[str, Any], location: str) -> None:
    assert await redirected(redirect) == (302, location)


@proves(*(f"{FILTERS}.requestRedirect.statusCode={status}" for status in (301, 302, 303, 307, 308)))
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@live
async def test_a_redirect_has_the_status_of_the_document(status: int) -> None:
    assert (await redirected({"statusCode": status}))[0] == status


@live
async def test_filters_of_different_kinds_work_together_and_several_modifiers_in_their_order() -> None:
    filters = [
        {"type": "RequestHeaderModifier", "requestHeaderModifier": {"add": [{"name": "x", "value": "1"}]}},
        {"type": "URLRewrite", "urlRewrite": {"hostname": "new", "path": {"type": "ReplaceFullPath", "replaceFullPath": "/p"}}},
        {"type": "RequestHeaderModifier", "requestHeaderModifier": {"add": [{"name": "x", "value": "2"}]}},
        {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "y", "value": "3"}]}},
    ]
    async with playing(echo_head, route={"filters": filters}) as (_, _, client):
        echoed = await client.request()
        assert (line_of(echoed), field_of(echoed, "host"), field_of(echoed, "x")) == ("GET /p HTTP/1.1", ["new"], ["1", "2"])
        assert echoed.get_all("y") == ["3"]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"type": "URLRewrite"}, "has its parameters in urlRewrite"),
        ({"type": "URLRewrite", "urlRewrite": {}}, "changes nothing"),
        ({"type": "URLRewrite", "urlRewrite": {"hostname": "a"}, "requestRedirect": {}}, "does not belong to a filter of type URLRewrite"),
        ({"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replacePrefixMatch": "/"}}}, "replaceFullPath"),
        ({"type": "RequestRedirect", "requestRedirect": {}}, "a route that redirects sends nothing to an upstream"),
    ],
)
def test_filters_that_could_not_do_what_they_say_are_refused(item: dict[str, Any], said: str) -> None:
    assert said in problems_of(document(1, route={"filters": [item]}))[0]
