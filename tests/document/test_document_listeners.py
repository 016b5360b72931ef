"""Every field of a listener has the effect that the reference says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from document_kit import (
    INBOUND,
    OUTBOUND,
    SHORT,
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
    says,
)
from support import RawClient, ScriptedUpstream
from support.ports import free_port

from sidecar.config.load import Loaded, load


async def hear(port: int, host: str) -> bytes:
    async with await RawClient.open(port, host) as client:
        return (await client.request()).body


# Where


@proves("listeners[].port", "listeners[].bind", "listeners[].name")
@live
async def test_a_listener_binds_its_address_and_port_and_no_other() -> None:
    port = free_port()
    async with ScriptedUpstream(says("hi")) as fake:
        async with Chain(document(fake.port, listener={"name": "mine", "bind": "127.0.0.2", "port": port})) as chain:
            assert chain.address("mine") == f"127.0.0.2:{port}"
            assert await hear(port, "127.0.0.2") == b"hi"
            with pytest.raises(ConnectionRefusedError):
                await hear(port, "127.0.0.1")


@proves("listeners[].bind")
@live
async def test_ipv6_addresses_are_bound_and_the_unspecified_one_takes_ipv4_too() -> None:
    async with ScriptedUpstream(says("hi")) as fake:
        doc = document(fake.port)
        doc["listeners"] = [{**INBOUND, "name": "one", "bind": "::1"}, {**INBOUND, "name": "all", "bind": "::"}]
        async with Chain(doc) as chain:
            assert await hear(chain.port("one"), "::1") == b"hi"
            with pytest.raises(ConnectionRefusedError):
                await hear(chain.port("one"), "127.0.0.1")
            assert [await hear(chain.port("all"), host) for host in ("::1", "127.0.0.1")] == [b"hi"] * 2


@live
async def test_an_ipv4_client_of_an_ipv6_socket_is_told_on_by_its_ipv4_address() -> None:
    async with playing(echo_head, listener={"bind": "::", "trustedProxies": []}) as (chain, _, client):
        echoed = await client.request()
        assert [field_of(echoed, name) for name in ("x-forwarded-for", "x-real-ip")] == [["127.0.0.1"], ["127.0.0.1"]]
        assert (await chain.seen.last()).client == "127.0.0.1"


@proves("listeners[].bind")
@live
async def test_a_unix_socket_is_a_listener(tmp_path: Path) -> None:
    path = tmp_path / "in.sock"
    async with ScriptedUpstream(echo_head) as fake:
        doc = document(fake.port)
        doc["listeners"] = [{"name": "unix", "bind": f"unix:{path}"}]
        async with Chain(doc), await RawClient.open_unix(str(path)) as client:
            assert line_of(await client.request("/x")) == "GET /x HTTP/1.1"
    assert not path.exists()


def test_left_out_listeners_are_the_two_usual_ones_and_a_way_out_is_not_opened_to_the_network() -> None:
    loaded = load(b"apiVersion: outrider.dev/v1alpha1\nkind: SidecarConfig\n")
    assert isinstance(loaded, Loaded)
    there = [(one.name, one.mode.value, one.bind, one.port) for one in loaded.snapshot.listeners]
    assert there == [("inbound", "Reverse", "0.0.0.0", 15001), ("outbound", "Forward", "127.0.0.1", 15002)]


def test_a_port_is_required_but_for_unix_sockets() -> None:
    assert "listeners[0].port: is required" in problems_of({**document(1), "listeners": [{"name": "in"}]})[0]


# Mode and allow


@proves("listeners[].mode=Reverse", "listeners[].mode=Forward")
@live
async def test_only_a_forward_listener_is_a_way_out() -> None:
    async with ScriptedUpstream(says("direct")) as fake:
        doc = document(1, route={"listener": "inbound", "hostnames": ["nobody.example"]})
        doc["listeners"] = [INBOUND, {**OUTBOUND, "allow": [f"127.0.0.1:{fake.port}"]}]
        url, host = f"http://127.0.0.1:{fake.port}/x", f"127.0.0.1:{fake.port}"
        async with Chain(doc) as chain:
            assert reason_of(await chain.ask(url, host=host, listener="outbound")) == "direct"
            assert reason_of(await chain.ask(url, host=host)) == "404 no_route"
            assert reason_of(await chain.ask(host, method="CONNECT", host=host)) == "405 http_request_denied"
            assert reason_of(await chain.ask("/x", host=host, listener="outbound")) == "404 no_route"


@proves("listeners[].allow[]")
@pytest.mark.parametrize(
    ("allow", "said"),
    [
        (["127.0.0.1:{port}"], "direct"),
        (["127.0.0.0/8:{port}"], "direct"),
        (["127.0.0.0/8:*"], "direct"),
        (["127.0.0.1:*"], "direct"),
        (["127.0.0.1"], "403 http_request_denied"),  # ports 443 and 80
        (["127.0.0.1:1"], "403 http_request_denied"),
        (["10.0.0.0/8:*"], "403 http_request_denied"),
        (["*:*"], "403 destination_ip_prohibited"),
        ([], "403 http_request_denied"),
    ],
)
@live
async def test_allow_says_where_a_forward_listener_goes_without_a_route(allow: list[str], said: str) -> None:
    async with ScriptedUpstream(says("direct")) as fake:
        doc = document(1, route={"hostnames": ["nobody.example"]})
        doc["listeners"] = [{**OUTBOUND, "allow": [entry.format(port=fake.port) for entry in allow]}]
        authority = f"127.0.0.1:{fake.port}"
        async with Chain(doc) as chain:
            assert reason_of(await chain.ask(f"http://{authority}/", host=authority, listener="outbound")) == said
            async with await chain.client("outbound") as client:
                reply = await client.request(authority, method="CONNECT", host=authority)
                assert reply.status == (200 if said == "direct" else 403)


@proves("listeners[].allow[]")
@live
async def test_allow_takes_names_with_globs_but_special_addresses_behind_them_need_naming() -> None:
    async with ScriptedUpstream(says("direct")) as fake:
        doc = document(1, route={"hostnames": ["nobody.example"]})
        doc["listeners"] = [
            {**OUTBOUND, "name": "named", "allow": ["*.localhost:*"]},
            {**OUTBOUND, "name": "both", "allow": ["*.localhost:*", "127.0.0.0/8:*", "[::1/128]:*"]},
        ]
        async with Chain(doc) as chain:
            url, other = f"http://a.localhost:{fake.port}/", f"http://a.example:{fake.port}/"
            assert reason_of(await chain.ask(url, host="a.localhost", listener="named")) == "403 destination_ip_prohibited"
            assert reason_of(await chain.ask(url, host="a.localhost", listener="both")) == "direct"
            assert reason_of(await chain.ask(other, host="a.example", listener="named")) == "403 http_request_denied"


def test_an_ipv6_destination_with_a_port_is_told_that_it_needs_brackets() -> None:
    doc = document(1)
    doc["listeners"] = [{**OUTBOUND, "allow": ["::1/128:*"]}]
    assert "listeners[0].allow[0]: " in problems_of(doc)[0]
    assert "with a port it needs brackets: [fd00::/8]:443" in problems_of(doc)[0]


def test_allow_on_a_reverse_listener_is_refused() -> None:
    assert "listeners[0].allow: allow is for listeners of mode Forward" in problems_of(document(1, listener={"allow": ["a.example"]}))[0]


# Clocks


@proves("listeners[].headerTimeout")
@live
async def test_header_timeout_bounds_a_whole_head() -> None:
    async with playing(says("hi"), listener={"headerTimeout": SHORT}) as (_, _, client):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        assert reason_of(await client.read_response()) == "408 request_header_timeout headerTimeout"
        assert await client.read_until_close() == b""
    async with playing(says("hi"), listener={"headerTimeout": "0s"}) as (_, _, client):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        await client.read_nothing()
        await client.send(b"\r\n")
        assert (await client.read_response()).body == b"hi"


@proves("listeners[].bodyIdleTimeout")
@live
async def test_body_idle_timeout_bounds_the_wait_between_two_reads_of_a_body() -> None:
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n"
    async with playing(says("hi"), listener={"bodyIdleTimeout": "500ms"}) as (_, _, client):
        await client.send(post)
        for byte in (b"a", b"b", b"c", b"d"):  # longer than the clock in total
            await asyncio.sleep(0.15)
            await client.send(byte)
        assert reason_of(await client.read_response()) == "408 request_body_timeout bodyIdleTimeout"
    async with playing(says("hi"), listener={"bodyIdleTimeout": "0s"}) as (_, _, client):
        await client.send(post)
        await client.read_nothing(0.3)
        await client.send(b"abcdef")
        assert (await client.read_response()).body == b"hi"


@proves("listeners[].idleTimeout")
@live
async def test_idle_timeout_closes_connections_that_wait_between_requests() -> None:
    async with playing(says("hi"), listener={"idleTimeout": SHORT}) as (_, _, client):
        assert (await client.request()).body == b"hi"
        assert await client.read_until_close() == b""
    async with playing(says("hi"), listener={"idleTimeout": SHORT}) as (_, _, client):
        assert await client.read_until_close() == b""  # also before the first one
    async with playing(says("hi"), listener={"idleTimeout": "0s"}) as (_, _, client):
        assert (await client.request()).body == b"hi"
        await client.read_nothing(0.3)


# Limits


@proves("listeners[].maxHeaderBytes", "listeners[].maxHeaderCount", "listeners[].maxTargetBytes")
@pytest.mark.parametrize(
    ("limit", "target", "headers", "said"),
    [
        ({"maxHeaderBytes": "1Ki", "maxTargetBytes": 512}, "/", f"x: {'a' * 900}\r\n", "hi"),
        ({"maxHeaderBytes": "1Ki", "maxTargetBytes": 512}, "/", f"x: {'a' * 1024}\r\n", "431 header_section_too_large"),
        ({"maxHeaderCount": 3}, "/", "a: 1\r\nb: 2\r\n", "hi"),
        ({"maxHeaderCount": 3}, "/", "a: 1\r\nb: 2\r\nc: 3\r\n", "431 header_section_too_large"),
        ({"maxTargetBytes": 20}, "/" + "a" * 19, "", "hi"),
        ({"maxTargetBytes": 20}, "/" + "a" * 20, "", "414 uri_too_long"),
    ],
)
@live
async def test_heads_above_a_limit_are_refused(limit: dict[str, Any], target: str, headers: str, said: str) -> None:
    async with playing(says("hi"), listener=limit) as (_, _, client):
        assert reason_of(await client.request(target, headers=headers)) == said


@proves("listeners[].maxRequestBody")
@live
async def test_bodies_above_max_request_body_are_refused_whether_announced_or_not() -> None:
    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n6\r\nabcdef\r\n0\r\n\r\n"
    async with ScriptedUpstream(says("hi")) as fake:
        async with Chain(document(fake.port, listener={"maxRequestBody": "10"})) as chain:
            assert reason_of(await chain.ask(method="POST", body=b"a" * 10)) == "hi"
            assert reason_of(await chain.ask(method="POST", body=b"a" * 11)) == "413 request_too_large"
            async with await chain.client() as client:
                await client.send(chunked)
                assert reason_of(await client.read_response()) == "413 request_too_large"
        async with Chain(document(fake.port)) as chain, await chain.client() as client:
            await client.send(chunked)
            assert reason_of(await client.read_response()) == "hi"


@proves("listeners[].maxConnections")
@live
async def test_at_max_connections_accepting_pauses_and_nobody_is_refused() -> None:
    async with ScriptedUpstream(says("hi")) as fake, Chain(document(fake.port, listener={"maxConnections": 2})) as chain:
        clients = [await chain.client() for _ in range(4)]
        for client in clients:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert [(await client.read_response()).body for client in clients[:2]] == [b"hi"] * 2
        await asyncio.gather(*(client.read_nothing() for client in clients[2:]))
        for client in clients[:2]:
            await client.close()
        assert [(await client.read_response()).body for client in clients[2:]] == [b"hi"] * 2
        for client in clients[2:]:
            await client.close()


# Who is believed

CLAIMS = "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop\r\nX-Real-IP: 8.8.8.8\r\nx-request-id: mine\r\n"
BELIEVED = (["9.9.9.9, 127.0.0.1"], ["https"], ["shop"], ["8.8.8.8"], ["mine"])
SET_ANEW = (["127.0.0.1"], ["http"], ["test"], ["127.0.0.1"])


async def told(listener: dict[str, Any]) -> tuple[list[str], ...]:
    async with playing(echo_head, listener=listener) as (_, _, client):
        echoed = await client.request(headers=CLAIMS)
        names = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-IP", "x-request-id")
        return tuple(field_of(echoed, name) for name in names)


@proves("listeners[].trustedProxies[]")
@pytest.mark.parametrize(
    ("trusted", "believed"), [(None, True), ([], False), (["127.0.0.0/8"], True), (["127.0.0.1"], True), (["10.0.0.0/8", "::1/128"], False)]
)
@live
async def test_trusted_proxies_says_whose_word_is_believed(trusted: list[str] | None, believed: bool) -> None:
    *forwarded, request_id = await told({"trustedProxies": trusted})
    assert tuple(forwarded) == (BELIEVED[:4] if believed else SET_ANEW)
    assert (request_id == ["mine"]) is believed


@proves("listeners[].trustedProxies[]")
@live
async def test_the_real_address_is_the_rightmost_that_is_not_trusted() -> None:
    async with playing(echo_head, listener={"trustedProxies": ["127.0.0.0/8", "10.0.0.0/8"]}) as (_, _, client):
        echoed = await client.request(headers="X-Forwarded-For: 6.6.6.6, 7.7.7.7, 10.1.2.3\r\n")
        assert field_of(echoed, "X-Real-IP") == ["7.7.7.7"]


@proves("listeners[].trustedProxies[]")
@live
async def test_a_deadline_is_believed_of_trusted_peers_only() -> None:
    for trusted, runs in (([], False), (["127.0.0.0/8"], True)):
        async with playing(echo_head, listener={"trustedProxies": trusted}) as (_, _, client):
            echoed = await client.request(headers="x-request-timeout-ms: 5000\r\n")
            assert bool(field_of(echoed, "x-request-timeout-ms")) is runs


@proves("listeners[].forwarded=Append", "listeners[].forwarded=Set", "listeners[].forwarded=Preserve", "listeners[].forwarded=Off")
@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ("Append", BELIEVED[:4]),
        ("Set", SET_ANEW),
        ("Preserve", (["9.9.9.9"], ["https"], ["shop"], ["8.8.8.8"])),
        ("Off", ([], [], [], [])),
    ],
)
@live
async def test_forwarded_says_what_becomes_of_the_forwarding_fields(forwarded: str, expected: tuple[list[str], ...]) -> None:
    assert (await told({"forwarded": forwarded}))[:4] == expected


@proves("listeners[].forwarded=Preserve")
@live
async def test_preserve_holds_for_every_peer_and_adds_nothing() -> None:
    assert (await told({"forwarded": "Preserve", "trustedProxies": []}))[:4] == (["9.9.9.9"], ["https"], ["shop"], ["8.8.8.8"])
    async with playing(echo_head, listener={"forwarded": "Preserve"}) as (_, _, client):
        assert field_of(await client.request(), "X-Forwarded-For") == []


@live
async def test_an_answer_of_the_upstream_is_not_touched_by_any_of_this() -> None:
    async with playing(says("hi", headers="X-Forwarded-For: 1.2.3.4\r\n"), listener={"forwarded": "Off"}) as (_, _, client):
        assert (await client.request()).get("x-forwarded-for") == "1.2.3.4"
