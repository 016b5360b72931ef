"""Upgrades and CONNECT: from the 101 on the connection is the caller's, whatever client asked for it."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from contract_kit import HTTP2, Kind, caller_to, calling, every_kind, over_http1, read, tls_server, until, within
from contract_peers import Http1Peer, Script, Served

from sidecar.errors import UpstreamError
from sidecar.model.reason import Clock, Phase, Reason
from sidecar.model.snapshot import Timeouts

FIELDS = [(b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="), (b"Sec-WebSocket-Extensions", b"permessage-deflate")]
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n"


@over_http1
def test_after_a_101_the_bytes_are_the_callers_those_that_came_with_it_too(kind: Kind) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            assert [value for name, value in served.fields if name.lower() in (b"upgrade", b"connection")] == [b"Upgrade", b"websocket"]
            await served.raw(SWITCHED + b"early")
            while data := await served.transport_bytes():
                await served.raw(data.upper())
            await served.close()

        async with calling(kind, script) as (caller, _):
            response = await within(caller.send(b"GET", b"/chat", FIELDS, upgrade=b"websocket"))
            assert (response.head.status, response.head.upgrade.lower()) == (101, b"websocket")
            stream = response.tunnel()
            assert await within(stream.read()) == b"early"
            for data in (b"one", b"two" * 1000):
                await within(stream.write(data))
                got = b""
                while len(got) < len(data):
                    got += await within(stream.read())
                assert got == data.upper()
            stream.write_eof()
            assert await within(stream.read()) == b""
            stream.close()
            response.release()
            await until(lambda: caller.counts.open == 0, "the connection is gone")

    uvloop.run(main())


@over_http1
def test_an_upgrade_that_is_refused_is_a_response_like_any_other(kind: Kind) -> None:
    async def main() -> None:
        async with calling(kind, lambda served: served.answer(403, (), b"no")) as (caller, peer):
            for _ in range(2):
                response = await within(caller.send(b"GET", b"/chat", FIELDS, upgrade=b"websocket"))
                answer = await within(read(response))
                assert (answer.status, answer.body) == (403, b"no")
            assert peer.connections == 1

    uvloop.run(main())


@over_http1
def test_an_upgrade_runs_on_its_own_clock(kind: Kind) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def script(served: Served) -> None:
            await go.wait()
            await served.answer(403)

        async with calling(kind, script) as (caller, _):
            asking = asyncio.ensure_future(caller.ask(b"GET", b"/", FIELDS, upgrade=b"websocket", timeouts=Timeouts(upgrade_handshake=77)))
            await until(lambda: caller.attempt.phase is Phase.HEADERS, "the request has gone out")
            assert caller.deadlines.phase_clock is Clock.UPGRADE_HANDSHAKE
            go.set()
            await asking

    uvloop.run(main())


@over_http1
def test_an_upgrade_to_something_else_is_an_error(kind: Kind) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            await served.raw(SWITCHED.replace(b"websocket", b"h2c"))
            await served.transport_bytes()

        async with calling(kind, script) as (caller, _):
            with pytest.raises(UpstreamError) as caught:
                await caller.ask(b"GET", b"/", FIELDS, upgrade=b"websocket")
            assert caught.value.reason is Reason.HTTP_UPGRADE_FAILED

    uvloop.run(main())


H2C, HTTP2_TLS = HTTP2


def test_over_h2c_an_upgrade_fails_before_anything_is_sent_and_says_what_to_write() -> None:
    """RFC 9113 section 8.6 has no Upgrade; RFC 8441 is not spoken."""

    async def main() -> None:
        async with calling(H2C, lambda served: served.answer()) as (caller, peer):
            with pytest.raises(UpstreamError) as caught:
                await caller.ask(b"GET", b"/", FIELDS, upgrade=b"websocket")
            assert (caught.value.reason, caught.value.status) == (Reason.HTTP_UPGRADE_FAILED, 502)
            assert "write protocol: HTTP1" in caught.value.detail
            assert not peer.served
            assert not peer.connections

    uvloop.run(main())


async def shout(served: Served) -> None:
    """Switches protocols, and gives back what comes in upper case."""
    await served.raw(SWITCHED)
    while data := await served.transport_bytes():
        await served.raw(data.upper())
    await served.close()


def speaking(script: Script, *versions: str) -> Http1Peer:
    """A server of HTTP/1.1 over TLS that agrees to these by ALPN, in this order."""
    context = tls_server(HTTP2_TLS)
    context.set_alpn_protocols(list(versions))
    return Http1Peer(script, ssl=context)


def test_an_upgrade_to_an_http2_upstream_asks_for_http1_by_alpn_and_is_a_tunnel() -> None:
    async def main() -> None:
        async with calling(HTTP2_TLS, speaking(shout, "h2", "http/1.1")) as (caller, peer):
            response = await within(caller.send(b"GET", b"/chat", FIELDS, upgrade=b"websocket"))
            assert (response.head.status, response.head.upgrade.lower()) == (101, b"websocket")
            assert peer.served[0].transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
            assert caller.counts[:2] == (1, 1)
            stream = response.tunnel()
            await within(stream.write(b"hello"))
            assert await within(stream.read()) == b"HELLO"
            stream.close()
            response.release()

    uvloop.run(main())


def test_upgrades_have_the_limits_of_the_pool_for_themselves_and_hold_up_no_stream() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def slow(served: Served) -> None:
            await go.wait()
            await served.answer(403, (), b"no")

        async with calling(HTTP2_TLS, speaking(slow, "h2", "http/1.1"), max_connections=1, max_pending_requests=1) as (caller, peer):
            asking = [asyncio.ensure_future(caller.ask(b"GET", b"/", FIELDS, upgrade=b"websocket")) for _ in range(2)]
            await until(lambda: caller.counts.pending == 1, "one waits for the other's connection")
            with pytest.raises(UpstreamError) as caught:
                await caller.ask(b"GET", b"/", FIELDS, upgrade=b"websocket")
            assert caught.value.reason is Reason.OVERLOADED
            go.set()
            assert [answer.status for answer in await asyncio.gather(*asking)] == [403, 403]
            assert peer.connections == 1
            await until(lambda: caller.counts.idle == 1, "a refused upgrade leaves its connection for the next one")
            caller.transport.renew()
            await until(lambda: caller.counts.open == 0, "what was secured with what is no longer current goes")

    uvloop.run(main())


def test_an_upgrade_to_a_server_that_speaks_http2_alone_says_that_http1_was_asked_for() -> None:
    async def main() -> None:
        async with calling(HTTP2_TLS, lambda served: served.answer()) as (caller, peer):
            with pytest.raises(UpstreamError) as caught:
                await caller.ask(b"GET", b"/", FIELDS, upgrade=b"websocket")
            assert caught.value.detail.endswith("; for an upgrade, HTTP/1.1 was asked for")
            assert not peer.served
            peer.errors.clear()  # that was no preface of HTTP/2

    uvloop.run(main())


@every_kind
def test_connect_gives_a_connection_of_its_own(kind: Kind) -> None:
    async def main() -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1000):
                writer.write(data.upper())
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=tls_server(kind) if kind.tls else None)
        caller = caller_to(kind, server.sockets[0].getsockname()[1])
        stream = await within(caller.transport.connect(caller.endpoint, caller.attempt, caller.deadlines))
        await within(stream.write(b"opaque"))
        assert await within(stream.read()) == b"OPAQUE"
        assert caller.counts[:3] == (0, 0, 0)
        stream.write_eof()
        assert await within(stream.read()) == b""
        stream.close()
        await caller.transport.aclose()
        server.close()
        await asyncio.sleep(0.02)

    uvloop.run(main())
