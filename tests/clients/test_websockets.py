"""WebSockets by the `websockets` library, client and server, through the Reverse listener."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import pytest
import uvloop
from support import RawClient
from support.engine import Engine, upstream
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from sidecar.model.reason import Reason
from sidecar.model.snapshot import AllowEntry, Client

MIB = 1024 * 1024
CHOSEN = [Client.NATIVE]
"""Who asks the upstream for the upgrade."""
LOOPBACK = {"allow": (AllowEntry(host=None, network=ip_network("127.0.0.0/8"), ports=None),)}


@pytest.fixture(autouse=True, params=list(Client), ids=lambda client: client.value)
def client(request: pytest.FixtureRequest) -> None:
    """Every test here, for every client."""
    CHOSEN[0] = request.param


async def echo(socket: ServerConnection) -> None:
    try:
        async for message in socket:
            if message == "close":
                await socket.close(4321, "as you wish")
            elif message == "die":
                socket.transport.abort()
            else:
                await socket.send(message)
    except ConnectionClosed:
        return


@asynccontextmanager
async def playing(**server_options: Any) -> AsyncIterator[tuple[Engine, str]]:
    async with serve(echo, "127.0.0.1", 0, max_size=8 * MIB, **server_options) as server:
        port = server.sockets[0].getsockname()[1]
        async with Engine(upstream(port, client=CHOSEN[0]), outbound=LOOPBACK) as engine:
            yield engine, f"ws://127.0.0.1:{engine.port()}/chat?room=1"


def options(**more: Any) -> dict[str, Any]:
    return {"proxy": None, "max_size": 8 * MIB, "close_timeout": 2, **more}


@pytest.mark.parametrize("compression", ["deflate", None])
def test_messages_of_every_size_come_back(compression: str | None) -> None:
    """With permessage-deflate and without; text, binary, a mebibyte that compresses and one that does not."""

    async def main() -> None:
        async with playing(compression=compression) as (engine, url):
            async with connect(url, **options(compression=compression)) as socket:
                extensions = [extension.name for extension in socket.protocol.extensions]
                assert extensions == (["permessage-deflate"] if compression else [])
                messages: list[str | bytes] = [
                    "",
                    "grüße",
                    b"\0\1\2",
                    b"a" * MIB,
                    random.Random(7).randbytes(MIB),
                    os.urandom(125),
                    os.urandom(126),
                    os.urandom(70_000),
                ]
                for message in messages:
                    await socket.send(message)
                    assert await socket.recv() == message
            exchange = await engine.seen.last()
            assert (exchange.tunnel, exchange.status, exchange.reason) == ("websocket", 101, None)

    uvloop.run(main())


def test_mebibytes_cross_in_both_directions_at_once() -> None:
    async def main() -> None:
        async with playing() as (_, url), connect(url, **options(compression=None)) as socket:
            messages = [random.Random(number).randbytes(MIB) for number in range(8)]

            async def send() -> None:
                for message in messages:
                    await socket.send(message)

            async with asyncio.TaskGroup() as group:
                group.create_task(send())
                assert [await socket.recv() for _ in messages] == messages

    uvloop.run(main())


def test_the_subprotocol_is_agreed_by_the_ends() -> None:
    async def main() -> None:
        async with playing(subprotocols=["chat.v2", "chat.v1"]) as (_, url):
            async with connect(url, **options(subprotocols=["chat.v1", "other"])) as socket:
                assert socket.subprotocol == "chat.v1"

    uvloop.run(main())


def test_pings_are_answered_and_close_codes_pass() -> None:
    async def main() -> None:
        async with playing() as (_, url):
            async with connect(url, **options()) as socket:
                await asyncio.wait_for(await socket.ping(b"there?"), 30)
                await socket.send("close")
                with pytest.raises(ConnectionClosedError) as caught:
                    await socket.recv()
                assert caught.value.rcvd is not None
                assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4321, "as you wish")

    uvloop.run(main())


def test_a_close_by_the_client_passes_too() -> None:
    codes: list[int | None] = []

    async def handler(socket: ServerConnection) -> None:
        await socket.wait_closed()
        codes.append(socket.close_code)

    async def main() -> None:
        async with serve(handler, "127.0.0.1", 0) as server:
            async with Engine(upstream(server.sockets[0].getsockname()[1])) as engine:
                async with connect(f"ws://127.0.0.1:{engine.port()}/", **options()) as socket:
                    await socket.close(4001, "done")
                await engine.seen.last()

    uvloop.run(main())
    assert codes == [4001]


def test_a_server_that_vanishes_is_an_abnormal_close() -> None:
    async def main() -> None:
        async with playing() as (_, url):
            async with connect(url, **options()) as socket:
                await socket.send("die")
                with pytest.raises(ConnectionClosedError) as caught:
                    await socket.recv()
                assert caught.value.rcvd is None

    uvloop.run(main())


def test_a_refused_handshake_is_an_ordinary_answer() -> None:
    async def main() -> None:
        async with playing(process_request=lambda connection, _: connection.respond(403, "no\n")) as (engine, url):
            with pytest.raises(InvalidStatus) as caught:
                async with connect(url, **options()):
                    pytest.fail("connected")
            assert caught.value.response.status_code == 403
            assert (await engine.seen.last()).tunnel == ""

    uvloop.run(main())


def test_a_websocket_goes_through_connect() -> None:
    async def main() -> None:
        async with playing() as (engine, _):
            target = engine._upstreams[0].targets[0].port
            async with connect(f"ws://127.0.0.1:{target}/", **options(proxy=f"http://127.0.0.1:{engine.port('outbound')}")) as socket:
                await socket.send("hello")
                assert await socket.recv() == "hello"
            exchange = await engine.seen.last()
            assert (exchange.tunnel, exchange.reason) == ("connect", None)

    uvloop.run(main())


def test_many_websockets_live_beside_plain_requests() -> None:
    async def main() -> None:
        async with playing() as (engine, url):
            sockets = [await connect(url, **options()) for _ in range(30)]
            async with await RawClient.open(engine.port()) as client:
                for number in range(30):
                    await sockets[number].send(f"m{number}")
                    assert (await client.request()).status == 426
            assert [await socket.recv() for socket in sockets] == [f"m{number}" for number in range(30)]
            await asyncio.gather(*(socket.close() for socket in sockets))
            tunnels = [exchange for exchange in (engine.seen.finished) if exchange.tunnel]
            await engine.seen.last(60)
            assert all(exchange.reason in (None, Reason.CLIENT_CLOSED) for exchange in tunnels)

    uvloop.run(main())
