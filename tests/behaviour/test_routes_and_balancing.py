"""product.md 3.1 through the wire: which route, its filters, its weighted backends, and how endpoints are chosen."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from behaviour_kit import ask, live, playing
from support import Connection, RawClient, ScriptedUpstream, answer, response
from support.engine import Engine, upstream

from sidecar.model.snapshot import (
    Backend,
    Balancing,
    Filters,
    HashOn,
    HeaderModifier,
    LoadBalancer,
    Match,
    PathMatch,
    PathType,
    Redirect,
    Route,
    UrlRewrite,
    ValueMatch,
    ValueType,
)

OK = answer(response(body=b"ok"))


def path(value: str, kind: PathType = PathType.PREFIX, **more: object) -> Match:
    return Match(path=PathMatch(type=kind, value=value), **more)


def route(index: int, *matches: Match, **more: object) -> Route:
    return Route(name=f"r{index}", index=index, matches=matches or (Match(),), **{"backends": (Backend(name="app"),), **more})


@asynccontextmanager
async def routed(*routes: Route) -> AsyncIterator[tuple[Engine, ScriptedUpstream, RawClient]]:
    async with playing(OK, routes=routes) as everything:
        yield everything


async def chosen(engine: Engine, client: RawClient, target: str, **request: object) -> str | None:
    count = len(engine.seen.finished)
    reply = await client.request(target, **request)
    exchange = await engine.seen.last(count + 1)
    assert reply.status == (404 if exchange.route is None else 200)
    return exchange.route.name if exchange.route is not None else None


# Matching


@live
async def test_exact_path_before_longest_prefix_before_regular_expression():
    async with routed(
        route(0, path("/api/v[0-9]+/.*", PathType.REGEX)),
        route(1, path("/api")),
        route(2, path("/api/v1")),
        route(3, path("/api/v1/x", PathType.EXACT)),
    ) as (engine, _, client):
        assert await chosen(engine, client, "/api/v1/x") == "r3"
        assert await chosen(engine, client, "/api/v1/y") == "r2"
        assert await chosen(engine, client, "/api/v2/y") == "r1"
        assert await chosen(engine, client, "/api") == "r1"
        assert await chosen(engine, client, "/apis") is None


@live
async def test_a_regular_expression_is_anchored():
    async with routed(route(0, path("/v[0-9]+", PathType.REGEX))) as (engine, _, client):
        assert await chosen(engine, client, "/v12?q=1") == "r0"
        assert await chosen(engine, client, "/v12/x") is None
        assert await chosen(engine, client, "/x/v12") is None


@live
async def test_method_then_most_headers_then_most_query_parameters_then_document_order():
    header = (ValueMatch(name="x-tenant", value="a"),)
    query = (ValueMatch(name="q", value="[0-9]+", type=ValueType.REGEX),)
    async with routed(
        route(0), route(1), route(2, Match(query_params=query)), route(3, Match(headers=header)), route(4, Match(method="PUT"))
    ) as (engine, _, client):
        assert await chosen(engine, client, "/?q=1", headers="X-Tenant: a\r\n", method="PUT") == "r4"
        assert await chosen(engine, client, "/?q=1", headers="X-Tenant: a\r\n") == "r3"
        assert await chosen(engine, client, "/?q=1&q=x") == "r2"
        assert await chosen(engine, client, "/?q=x&q=1") == "r0"
        assert await chosen(engine, client, "/") == "r0"


@live
async def test_repeated_header_lines_are_joined_for_matching():
    async with routed(route(0, Match(headers=(ValueMatch(name="x-a", value="1, 2"),)))) as (engine, _, client):
        assert await chosen(engine, client, "/", headers="X-A: 1\r\nx-a: 2\r\n") == "r0"
        assert await chosen(engine, client, "/", headers="X-A: 1\r\n") is None


@live
async def test_hostname_first_exact_before_the_longest_wildcard_of_one_or_more_labels():
    async with routed(
        route(0, path("/deep", PathType.EXACT)),
        route(1, hostnames=("*.shop.internal",)),
        route(2, hostnames=("*.eu.shop.internal",)),
        route(3, hostnames=("a.eu.shop.internal",)),
    ) as (engine, _, client):
        for host, name in (
            ("a.eu.shop.internal", "r3"),
            ("B.EU.shop.internal:80", "r2"),
            ("x.y.shop.internal", "r1"),
            ("shop.internal", None),
        ):
            assert await chosen(engine, client, "/", host=host) == name
        assert await chosen(engine, client, "/deep", host="x.shop.internal") == "r1"
        assert await chosen(engine, client, "/deep", host="shop.internal") == "r0"


@live
async def test_matching_sees_the_normalised_path_and_the_original_bytes_go_on():
    async with routed(route(0, path("/admin", PathType.PREFIX)), route(1, path("/a%2Fb", PathType.EXACT))) as (engine, fake, client):
        for target in ("/x/../admin", "/%61dmin", "/./admin/x", "/x/%2e%2E/admin"):
            assert await chosen(engine, client, target) == "r0"
            assert fake.requests[-1].start == f"GET {target} HTTP/1.1".encode()
        assert await chosen(engine, client, "//admin") is None
        assert await chosen(engine, client, "/a%2fb") == "r1"
        assert await chosen(engine, client, "/a/b") is None


@live
async def test_a_route_of_another_listener_does_not_match():
    async with routed(route(0, listener="outbound")) as (engine, _, client):
        assert await chosen(engine, client, "/") is None


# Filters


def filtered(**filters: object) -> Route:
    return route(0, path("/api"), filters=Filters(**filters))


@live
async def test_request_header_modifier_sets_adds_and_removes():
    modifier = HeaderModifier(set=((b"X-Set", b"new"),), add=((b"X-Add", b"2"),), remove=frozenset({b"x-gone"}))
    async with routed(filtered(request_headers=(modifier,))) as (_, fake, client):
        await client.request("/api", headers="x-set: old\r\nX-Add: 1\r\nX-Gone: y\r\nX-Kept: z\r\n")
        request = fake.requests[0]
        assert [request.get_all(name) for name in ("x-set", "x-add", "x-gone", "x-kept")] == [["new"], ["1", "2"], [], ["z"]]


@live
async def test_response_header_modifier_sets_adds_and_removes():
    modifier = HeaderModifier(set=((b"X-Set", b"new"),), add=((b"X-Add", b"2"),), remove=frozenset({b"server"}))
    async with playing(
        answer(response(headers="X-Add: 1\r\nServer: secret\r\nx-set: old\r\n")), routes=[filtered(response_headers=(modifier,))]
    ) as (_, _, client):
        reply = await client.request("/api")
        assert [reply.get_all(name) for name in ("x-set", "x-add", "server")] == [["new"], ["1", "2"], []]


@live
@pytest.mark.parametrize(
    ("rewrite", "target", "expected"),
    [
        (UrlRewrite(replace_prefix_match="/"), "/api/x?q=/api", "/x?q=/api"),
        (UrlRewrite(replace_prefix_match="/"), "/api", "/"),
        (UrlRewrite(replace_prefix_match="/v2"), "/api/a%2Fb;c", "/v2/a%2Fb;c"),
        (UrlRewrite(replace_prefix_match="/v2"), "/api?x", "/v2?x"),
        (UrlRewrite(replace_full_path="/one"), "/api/x?q", "/one?q"),
        (UrlRewrite(hostname="inner.svc"), "/api/x", "/api/x"),
    ],
)
async def test_url_rewrite_changes_the_path_and_keeps_the_query(rewrite: UrlRewrite, target: str, expected: str):
    async with routed(filtered(rewrite=rewrite)) as (_, fake, client):
        await client.request(target)
        request = fake.requests[0]
        assert request.start == f"GET {expected} HTTP/1.1".encode()
        assert request.get_all("host") == [rewrite.hostname or "test"]
        assert request.get("x-forwarded-host") == "test"


@live
async def test_host_is_kept_unless_a_filter_rewrites_it():
    async with playing(OK) as (_, fake, client):
        await client.request(host="Some.Host:81")
        assert fake.requests[0].get("host") == "Some.Host:81"


@live
@pytest.mark.parametrize(
    ("redirect", "location"),
    [
        (Redirect(hostname="new.example"), "http://new.example/api/x?q=1"),
        (Redirect(scheme="https", status=301), "https://test/api/x?q=1"),
        (Redirect(port=8443, replace_prefix_match="/v2", status=308), "http://test:8443/v2/x?q=1"),
        (Redirect(replace_full_path="/gone", status=307), "http://test/gone?q=1"),
    ],
)
async def test_request_redirect_answers_without_asking_anybody(redirect: Redirect, location: str):
    async with routed(filtered(redirect=redirect)) as (engine, fake, client):
        reply = await client.request("/api/x?q=1")
        assert (reply.status, reply.get("location"), reply.body) == (redirect.status, location, b"")
        assert fake.connections == []
        exchange = await engine.seen.last()
        assert (exchange.route.name, exchange.upstream, exchange.reason) == ("r0", None, None)
        assert (await client.request("/api", method="HEAD")).status == redirect.status


# Backends by weight


@asynccontextmanager
async def fleet(count: int) -> AsyncIterator[list[ScriptedUpstream]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(ScriptedUpstream(answer(response(body=b"%d" % number)))) for number in range(count)]


@live
async def test_backends_share_requests_by_weight_and_zero_gets_none():
    async with fleet(3) as fakes:
        ups = [upstream(fake.port, f"u{number}") for number, fake in enumerate(fakes)]
        backends = (Backend(name="u0", weight=9), Backend(name="u1", weight=1), Backend(name="u2", weight=0))
        async with Engine(*ups, routes=[route(0, backends=backends)]) as engine, await RawClient.open(engine.port()) as client:
            seen = Counter([(await client.request()).body for _ in range(400)])
            assert seen[b"2"] == 0
            assert 5 < seen[b"1"] < 100
            assert seen[b"0"] + seen[b"1"] == 400


# Endpoints


async def spread(policy: LoadBalancer, requests: list[str], **upstream_fields: object) -> list[bytes]:
    async with fleet(3) as fakes:
        one = upstream([fake.port for fake in fakes], load_balancer=policy, **upstream_fields)
        async with Engine(one) as engine, await RawClient.open(engine.port()) as client:
            return [(await client.request("/", headers=header)).body for header in requests]


@live
async def test_round_robin_takes_turns():
    seen = await spread(LoadBalancer(policy=Balancing.ROUND_ROBIN), [""] * 12)
    assert Counter(seen) == {b"0": 4, b"1": 4, b"2": 4}
    assert seen[:3] * 4 == seen


@live
@pytest.mark.parametrize("policy", [Balancing.RANDOM, Balancing.LEAST_REQUEST, Balancing.PEAK_EWMA])
async def test_every_endpoint_gets_some_of_the_requests(policy: Balancing):
    seen = Counter(await spread(LoadBalancer(policy=policy), [""] * 120))
    assert set(seen) == {b"0", b"1", b"2"}


@live
async def test_consistent_hash_sends_equal_keys_to_one_endpoint_and_spreads_the_others():
    policy = LoadBalancer(policy=Balancing.CONSISTENT_HASH, hash_on=HashOn.HEADER, hash_name="x-user")
    users = [f"X-User: {number % 30}\r\n" for number in range(90)]
    seen = await spread(policy, users)
    assert seen[:30] == seen[30:60] == seen[60:]
    assert set(seen) == {b"0", b"1", b"2"}


@live
@pytest.mark.parametrize("policy", [Balancing.LEAST_REQUEST, Balancing.PEAK_EWMA])
async def test_a_busy_endpoint_is_avoided(policy: Balancing):
    async def busy(connection: Connection) -> None:
        await connection.read_request()
        await connection.read_until_close()

    async with ScriptedUpstream(busy) as slow, ScriptedUpstream(OK) as quick:
        async with (
            Engine(upstream([slow.port, quick.port], load_balancer=LoadBalancer(policy=policy))) as engine,
            AsyncExitStack() as stack,
        ):
            holders = []
            while not slow.connections:
                holder = await stack.enter_async_context(await RawClient.open(engine.port()))
                holders.append(holder)
                await holder.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await asyncio.sleep(0.02)
            before = len(slow.connections)
            for _ in range(20):
                assert (await ask(engine)).body == b"ok"
            assert len(slow.connections) == before


@live
async def test_an_upstream_over_a_unix_socket_works_like_any_other(tmp_path):
    from sidecar.model.snapshot import Target, Upstream

    socket_path = str(tmp_path / "app.sock")
    async with ScriptedUpstream(OK, unix_path=socket_path):
        target = Target(host="", port=0, unix_path=socket_path)
        async with Engine(Upstream(name="app", targets=(target,))) as engine:
            assert (await ask(engine)).body == b"ok"
