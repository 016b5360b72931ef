"""Tunnels: bytes both ways, each direction to its own end, whatever else goes on."""

from __future__ import annotations

import asyncio
import random
import ssl
from ipaddress import ip_network

import pytest
import uvloop
from faults.cells import AFTER_THE_HEAD
from faults.rig import BOUND, Rig, assert_clean, read_on, until
from support import RawClient, ScriptedUpstream, response
from support.engine import Engine, upstream
from support.ports import closed_port
from support.upstream import Connection

from sidecar.model.exchange import State
from sidecar.model.reason import Clock, Reason
from sidecar.model.snapshot import AllowEntry, Backend, Match, PathMatch, Route, Timeouts

MIB = 1024 * 1024
UPGRADE = b"GET /%b HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: %b\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: %b\r\n\r\n"
LOOPBACK = {"allow": (AllowEntry(host=None, network=ip_network("127.0.0.0/8"), ports=None),)}


async def echoes(connection: Connection) -> None:
    """Switches, then echoes until FIN, then says goodbye and sends FIN itself."""
    head = await connection.read_head()
    await connection.send(SWITCHING % (head.get("upgrade") or "").encode())
    await plain_echo(connection)


async def plain_echo(connection: Connection) -> None:
    while data := await connection.read_some():
        await connection.send(data)
    await connection.send(b"bye")


async def switch(client: RawClient, token: bytes = b"websocket", path: bytes = b"") -> None:
    await client.send(UPGRADE % (path, token))
    head = await client.read_head()
    assert head.start.split(b" ")[1] == b"101", head
    assert (head.get("upgrade") or "").encode() == token


async def connect(client: RawClient, port: int) -> None:
    await client.send(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % (port, port))
    head = await client.read_head()
    assert head.start.split(b" ")[1] == b"200", head
    assert head.get("content-length") is None
    assert head.get("transfer-encoding") is None


@pytest.mark.parametrize("kind", ["upgrade", "connect"])
def test_each_direction_of_a_tunnel_ends_by_itself(kind: str) -> None:
    """The client sends FIN first and still gets what the server says afterwards."""

    async def main() -> None:
        script = echoes if kind == "upgrade" else plain_echo
        async with ScriptedUpstream(script) as server, Engine(upstream(server.port), outbound=LOOPBACK) as engine:
            async with await RawClient.open(engine.port("inbound" if kind == "upgrade" else "outbound")) as client:
                await (switch(client) if kind == "upgrade" else connect(client, server.port))
                await client.send(b"hello")
                assert await client.read_exactly(5) == b"hello"
                client.half_close()
                assert await client.read_until_close() == b"bye"
            exchange = await engine.seen.last()
            assert (exchange.state, exchange.reason, exchange.bytes_in, exchange.bytes_out) == (State.DONE, None, 5, 8)
            assert exchange.tunnel == ("websocket" if kind == "upgrade" else "connect")
            await assert_clean(engine)

    uvloop.run(main())


def test_the_server_may_end_its_direction_first() -> None:
    async def script(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(SWITCHING % b"raw" + b"all I have to say")
        connection.half_close()
        assert await connection.read_until_close() == b"still here"

    async def main() -> None:
        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await switch(client, b"raw")
                assert await client.read_until_close() == b"all I have to say"
                await client.send(b"still ")
                await client.send(b"here")
                client.half_close()
                await asyncio.wait_for((await server.connection(0)).ended.wait(), BOUND)
            assert (await engine.seen.last()).tunnel == "upgrade"
            await assert_clean(engine)

    uvloop.run(main())


def test_bytes_sent_before_the_switch_belong_to_the_tunnel() -> None:
    async def main() -> None:
        async with ScriptedUpstream(echoes) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(UPGRADE % (b"", b"websocket") + b"early")
                await client.read_head()
                assert await client.read_exactly(5) == b"early"
            await assert_clean(engine)

    uvloop.run(main())


def test_megabytes_cross_in_a_tunnel_both_ways_at_once() -> None:
    data = random.Random(3).randbytes(8 * MIB)

    async def main() -> None:
        async with ScriptedUpstream(echoes) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await switch(client)
                _, got = await asyncio.gather(client.send(data), client.read_exactly(len(data)))
                assert got == data
            await assert_clean(engine)

    uvloop.run(main())


@pytest.mark.parametrize("cause", ["reset", "clock", "shutdown"])
@pytest.mark.parametrize("busy", [False, True])
def test_a_tunnel_that_is_cut_leaves_nothing(cause: str, busy: bool) -> None:
    """`busy`: bytes are under way that the upstream does not take."""

    async def script(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(SWITCHING % b"websocket")
        if busy:
            connection._writer.transport.pause_reading()
            await until(lambda: getattr(connection, "go", False))
            connection._writer.transport.resume_reading()
        await read_on(connection)

    async def main() -> None:
        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                rig = Rig(engine, server, client)
                await switch(client)
                if busy:
                    client._writer.write(b"x" * 32 * MIB)
                    await until(lambda: not rig.connection.reading)
                exchange = rig.exchange
                if cause == "clock":
                    rig.flight.deadlines.idle = 0.001
                    engine.timekeeper._sweep_tunnels()
                elif cause == "reset":
                    client.reset()
                else:
                    rig.connection.task.cancel()
                await until(lambda: exchange in engine.seen.finished, cause)
                expected = {
                    "reset": (State.DONE, None),
                    "clock": (State.ABORTED, Reason.STREAM_IDLE_TIMEOUT),
                    "shutdown": (State.ABORTED, Reason.DRAINING),
                }
                assert (exchange.state, exchange.reason) == expected[cause]
                server.connections[0].go = True  # type: ignore[attr-defined]
                await asyncio.wait_for(server.connections[0].ended.wait(), BOUND)
            await assert_clean(engine)

    uvloop.run(main())


def test_a_tunnel_outlives_the_other_clocks_and_other_traffic() -> None:
    async def script(connection: Connection) -> None:
        request = await connection.read_request()
        if request.get("upgrade"):
            await connection.send(SWITCHING % b"websocket")
            await plain_echo(connection)
        while True:
            await connection.send(response(body=b"x" * 1000))
            await connection.read_request()

    async def main() -> None:
        timeouts = Timeouts(request=0.8, backend_request=0.8, stream_idle=0.8, upgrade_handshake=0.8)
        async with ScriptedUpstream(script) as server, Engine(upstream(server.port), route={"timeouts": timeouts}) as engine:
            async with await RawClient.open(engine.port()) as client, await RawClient.open(engine.port()) as other:
                await switch(client)
                for _ in range(100):  # longer than each of them
                    assert (await other.request()).status == 200
                    await asyncio.sleep(0.01)
                await client.send(b"alive")
                assert await client.read_exactly(5) == b"alive"
            await assert_clean(engine)

    uvloop.run(main())


def test_the_shortest_tunnel_idle_fires_first() -> None:
    """A tunnel that may idle for an hour does not keep another, younger one alive."""
    routes = [
        Route(
            name=name,
            index=index,
            matches=(Match(path=PathMatch(value=f"/{name}")),),
            backends=(Backend(name="app"),),
            timeouts=Timeouts(tunnel_idle=idle),
        )
        for index, (name, idle) in enumerate({"long": 3600.0, "short": AFTER_THE_HEAD}.items())
    ]

    async def main() -> None:
        async with ScriptedUpstream(echoes) as server, Engine(upstream(server.port), routes=routes) as engine:
            async with await RawClient.open(engine.port()) as long, await RawClient.open(engine.port()) as short:
                await switch(long, path=b"long")
                await switch(short, path=b"short")
                with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                    await short.read_exactly(1)
                assert (await engine.seen.last()).clock is Clock.TUNNEL_IDLE
                await long.send(b"alive")
                assert await long.read_exactly(5) == b"alive"
            await assert_clean(engine)

    uvloop.run(main())


def test_a_connect_to_what_is_not_allowed_is_403() -> None:
    async def main() -> None:
        async with Engine() as engine:
            async with await RawClient.open(engine.port("outbound")) as client:
                await client.send(b"CONNECT 127.0.0.1:443 HTTP/1.1\r\nHost: 127.0.0.1:443\r\n\r\n")
                assert (await client.read_response()).status == 403
            await assert_clean(engine)

    uvloop.run(main())


def test_tls_goes_through_a_connect_tunnel_untouched() -> None:
    """A ClientHello reaches the destination byte for byte."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="a.test")
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    hello = outgoing.read()
    got: list[bytes] = []

    async def script(connection: Connection) -> None:
        got.append(await connection.read_exactly(len(hello)))

    async def main() -> None:
        async with ScriptedUpstream(script) as server, Engine(outbound=LOOPBACK) as engine:
            async with await RawClient.open(engine.port("outbound")) as client:
                await connect(client, server.port)
                await client.send(hello)
                assert await client.read_until_close() == b""
                client.half_close()
                await engine.seen.last()
            await assert_clean(engine)

    uvloop.run(main())
    assert got == [hello]


def test_a_refused_connect_is_502() -> None:
    async def main() -> None:
        async with Engine(outbound=LOOPBACK) as engine:
            async with await RawClient.open(engine.port("outbound")) as client:
                with closed_port() as port:
                    await client.send(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: a\r\n\r\n" % port)
                    answer = await client.read_response()
                assert answer.status == 502
                assert b"connection_refused" in answer.body
            await assert_clean(engine)

    uvloop.run(main())
