"""CONNECT and Upgrade: RFC 9110 sections 7.8 and 9.3.6, RFC 9931, http.md H4 and U1 to U5."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from engine_driver import GET, LAST, arrived, hold, swallow, talk, turns
from support import Connection, RawClient, ScriptedUpstream, answer, in_turn, response
from support.engine import Engine, upstream

from sidecar.model.reason import Reason
from sidecar.model.snapshot import AllowEntry, Timeouts

ASK = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: y\r\n\r\n"
OK = response(body=b"ok")
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


def switch(answer_with: bytes = SWITCH):
    """A script: read the head of an upgrade request, answer it, then echo."""

    async def play(connection: Connection) -> None:
        request = await connection.read_head()
        connection.requests.append(request)
        await connection.send(answer_with)
        while data := await connection.read_some():
            await connection.send(data.upper())

    return play


LOOPBACK = {"allow": (AllowEntry(host="127.0.0.1", network=None, ports=None),)}


async def echo(connection: Connection) -> None:
    while data := await connection.read_some():
        await connection.send(data.upper())


# Upgrade


def test_an_upgrade_that_was_asked_for_becomes_a_tunnel():
    async def main() -> None:
        async with ScriptedUpstream(switch()) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(ASK)
                head = await client.read_response()
                assert (head.status, head.get("upgrade"), head.get("connection"), head.get("sec-websocket-accept")) == (
                    101,
                    "WebSocket",
                    "Upgrade",
                    "y",
                )
                assert head.get("content-length") is None
                assert head.get("transfer-encoding") is None
                await client.send(b"hello\x00\xff")
                assert await client.read_exactly(7) == b"HELLO\x00\xff"
            request = peer.requests[0]
            assert (request.get_all("connection"), request.get_all("upgrade"), request.get("sec-websocket-key")) == (
                ["Upgrade"],
                ["websocket"],
                "x",
            )
            exchange = await engine.seen.last()
            assert (exchange.tunnel, exchange.status, exchange.bytes_in, exchange.bytes_out) == ("websocket", 101, 7, 7)

    uvloop.run(main())


def test_bytes_that_a_client_sends_before_the_101_are_held_back_and_then_delivered():
    go = asyncio.Event()

    async def later(connection: Connection) -> None:
        await connection.read_head()
        await connection.read_nothing(0.05)
        go.set()
        await connection.send(SWITCH + b"first")
        await connection.send((await connection.read_exactly(5)).upper())

    async def main() -> None:
        async with ScriptedUpstream(later) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(ASK + b"early")
                await go.wait()
                assert (await client.read_response()).status == 101
                assert await client.read_exactly(10) == b"firstEARLY"

    uvloop.run(main())


def test_bytes_held_for_an_upgrade_that_is_refused_never_reach_the_upstream_unparsed():
    async def main() -> None:
        async with ScriptedUpstream(answer(OK)) as peer, Engine(upstream(peer.port)) as engine:
            heard = await talk(engine.port(), ASK + b"\x81\x05garbage", LAST)
            assert heard.statuses == [200, 400]
            assert len(peer.requests) == 1
            assert b"garbage" not in peer.connections[0].received

    uvloop.run(main())


def test_a_client_cannot_fill_our_memory_before_the_101():
    async def main() -> None:
        async with ScriptedUpstream(hold(b"")) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                pouring = asyncio.ensure_future(client.send(ASK + b"x" * 30_000_000))
                await peer.connection(0)
                await asyncio.sleep(0.1)
                assert not pouring.done()
                assert max(len(one.rx) for one in engine._owners[0].connections) <= 128 * 1024
                pouring.cancel()
                await asyncio.gather(pouring, return_exceptions=True)
                client.reset()
            await engine.seen.last()

    uvloop.run(main())


@pytest.mark.parametrize(
    ("ask", "reply", "why"),
    [
        (GET, SWITCH, "RFC 9110 15.2.2: nobody asked"),
        (ASK, SWITCH.replace(b"Upgrade: WebSocket", b"Upgrade: spdy/3.1"), "RFC 9110 7.8: another protocol than asked for"),
        (ASK, SWITCH.replace(b"Upgrade: WebSocket", b"Upgrade: websocket, other"), "RFC 9110 7.8: more than asked for"),
        (ASK, SWITCH.replace(b"Upgrade: WebSocket\r\n", b""), "RFC 9110 7.8: a 101 names its protocol"),
        (ASK, SWITCH.replace(b"Connection: Upgrade\r\n", b""), "RFC 9110 7.8: Upgrade without Connection says nothing"),
        (ASK.replace(b"websocket", b"h2c"), SWITCH.replace(b"Upgrade: WebSocket", b"Upgrade: h2c"), "RFC 9113 3.1: h2c is never asked for"),
        (ASK.replace(b"HTTP/1.1", b"HTTP/1.0"), SWITCH, "RFC 9110 7.8: not from a 1.0 client"),
        (ASK[:-2] + b"Content-Length: 1\r\n\r\nx", SWITCH, "http.md U4: not with a body"),
    ],
)
def test_a_101_that_was_not_asked_for_is_a_502_and_opens_no_tunnel(ask, reply, why):
    async def main() -> None:
        async with ScriptedUpstream(in_turn(hold(reply + b"secret"), answer(OK))) as peer, Engine(upstream(peer.port)) as engine:
            heard = await talk(engine.port(), ask + (LAST if b"1.0" not in ask else b""))
            assert heard.statuses == ([502, 200] if b"1.0" not in ask else [502]), why
            assert b"secret" not in heard.data
            await peer.connections[0].ended.wait()
            assert engine.seen.tunnels == []
            assert engine.seen.finished[0].reason is Reason.HTTP_UPGRADE_FAILED

    uvloop.run(main())


def test_h2c_is_taken_out_of_a_list_of_protocols():
    async def main() -> None:
        async with ScriptedUpstream(answer(OK)) as peer, Engine(upstream(peer.port)) as engine:
            await talk(engine.port(), ASK.replace(b"websocket", b"h2c, websocket, HTTP/2.0") + LAST)
            assert peer.requests[0].get_all("upgrade") == ["websocket"]

    uvloop.run(main())


def test_an_upgrade_that_the_upstream_ignores_is_an_ordinary_exchange():
    async def main() -> None:
        async with ScriptedUpstream(answer(OK)) as peer, Engine(upstream(peer.port)) as engine:
            assert (await talk(engine.port(), ASK + GET + LAST)).statuses == [200, 200, 200]
            assert len(peer.connections) == 1

    uvloop.run(main())


def test_a_handshake_without_an_answer_is_a_504():
    async def main() -> None:
        clocks = {"timeouts": Timeouts(upgrade_handshake=0.05)}
        async with ScriptedUpstream(in_turn(hold(b""), answer(OK))) as peer, Engine(upstream(peer.port), route=clocks) as engine:
            heard = await talk(engine.port(), ASK + LAST)
            assert heard.statuses == [504, 200]
            assert b"error=http_upgrade_failed" in heard.data
            assert b"clock=upgradeHandshake" in heard.data

    uvloop.run(main())


def test_each_direction_of_a_tunnel_ends_by_itself():
    async def main() -> None:
        async def last_word(connection: Connection) -> None:
            await connection.read_head()
            await connection.send(SWITCH)
            assert await connection.read_until_close() == b"bye"
            await connection.send(b"and goodbye")

        async with ScriptedUpstream(last_word) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(ASK)
                await client.read_response()
                await client.send(b"bye")
                client.half_close()
                assert await client.read_until_close() == b"and goodbye"
            assert (await engine.seen.last()).reason is None

    uvloop.run(main())


def test_what_the_upstream_sent_before_its_fin_reaches_the_client_of_a_tunnel():
    async def main() -> None:
        async def talker(connection: Connection) -> None:
            await connection.read_head()
            await connection.send(SWITCH + b"x" * 1_000_000)

        async with ScriptedUpstream(talker) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(ASK)
                await client.read_response()
                assert len(await client.read_until_close()) == 1_000_000

    uvloop.run(main())


@pytest.mark.parametrize("side", ["client", "upstream"])
def test_a_tunnel_whose_one_side_resets_is_reset_on_the_other(side):
    async def main() -> None:
        async def reset(connection: Connection) -> None:
            await connection.read_head()
            await connection.send(SWITCH)
            await connection.read_some()
            if side == "upstream":
                connection.reset()
            else:
                await swallow(connection)

        async with ScriptedUpstream(reset) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(ASK)
                await client.read_response()
                await client.send(b"hello")
                if side == "upstream":
                    with pytest.raises(ConnectionResetError):
                        await client.read_until_close()
                else:
                    await arrived(peer.connections[0], b"hello")
                    client.reset()
            await peer.connections[0].ended.wait()
            await engine.seen.last()

    uvloop.run(main())


# CONNECT


def test_connect_opens_a_tunnel_to_an_allowed_destination():
    async def main() -> None:
        async with ScriptedUpstream(echo) as peer, Engine(outbound=LOOPBACK) as engine:
            async with await RawClient.open(engine.port("outbound")) as client:
                target = b"127.0.0.1:%d" % peer.port
                await client.send(b"CONNECT " + target + b" HTTP/1.1\r\nHost: " + target + b"\r\n\r\n")
                head = await client.read_response(to="CONNECT")
                assert head.status == 200
                for name in ("content-length", "transfer-encoding", "connection"):
                    assert head.get(name) is None, "RFC 9110 9.3.6: a 2xx to CONNECT has no framing"
                await client.send(b"hello")
                assert await client.read_exactly(5) == b"HELLO"
            assert (await engine.seen.last()).tunnel == "connect"

    uvloop.run(main())


def test_bytes_behind_a_connect_wait_until_it_has_succeeded():
    async def main() -> None:
        async with ScriptedUpstream(echo) as peer, Engine(outbound=LOOPBACK) as engine:
            async with await RawClient.open(engine.port("outbound")) as client:
                target = b"127.0.0.1:%d" % peer.port
                await client.send(b"CONNECT " + target + b" HTTP/1.1\r\nHost: " + target + b"\r\n\r\nearly")
                assert (await client.read_response(to="CONNECT")).status == 200
                assert await client.read_exactly(5) == b"EARLY"

    uvloop.run(main())


@pytest.mark.parametrize(
    ("listener", "target", "status", "why"),
    [
        ("inbound", b"127.0.0.1:%d", 405, "product.md 3.9: not on a Reverse listener"),
        ("outbound", b"10.1.2.3:443", 403, "product.md 3.1: not in allow"),
        ("outbound", b"127.0.0.1:1", 502, "RFC 9110 9.3.6: nobody listens there"),
    ],
)
def test_a_connect_that_is_refused_ends_the_connection_and_nothing_behind_it_is_parsed(listener, target, status, why):
    async def main() -> None:
        async with ScriptedUpstream(answer(OK)) as peer, Engine(upstream(peer.port), outbound=LOOPBACK) as engine:
            to = target % peer.port if b"%" in target else target
            for pieces in ([SMUGGLED], [SMUGGLED[:9], SMUGGLED[9:]]):
                heard = await talk(
                    engine.port(listener), b"CONNECT " + to + b" HTTP/1.1\r\nHost: " + to + b"\r\n\r\n" + pieces[0], *pieces[1:]
                )
                assert heard.statuses == [status], why
                assert b"\r\nConnection: close\r\n" in heard.data
            await turns()
            assert peer.requests == []

    uvloop.run(main())


def test_a_forward_listener_takes_absolute_form_for_allowed_destinations_only():
    async def main() -> None:
        async with ScriptedUpstream(answer(OK)) as peer, Engine(outbound=LOOPBACK) as engine:
            here = b"127.0.0.1:%d" % peer.port
            heard = await talk(
                engine.port("outbound"),
                b"GET http://" + here + b"/x HTTP/1.1\r\nHost: ignored\r\nProxy-Connection: keep-alive\r\n\r\n"
                b"GET http://10.1.2.3/ HTTP/1.1\r\nHost: a\r\n\r\n" + LAST,
            )
            assert heard.statuses == [200, 403, 404]
            assert [(one.start, one.get("host")) for one in peer.requests] == [(b"GET /x HTTP/1.1", here.decode())]

    uvloop.run(main())
