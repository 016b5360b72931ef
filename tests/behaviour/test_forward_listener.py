"""product.md 3.1 and 3.9 (`allow`), interface.md: Forward listeners, CONNECT and tunnels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network

import pytest
from behaviour_kit import LONG, ask, assert_reply, assert_reset, live, never_accepts, silent
from support import Connection, RawClient, Response, Script, ScriptedUpstream, answer, response
from support.engine import Engine, upstream
from support.ports import closed_port

from sidecar.errors import UpstreamError
from sidecar.model.reason import Clock, Phase, Reason
from sidecar.model.snapshot import AllowEntry, Backend, Route, Timeouts

OK = answer(response(body=b"ok"))
LOOPBACK = AllowEntry(host=None, network=ip_network("127.0.0.0/8"), ports=None)
DEFAULT_PORTS = frozenset({443, 80})


def named(host: str, *ports: int) -> AllowEntry:
    return AllowEntry(host=host, network=None, ports=frozenset(ports) or None)


@asynccontextmanager
async def outbound(
    script: Script, *allow: AllowEntry, routes: tuple[Route, ...] = (), **more: object
) -> AsyncIterator[tuple[Engine, ScriptedUpstream, RawClient]]:
    """An engine whose Forward listener allows `allow`; the upstream is called `app`, used by `routes` only."""
    async with ScriptedUpstream(script) as fake, Engine(upstream(fake.port), routes=routes, outbound={"allow": allow}, **more) as engine:
        async with await RawClient.open(engine.port("outbound")) as client:
            yield engine, fake, client


async def absolute(client: RawClient, authority: str, target: str = "/") -> Response:
    return await client.request(f"http://{authority}{target}", host=authority)


async def connect(client: RawClient, authority: str) -> Response:
    await client.send(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
    return await client.read_response(to="CONNECT")


TO_APP = Route(name="to-app", index=0, hostnames=("orders.shop.svc", "*.internal"), backends=(Backend(name="app"),))


# Routes first


@live
async def test_absolute_form_requests_are_matched_against_the_routes_first():
    async with outbound(OK, routes=(TO_APP,)) as (engine, fake, client):
        assert (await absolute(client, "orders.shop.svc", "/v1?q")).body == b"ok"
        assert (await absolute(client, "a.b.internal:8080")).body == b"ok"
        assert [request.start for request in fake.requests] == [b"GET /v1?q HTTP/1.1", b"GET / HTTP/1.1"]
        assert [request.get("host") for request in fake.requests] == ["orders.shop.svc", "a.b.internal:8080"]
        exchange = await engine.seen.last(2)
        assert (exchange.route, exchange.upstream.name) == (TO_APP, "app")


@live
async def test_origin_form_requests_are_matched_by_their_host():
    async with outbound(OK, routes=(TO_APP,)) as (_, _, client):
        assert (await client.request(host="orders.shop.svc")).body == b"ok"


@live
async def test_connect_requests_are_matched_against_the_routes_first_and_tunnel_to_the_routes_upstream():
    async def echo(connection: Connection) -> None:
        await connection.send(await connection.read_exactly(4))

    async with outbound(echo, routes=(TO_APP,)) as (engine, _, client):
        assert (await connect(client, "orders.shop.svc:443")).status == 200
        await client.send(b"ping")
        assert await client.read_until_close() == b"ping"
        client.half_close()
        exchange = await engine.seen.last()
        assert (exchange.route, exchange.tunnel, exchange.status) == (TO_APP, "connect", 200)


@live
async def test_origin_form_without_a_route_is_404_even_when_the_host_is_allowed():
    async with outbound(OK, LOOPBACK) as (_, fake, client):
        assert_reply(await client.request(host=f"127.0.0.1:{fake.port}"), 404, "no_route", details="")
        assert fake.connections == []


# The allow list


@live
async def test_an_allowed_destination_without_a_route_is_reached_directly():
    async with outbound(OK, LOOPBACK) as (engine, fake, client):
        assert (await absolute(client, f"127.0.0.1:{fake.port}", "/x?y")).body == b"ok"
        assert fake.requests[0].start == b"GET /x?y HTTP/1.1"
        assert fake.requests[0].get("host") == f"127.0.0.1:{fake.port}"
        exchange = await engine.seen.last()
        assert (exchange.route, exchange.upstream.name, exchange.reason) == (None, "forward", None)


@live
async def test_connections_to_allowed_destinations_are_kept_too():
    async with outbound(OK, LOOPBACK) as (_, fake, client):
        for _ in range(3):
            assert (await absolute(client, f"127.0.0.1:{fake.port}")).body == b"ok"
        assert len(fake.connections) == 1


@live
async def test_a_destination_that_is_not_in_the_list_is_403_http_request_denied():
    async with outbound(OK, named("*.example.com")) as (engine, fake, client):
        assert_reply(await absolute(client, f"127.0.0.1:{fake.port}"), 403, "http_request_denied", details="")
        assert_reply(await absolute(client, "example.org"), 403, "http_request_denied", details="")
        assert fake.connections == []
        assert (await engine.seen.last(2)).reason is Reason.HTTP_REQUEST_DENIED


@live
async def test_an_empty_list_allows_nothing():
    async with outbound(OK) as (_, fake, client):
        assert_reply(await connect(client, f"127.0.0.1:{fake.port}"), 403, "http_request_denied", details="")


@live
async def test_an_allowed_name_whose_address_is_not_is_403_destination_ip_prohibited():
    async with outbound(OK, named("localhost")) as (_, fake, client):
        assert_reply(await absolute(client, f"localhost:{fake.port}"), 403, "destination_ip_prohibited", details="")
        assert_reply(await connect(client, f"localhost:{fake.port}"), 403, "destination_ip_prohibited", details="")
        assert fake.connections == []


@live
async def test_a_name_that_only_a_cidr_allows_goes_when_its_address_is_inside_and_is_denied_when_not():
    loopbacks = (LOOPBACK, AllowEntry(host=None, network=ip_network("::1/128"), ports=None))
    async with outbound(OK, *loopbacks) as (_, fake, client):
        assert (await absolute(client, f"localhost:{fake.port}")).body == b"ok"
    async with outbound(OK, AllowEntry(host=None, network=ip_network("192.0.2.0/24"), ports=None)) as (_, fake, client):
        assert_reply(await absolute(client, f"localhost:{fake.port}"), 403, "http_request_denied", details="")


@live
@pytest.mark.parametrize("spelling", ["127.1", "0x7f.0.0.1", "2130706433", "0177.0.0.1"])
async def test_other_spellings_of_an_address_are_refused(spelling: str):
    async with outbound(OK, LOOPBACK) as (_, fake, client):
        assert_reply(await absolute(client, f"{spelling}:{fake.port}"), 403, "http_request_denied")


@live
async def test_a_redirect_to_a_forbidden_destination_is_passed_on_and_not_followed():
    moved = answer(response("302 Found", headers="Location: http://169.254.169.254/\r\n"))
    async with outbound(moved, routes=(TO_APP,)) as (engine, fake, client):
        got = await absolute(client, "orders.shop.svc")
        assert (got.status, got.get("location")) == (302, "http://169.254.169.254/")
        await engine.seen.last(1)
        assert [connected for connected, _ in engine.seen.connects] == ["app"]
        assert len(fake.requests) == 1


@live
async def test_ports_other_than_443_and_80_are_refused_unless_the_entry_names_them():
    with_default = AllowEntry(host=None, network=ip_network("127.0.0.0/8"), ports=DEFAULT_PORTS)
    async with outbound(OK, with_default) as (_, fake, client):
        assert_reply(await absolute(client, f"127.0.0.1:{fake.port}"), 403, "http_request_denied", details="")
        assert_reply(await connect(client, f"127.0.0.1:{fake.port}"), 403, "http_request_denied", details="")


@live
async def test_after_a_refused_connect_the_connection_closes_because_what_follows_may_be_meant_for_the_tunnel():
    async with outbound(OK) as (_, fake, client):
        reply = await connect(client, f"127.0.0.1:{fake.port}")
        assert (reply.status, reply.get("connection")) == (403, "close")
        assert await client.read_until_close() == b""


@live
async def test_a_port_that_the_entry_names_is_allowed_and_no_other():
    async with ScriptedUpstream(OK) as fake, ScriptedUpstream(OK) as other:
        entry = AllowEntry(host=None, network=ip_network("127.0.0.0/8"), ports=frozenset({fake.port}))
        async with Engine(outbound={"allow": (entry,)}) as engine, await RawClient.open(engine.port("outbound")) as client:
            assert (await absolute(client, f"127.0.0.1:{fake.port}")).body == b"ok"
            assert_reply(await absolute(client, f"127.0.0.1:{other.port}"), 403, "http_request_denied")


@live
async def test_the_reply_to_a_denied_request_does_not_show_where_the_name_leads():
    async with outbound(OK, named("localhost")) as (_, fake, client):
        await absolute(client, f"localhost:{fake.port}")
        assert b"127.0.0.1" not in client.received
        assert b"::1" not in client.received


@live
async def test_an_https_target_is_never_sent_on_in_the_clear():
    async with outbound(OK, LOOPBACK) as (_, fake, client):
        reply = await client.request(f"https://127.0.0.1:{fake.port}/secret", host=f"127.0.0.1:{fake.port}")
        assert_reply(reply, 403, "http_request_denied")
        assert fake.connections == []


@live
async def test_timeouts_of_allowed_destinations_come_from_the_defaults():
    async with outbound(silent, LOOPBACK, default_timeouts=Timeouts(response_header=0.08)) as (_, fake, client):
        details = "upstream=forward attempt=1/2 clock=responseHeader"
        reply = await absolute(client, f"127.0.0.1:{fake.port}")
        assert_reply(reply, 504, "http_response_timeout", clock="responseHeader", details=details)


@live
async def test_a_destination_that_refuses_is_502():
    with closed_port() as dead:
        async with outbound(OK, LOOPBACK) as (_, _, client):
            assert_reply(await absolute(client, f"127.0.0.1:{dead}"), 502, "connection_refused", details="upstream=forward attempt=2/2")


@live
async def test_an_allowed_name_that_does_not_exist_is_502_dns_error():
    async def no_such_name(host: str) -> list[tuple[str, int]]:
        raise UpstreamError(Reason.DNS_ERROR, f"{host}: NXDOMAIN", phase=Phase.CONNECT)

    async with outbound(OK, named("*.example.com")) as (engine, _, client):
        engine.registry._resolver._query = no_such_name
        assert_reply(await absolute(client, "nowhere.example.com"), 502, "dns_error")


@live
@pytest.mark.parametrize(("name", "status", "reason"), [("a.example.com", 200, ""), ("b.example.com", 403, "destination_ip_prohibited")])
async def test_what_decides_is_the_address_that_the_name_has_when_it_is_connected_to(name: str, status: int, reason: str):
    async def lookup(host: str) -> list[tuple[str, int]]:
        return [("127.0.0.1" if host == "a.example.com" else "169.254.169.254", 60)]

    async with outbound(OK, named("*.example.com"), LOOPBACK) as (engine, fake, client):
        engine.registry._resolver._query = lookup
        reply = await absolute(client, f"{name}:{fake.port}")
        assert reply.status == status
        if status == 200:
            assert fake.requests[0].get("host") == f"{name}:{fake.port}"
        else:
            assert_reply(reply, 403, reason, details="")


@live
async def test_the_request_clock_covers_the_lookup_of_a_forward_destination():
    async def hangs(_host: str) -> list[tuple[str, int]]:
        await asyncio.sleep(LONG)
        return []

    async with outbound(OK, named("*.example.com"), default_timeouts=Timeouts(request=0.08)) as (engine, _, client):
        engine.registry._resolver._query = hangs
        assert_reply(await absolute(client, "a.example.com"), 504, "request_timeout", clock="request")


# Tunnels


@live
async def test_connect_answers_200_without_a_body_and_carries_bytes_both_ways():
    async def greets(connection: Connection) -> None:
        await connection.send(b"hello")
        assert await connection.read_exactly(5) == b"early"
        await connection.send(b"bye")

    async with outbound(greets, LOOPBACK) as (_, fake, client):
        await client.send(f"CONNECT 127.0.0.1:{fake.port} HTTP/1.1\r\nHost: x\r\n\r\nearly".encode())
        reply = await client.read_response(to="CONNECT")
        assert reply.start == b"HTTP/1.1 200 Connection Established"
        assert (reply.get("content-length"), reply.get("transfer-encoding")) == (None, None)
        assert await client.read_until_close() == b"hellobye"


@live
async def test_in_a_tunnel_each_direction_ends_by_itself_client_first():
    async def answers_after_fin(connection: Connection) -> None:
        assert await connection.read_until_close() == b"all I have"
        await asyncio.sleep(0.05)
        await connection.send(b"answer after your FIN")

    async with outbound(answers_after_fin, LOOPBACK) as (engine, fake, client):
        await connect(client, f"127.0.0.1:{fake.port}")
        await client.send(b"all I have")
        client.half_close()
        assert await client.read_until_close() == b"answer after your FIN"
        exchange = await engine.seen.last()
        assert (exchange.bytes_in, exchange.bytes_out, exchange.reason) == (10, 21, None)


@live
async def test_in_a_tunnel_each_direction_ends_by_itself_upstream_first():
    got = asyncio.get_running_loop().create_future()

    async def ends_first(connection: Connection) -> None:
        await connection.send(b"bye")
        connection.half_close()
        got.set_result(await connection.read_until_close())

    async with outbound(ends_first, LOOPBACK) as (_, fake, client):
        await connect(client, f"127.0.0.1:{fake.port}")
        assert await client.read_until_close() == b"bye"
        await client.send(b"still sending")
        client.half_close()
        assert await got == b"still sending"


@live
async def test_large_amounts_pass_through_a_tunnel_byte_for_byte():
    blob = bytes(range(256)) * 8_000

    async def echo(connection: Connection) -> None:
        while data := await connection.read_some():
            await connection.send(data)

    async with outbound(echo, LOOPBACK) as (engine, fake, client):
        await connect(client, f"127.0.0.1:{fake.port}")
        sending = asyncio.create_task(client.send(blob))
        assert await client.read_exactly(len(blob)) == blob
        await sending
        client.half_close()
        assert await client.read_until_close() == b""
        exchange = await engine.seen.last()
        assert (exchange.bytes_in, exchange.bytes_out) == (len(blob), len(blob))


@live
async def test_a_reset_of_one_side_of_a_tunnel_reaches_the_other():
    async def resets(connection: Connection) -> None:
        await connection.read_exactly(1)
        connection.reset()

    async with outbound(resets, LOOPBACK) as (_, fake, client):
        await connect(client, f"127.0.0.1:{fake.port}")
        await client.send(b"x")
        await assert_reset(client)


@live
async def test_tunnel_idle_ends_a_connect_tunnel():
    async def quiet(connection: Connection) -> None:
        await connection.read_until_close()

    async with outbound(quiet, LOOPBACK, default_timeouts=Timeouts(tunnel_idle=0.5)) as (engine, fake, client):
        await connect(client, f"127.0.0.1:{fake.port}")
        await assert_reset(client)
        exchange = await engine.seen.last()
        assert (exchange.clock, exchange.reason, exchange.status) == (Clock.TUNNEL_IDLE, Reason.STREAM_IDLE_TIMEOUT, 200)


@live
async def test_a_connect_that_is_refused_is_502_and_one_that_hangs_is_504():
    with closed_port() as dead, never_accepts() as hanging:
        routes = (TO_APP, Route(name="to-slow", index=1, hostnames=("slow.svc",), backends=(Backend(name="slow"),)))
        async with Engine(upstream(dead), upstream(hanging, "slow", connect_timeout=0.08), routes=routes) as engine:
            async with await RawClient.open(engine.port("outbound")) as client:
                assert_reply(await connect(client, "orders.shop.svc:443"), 502, "connection_refused", details="upstream=app attempt=2/2")
            async with await RawClient.open(engine.port("outbound")) as client:
                details = "upstream=slow attempt=2/2 clock=connect"
                assert_reply(await connect(client, "slow.svc:443"), 504, "connection_timeout", clock="connect", details=details)


@live
async def test_tunnels_do_not_count_against_the_pool_and_requests_go_on_beside_them():
    async def both(connection: Connection) -> None:
        if connection.number == 0:
            await connection.read_until_close()
        else:
            await OK(connection)

    async with outbound(both, LOOPBACK) as (engine, fake, client):
        await connect(client, f"127.0.0.1:{fake.port}")
        assert (await ask(engine, f"http://127.0.0.1:{fake.port}/", listener="outbound", host="x")).body == b"ok"
        client.half_close()


@live
@pytest.mark.parametrize("target", ["127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", "user@127.0.0.1:443", "http://a/", "/", ":443"])
async def test_a_connect_target_that_is_no_host_and_port_is_400(target: str):
    async with outbound(OK, LOOPBACK) as (_, _, client):
        await client.send(f"CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert_reply(await client.read_response(), 400, "http_request_error")
