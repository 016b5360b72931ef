"""What goes wrong has the same reason and phase whatever client it goes wrong in."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import uvloop
from contract_kit import Kind, Source, caller_to, calling, every_kind, over_http1, settled, until, within
from contract_peers import Served
from support.black_hole import black_hole
from support.ports import closed_port

from sidecar.errors import PeerGone, ProxyError, StaleConnection, UpstreamError
from sidecar.model.reason import Clock, Phase, Reason
from sidecar.model.snapshot import Timeouts


@every_kind
def test_a_port_where_nobody_listens_refuses(kind: Kind) -> None:
    async def main() -> None:
        with closed_port() as port:
            caller = caller_to(kind, port)
            with pytest.raises(UpstreamError) as caught:
                await caller.ask()
            assert (caught.value.reason, caught.value.phase) == (Reason.CONNECTION_REFUSED, Phase.CONNECT)
            assert set(caller.observer.connects) == {"connection_refused"}
            await settled(caller)
            await caller.transport.aclose()

    uvloop.run(main())


async def fails(
    kind: Kind, script, reason: Reason, phase: Phase, *, body: Source | None = None, exact: type | None = UpstreamError
) -> None:
    """An exchange fails in this way, and the next one is well."""
    calm = False

    async def play(served: Served) -> None:
        await (served.answer(200, (), b"well") if calm else script(served))

    async with calling(kind, play) as (caller, peer):
        with pytest.raises(UpstreamError) as caught:
            await caller.ask(b"POST" if body else b"GET", b"/", (), body)
        assert (caught.value.reason, caught.value.phase) == (reason, phase), caught.value
        assert exact is None or type(caught.value) is exact
        assert len(peer.served) == 1, "it was sent once"
        await settled(caller)
        calm = True
        assert (await caller.ask()).body == b"well"


async def vanish(served: Served) -> None:
    served.vanish()


async def close(served: Served) -> None:
    await served.close()


@every_kind
@pytest.mark.parametrize("end", [vanish, close])
def test_a_connection_that_ends_instead_of_an_answer_is_terminated(kind: Kind, end) -> None:
    uvloop.run(fails(kind, end, Reason.CONNECTION_TERMINATED, Phase.HEADERS))


@every_kind
@pytest.mark.parametrize("end", [vanish, close])
def test_a_connection_that_ends_inside_the_upload_is_terminated(kind: Kind, end) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            await served.some()
            await end(served)

        source = Source(b"x" * 1000, length=2_000_000, open_end=True)
        await fails(kind, script, Reason.CONNECTION_TERMINATED, Phase.HEADERS, body=source)

    uvloop.run(main())


@over_http1
def test_a_head_that_breaks_off_is_incomplete(kind: Kind) -> None:
    async def script(served: Served) -> None:
        await served.raw(b"HTTP/1.1 200 OK\r\nContent-Le")
        await served.close()

    uvloop.run(fails(kind, script, Reason.HTTP_RESPONSE_INCOMPLETE, Phase.HEADERS))


@every_kind
@pytest.mark.parametrize("end", [vanish, close])
def test_an_answer_that_ends_after_an_interim_response_is_incomplete(kind: Kind, end) -> None:
    async def script(served: Served) -> None:
        await served.interim(103)
        await asyncio.sleep(0.05)
        await end(served)

    uvloop.run(fails(kind, script, Reason.HTTP_RESPONSE_INCOMPLETE, Phase.HEADERS))


@every_kind
@pytest.mark.parametrize("length", [100, None])
@pytest.mark.parametrize("end", [vanish, close])
def test_a_body_that_breaks_off_is_incomplete(kind: Kind, length: int | None, end) -> None:
    async def script(served: Served) -> None:
        await served.start(200, (), length)
        await served.send(b"some")
        await asyncio.sleep(0.05)
        await end(served)

    uvloop.run(fails(kind, script, Reason.HTTP_RESPONSE_INCOMPLETE, Phase.BODY))


@every_kind
def test_an_exchange_that_is_reset_inside_its_body_is_incomplete(kind: Kind) -> None:
    async def script(served: Served) -> None:
        await served.start(200, (), 100)
        await served.send(b"some")
        await asyncio.sleep(0.05)
        served.reset()

    uvloop.run(fails(kind, script, Reason.HTTP_RESPONSE_INCOMPLETE, Phase.BODY))


GARBAGE = [
    b"garbage\r\n\r\n",
    b"\x00\x01\x02\x03",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/1.1 099 OK\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: z=1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\x01b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
]


@over_http1
@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_what_is_not_a_response_is_a_protocol_error(kind: Kind, garbage: bytes) -> None:
    async def script(served: Served) -> None:
        await served.raw(garbage)
        await served.some()
        await asyncio.sleep(30)

    uvloop.run(fails(kind, script, Reason.HTTP_PROTOCOL_ERROR, Phase.HEADERS))


@over_http1
@pytest.mark.parametrize(
    "garbage", [b"ZZ\r\n", b"5\nhello", b"-1\r\n", b"5\r\nhelloX\r\n", b"5;" + b"x" * 100_000, b"fffffffffffffffff\r\n"]
)
def test_chunks_that_are_none_are_a_protocol_error(kind: Kind, garbage: bytes) -> None:
    async def script(served: Served) -> None:
        await served.start(200)
        await served.send(b"good")
        await served.raw(garbage)
        await asyncio.sleep(30)

    uvloop.run(fails(kind, script, Reason.HTTP_PROTOCOL_ERROR, Phase.BODY))


@over_http1
@pytest.mark.parametrize("head", [b"X: " + b"y" * 70_000 + b"\r\n", b"".join(b"X%d: 1\r\n" % number for number in range(300))])
def test_a_head_that_is_too_large_has_its_own_reason(kind: Kind, head: bytes) -> None:
    async def script(served: Served) -> None:
        await served.raw(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        await asyncio.sleep(30)

    uvloop.run(fails(kind, script, Reason.HTTP_RESPONSE_HEADER_SECTION_SIZE, Phase.HEADERS))


@over_http1
def test_a_head_that_is_just_not_too_large_comes_back(kind: Kind) -> None:
    async def main() -> None:
        fields = [(b"X-Long", b"y" * 60_000)] + [(b"X-%d" % number, b"1") for number in range(250)]

        async with calling(kind, lambda served: served.answer(200, fields, b"well")) as (caller, _):
            assert (await caller.ask()).fields[:-1] == fields

    uvloop.run(main())


@over_http1
@pytest.mark.parametrize("token", [b"", b"websocket"])
def test_a_101_that_nobody_asked_for_is_an_upgrade_that_failed(kind: Kind, token: bytes) -> None:
    async def script(served: Served) -> None:
        upgrade = b"Connection: upgrade\r\nUpgrade: %s\r\n" % token if token else b""
        await served.raw(b"HTTP/1.1 101 Switching Protocols\r\n" + upgrade + b"\r\n")
        await asyncio.sleep(30)

    uvloop.run(fails(kind, script, Reason.HTTP_UPGRADE_FAILED, Phase.HEADERS))


@every_kind
@pytest.mark.parametrize("end", [vanish, close])
def test_a_reused_connection_that_dies_without_a_byte_is_stale(kind: Kind, end) -> None:
    """It is not sent again below us: not even a GET."""

    async def main() -> None:
        asked = 0

        async def script(served: Served) -> None:
            nonlocal asked
            asked += 1
            if asked == 2:
                await end(served)
            await served.answer(200, (), b"well")

        async with calling(kind, script) as (caller, peer):
            await caller.ask()
            with pytest.raises(StaleConnection) as caught:
                await caller.ask()
            assert (caught.value.reason, caught.value.phase) == (Reason.CONNECTION_TERMINATED, Phase.HEADERS)
            assert caller.attempt.reused
            assert len(peer.served) == 2
            assert (await caller.ask()).body == b"well"
            assert not caller.attempt.reused
            assert peer.connections == 2

    uvloop.run(main())


@every_kind
@pytest.mark.parametrize("error", [PeerGone("gone"), ProxyError(Reason.HTTP_REQUEST_ERROR, "malformed")])
@pytest.mark.parametrize("when", ["at once", "before the head", "after the head"])
def test_what_stops_the_upload_ends_the_exchange_as_it_is(kind: Kind, error: Exception, when: str) -> None:
    """Never a clean end of the body: the server must not take the part for the whole."""

    async def main() -> None:
        whole: list[bytes] = []

        async def script(served: Served) -> None:
            if served.target == b"/next":
                return await served.answer()
            if when == "after the head":
                await served.start(200)
                await served.send(b"some")
            whole.append(await served.body())
            return None

        async with calling(kind, script) as (caller, peer):
            source = Source(b"part", length=1000, open_end=True)
            if when == "at once":
                source.fail(error)
            sending = asyncio.ensure_future(caller.send(b"POST", b"/", (), source))
            if when != "at once":
                await until(lambda: peer.served, "the head has gone out")
            if when == "after the head":
                response = await within(sending)
                assert await within(response.body.read()) == b"some"
                source.fail(error)
                with pytest.raises(type(error)):
                    await within(response.body.read())
                response.abort()
            else:
                source.fail(error)
                with pytest.raises(type(error)) as caught:
                    await within(sending)
                assert caught.value is error
            await settled(caller)
            await caller.ask(b"GET", b"/next")
            assert not whole

    uvloop.run(main())


@every_kind
def test_each_phase_has_its_clock(kind: Kind) -> None:
    async def main() -> None:
        clocks = Timeouts(response_header=33.0, queue=44.0)
        reached = asyncio.Event()

        async def script(served: Served) -> None:
            await served.body()
            reached.set()
            await asyncio.sleep(0.2)
            await served.answer()

        async with calling(kind, script) as (caller, _):
            source = Source(b"x", length=2, open_end=True)
            asking = asyncio.ensure_future(caller.ask(b"POST", b"/", (), source, timeouts=clocks))
            await until(lambda: source.taken, "the upload has begun")
            await asyncio.sleep(0.05)
            assert (caller.attempt.phase, caller.attempt.sent_at) == (Phase.SEND, 0.0)
            source.add(b"y")
            source.finish()
            await within(reached.wait())
            deadlines, attempt = caller.deadlines, caller.attempt
            assert (attempt.phase, deadlines.phase_clock) == (Phase.HEADERS, Clock.RESPONSE_HEADER)
            assert deadlines.phase_at == pytest.approx(attempt.sent_at + 33.0, abs=0.01)
            await asking
            assert attempt.phase is Phase.BODY
            assert 0 < attempt.connected_at <= attempt.sent_at <= attempt.headers_at
            assert deadlines.phase_at == float("inf")

    uvloop.run(main())


@every_kind
def test_a_connect_that_hangs_runs_on_the_connect_clock(kind: Kind) -> None:
    async def main() -> None:
        with black_hole("127.0.0.1") as port:
            caller = caller_to(kind, port)
            sending = asyncio.ensure_future(caller.send())
            await until(lambda: caller.attempt.phase is Phase.CONNECT, "it connects")
            assert caller.deadlines.phase_clock is Clock.CONNECT
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
            await settled(caller)
            await caller.transport.aclose()
            await until(lambda: not caller.counts.connecting, "nobody connects any more")

    uvloop.run(main())
