"""A client that leaves at the end of its response, whoever carried it: had it everything, or not?"""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from contract_kit import until
from contract_peers import Http1Peer, Http2Peer, Served
from support import RawClient
from support.engine import Engine, upstream

from sidecar.model.exchange import State
from sidecar.model.reason import Reason
from sidecar.model.snapshot import Client, HttpProtocol

BODY = b"x" * 1000


@pytest.mark.parametrize(
    ("method", "sent", "reason"),
    [("GET", BODY, None), ("GET", BODY[:-1], Reason.CLIENT_CLOSED), ("GET", b"", Reason.CLIENT_CLOSED), ("HEAD", b"", None)],
)
def test_who_leaves_with_all_of_its_content_length_was_served_and_who_leaves_before_was_not(
    method: str, sent: bytes, reason: Reason | None
) -> None:
    """Over HTTP/2 the end of a stream is a frame behind the body, which may come when the client has left, or never."""

    async def main() -> None:
        go = asyncio.Event()

        async def script(served: Served) -> None:
            await served.start(200, (), len(BODY))
            if sent:
                await served.send(sent)
            await go.wait()

        async with Http2Peer(script) as peer, Engine(upstream(peer.port, client=Client.HTTPX, protocol=HttpProtocol.H2C)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                await client.read_head()
                assert await client.read_exactly(len(sent)) == sent
            exchange = await engine.seen.last()
            assert (exchange.status, exchange.reason, exchange.bytes_out) == (200, reason, len(sent))
            assert exchange.state is (State.DONE if reason is None else State.ABORTED)
            assert [attempt.outcome for attempt in exchange.attempts] == ["success" if reason is None else "client_closed"]
            await until(lambda: not engine.registry.get("app").transport.counts().active, "the stream is given up")
            go.set()

    uvloop.run(main())


def test_who_leaves_a_response_of_unknown_length_before_its_end_was_not_served() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def script(served: Served) -> None:
            await served.start(200)
            await served.send(BODY)
            await go.wait()

        async with Http2Peer(script) as peer, Engine(upstream(peer.port, client=Client.HTTPX, protocol=HttpProtocol.H2C)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await client.read_until(BODY)
            assert (await engine.seen.last()).reason is Reason.CLIENT_CLOSED
            go.set()

    uvloop.run(main())


@pytest.mark.parametrize(
    ("client", "protocol"),
    [(client, HttpProtocol.HTTP1) for client in Client] + [(Client.HTTPX, HttpProtocol.H2C)],
    ids=lambda value: str(value.value),
)
def test_a_slow_client_that_leaves_with_the_last_byte_was_served(client: Client, protocol: HttpProtocol) -> None:
    """Far more than the sockets hold, so that the end of it waits for the client, who is gone as soon as it has it."""
    large = bytes(range(256)) * 16 * 1024

    async def main() -> None:
        peer = (Http1Peer if protocol is HttpProtocol.HTTP1 else Http2Peer)(lambda served: served.answer(200, (), large))
        async with peer, Engine(upstream(peer.port, client=client, protocol=protocol)) as engine:
            for count in range(1, 4):
                async with await RawClient.open(engine.port(), timeout=60) as asking:
                    await asking.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    await asking.read_head()
                    left = len(large)
                    while left:
                        left -= len(await asking.read_some(min(left, 64 * 1024)))
                        await asyncio.sleep(0.001)
                exchange = await engine.seen.last(count)
                assert (exchange.status, exchange.reason, exchange.bytes_out) == (200, None, len(large))

    uvloop.run(main())
