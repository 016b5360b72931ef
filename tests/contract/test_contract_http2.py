"""What HTTP/2 adds: streams, windows, GOAWAY, refused streams, and its own ways to misbehave (RFC 9113)."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from contract_kit import Kind, Source, calling, over_http2, read, settled, tls_server, until, within
from contract_peers import Http2Peer, Http2Served, Served

from sidecar.errors import RefusedStream, UpstreamError
from sidecar.model.reason import Clock, Phase, Reason
from sidecar.model.snapshot import Timeouts

MAX_CONCURRENT_STREAMS = 3


def peer(kind: Kind, script, **settings) -> Http2Peer:
    return Http2Peer(script, ssl=tls_server(kind) if kind.tls else None, **settings)


def frame(kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


@over_http2
def test_many_requests_share_one_connection(kind: Kind) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def script(served: Served) -> None:
            await go.wait()
            await served.answer(200, (), served.target)

        async with calling(kind, script) as (caller, server):
            asking = [asyncio.ensure_future(caller.ask(b"GET", b"/%d" % number)) for number in range(50)]
            await until(lambda: len(server.served) == 50, "all of them are there")
            go.set()
            assert [answer.body for answer in await asyncio.gather(*asking)] == [b"/%d" % number for number in range(50)]
            assert server.connections == 1

    uvloop.run(main())


@over_http2
def test_no_more_streams_than_the_server_takes_and_then_another_connection(kind: Kind) -> None:
    async def main() -> None:
        at_once: dict[int, int] = {}
        most = 0

        async def script(served: Served) -> None:
            nonlocal most
            at_once[served.number] = at_once.get(served.number, 0) + 1
            most = max(most, at_once[served.number])
            await asyncio.sleep(0.01)
            at_once[served.number] -= 1
            await served.answer()

        async with calling(kind, peer(kind, script, settings={MAX_CONCURRENT_STREAMS: 2}), max_connections=3) as (caller, server):
            await caller.ask()
            answers = await asyncio.gather(*(caller.ask(timeouts=Timeouts(queue=30)) for _ in range(40)))
            assert [answer.status for answer in answers] == [200] * 40
            assert most <= 2
            assert 1 < server.connections <= 3

    uvloop.run(main())


@over_http2
def test_a_queue_for_streams_has_its_clock_and_its_bound(kind: Kind) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def script(served: Served) -> None:
            await go.wait()
            await served.answer()

        limits = {"max_connections": 1, "max_pending_requests": 1}
        async with calling(kind, peer(kind, script, settings={MAX_CONCURRENT_STREAMS: 1}), **limits) as (caller, server):
            first = asyncio.ensure_future(caller.ask())
            await until(lambda: server.served, "the first is there")
            second = asyncio.ensure_future(caller.ask(timeouts=Timeouts(queue=44)))
            await until(lambda: caller.counts.pending == 1, "the second waits")
            assert (caller.deadlines.phase_clock, caller.attempt.phase) == (Clock.QUEUE, Phase.POOL)
            with pytest.raises(UpstreamError) as caught:
                await within(caller.send())
            assert caught.value.reason is Reason.OVERLOADED
            go.set()
            assert [answer.status for answer in await asyncio.gather(first, second)] == [200, 200]

    uvloop.run(main())


@over_http2
def test_after_goaway_streams_that_it_spares_go_on_and_the_others_are_refused(kind: Kind) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def script(served: Served) -> None:
            assert isinstance(served, Http2Served)
            if served.number == 0 and served.target == b"/last":
                await served.raw(frame(7, 0, (1).to_bytes(4, "big") + bytes(4)))
                await asyncio.sleep(60)
            await go.wait()
            await served.answer(200, (), b"%d" % served.number)

        async with calling(kind, script) as (caller, server):
            spared = asyncio.ensure_future(caller.ask(b"GET", b"/first"))
            await until(lambda: server.served, "the first is there")
            with pytest.raises(RefusedStream) as caught:
                await within(caller.send(b"POST", b"/last", (), Source(b"x", length=1)))
            assert caught.value.phase is Phase.SEND
            go.set()
            assert (await spared).body == b"0"
            assert (await caller.ask()).body == b"1"
            assert server.connections == 2

    uvloop.run(main())


@over_http2
def test_a_graceful_goaway_is_no_error(kind: Kind) -> None:
    """First a GOAWAY with the greatest number there is, then the real one (section 6.8)."""

    async def main() -> None:
        async def script(served: Served) -> None:
            if served.number == 0:
                await served.raw(frame(7, 0, (2**31 - 1).to_bytes(4, "big") + bytes(4)))
            await served.answer(200, (), b"%d" % served.number)

        async with calling(kind, script) as (caller, _):
            assert (await caller.ask()).body == b"0"
            await until(lambda: not caller.counts.open, "the connection has gone")
            assert (await caller.ask()).body == b"1"

    uvloop.run(main())


@over_http2
def test_a_refused_stream_has_not_been_looked_at(kind: Kind) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            assert isinstance(served, Http2Served)
            if served.target == b"/refused":
                served.reset(7)
            await served.answer()

        async with calling(kind, script) as (caller, server):
            with pytest.raises(RefusedStream) as caught:
                await within(caller.send(b"POST", b"/refused", (), Source(b"x" * 100)))
            assert caught.value.phase is Phase.SEND
            assert (await caller.ask()).status == 200
            assert server.connections == 1

    uvloop.run(main())


@over_http2
@pytest.mark.parametrize(("code", "reason"), [(2, Reason.CONNECTION_TERMINATED), (11, Reason.CONNECTION_TERMINATED), (13, Reason.HTTP_PROTOCOL_ERROR), (999, Reason.CONNECTION_TERMINATED)])  # fmt: skip
def test_a_stream_that_is_reset_before_its_head_is_an_error_of_its_own(kind: Kind, code: int, reason: Reason) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            assert isinstance(served, Http2Served)
            await served.answer() if served.target == b"/" else await served.raw(frame(3, served.stream, code.to_bytes(4, "big")))

        async with calling(kind, script) as (caller, server):
            with pytest.raises(UpstreamError) as caught:
                await within(caller.send(b"GET", b"/reset"))
            assert type(caught.value) is UpstreamError
            assert (caught.value.reason, caught.value.phase) == (reason, Phase.HEADERS)
            assert (await caller.ask()).status == 200
            assert server.connections == 1

    uvloop.run(main())


@over_http2
def test_a_complete_answer_counts_although_the_server_wants_no_more_of_the_request(kind: Kind) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            assert isinstance(served, Http2Served)
            await served.answer(200, (), b"enough")
            if served.target == b"/upload":
                await served.raw(frame(3, served.stream, bytes(4)))

        async with calling(kind, script) as (caller, server):
            response = await within(caller.send(b"POST", b"/upload", (), Source(b"x", open_end=True)))
            await asyncio.sleep(0.05)
            assert (await within(read(response))).body == b"enough"
            assert (await caller.ask()).body == b"enough"
            assert server.connections == 1

    uvloop.run(main())


@over_http2
def test_a_slow_reader_holds_up_no_other_stream(kind: Kind) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            await served.start(200)
            for _ in range(64 if served.target == b"/large" else 1):
                await served.send(b"x" * 65536)
            await served.end()

        async with calling(kind, script) as (caller, server):
            slow = [await within(caller.send(b"GET", b"/large")) for _ in range(20)]
            await asyncio.sleep(0.1)
            for _ in range(5):
                assert len((await caller.ask()).body) == 65536
            assert len((await within(read(slow[0]))).body) == 64 * 65536
            for response in slow[1:]:
                response.abort()
            await settled(caller)
            assert (await caller.ask()).status == 200
            assert server.connections == 1

    uvloop.run(main())


MALFORMED = {
    "no status": [(b"x", b"y")],
    "status after a field": [(b"x", b"y"), (b":status", b"200")],
    "two statuses": [(b":status", b"200"), (b":status", b"200")],
    "a status that is none": [(b":status", b"2x0")],
    "another pseudo-header": [(b":status", b"200"), (b":path", b"/")],
    "upper case": [(b":status", b"200"), (b"X-Upper", b"y")],
    "a blank in a name": [(b":status", b"200"), (b"x y", b"z")],
    "a line end in a value": [(b":status", b"200"), (b"x", b"a\r\nset-cookie: z=1")],
    "a NUL in a value": [(b":status", b"200"), (b"x", b"a\x00b")],
    "an outer blank": [(b":status", b"200"), (b"x", b" y")],
    "connection": [(b":status", b"200"), (b"connection", b"close")],
    "transfer-encoding": [(b":status", b"200"), (b"transfer-encoding", b"chunked")],
    "upgrade": [(b":status", b"200"), (b"upgrade", b"h2c")],
    "101": [(b":status", b"101")],
    "300 fields": [(b":status", b"200"), *((b"x", b"y") for _ in range(300))],
}
SWITCHES = {"validate_outbound_headers": False, "normalize_outbound_headers": False}


@over_http2
@pytest.mark.parametrize("headers", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_response_is_an_error_of_its_stream_alone(kind: Kind, headers: list[tuple[bytes, bytes]]) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def script(served: Served) -> None:
            assert isinstance(served, Http2Served)
            if served.target == b"/bad":
                await served.raw(frame(1, served.stream, served.connection.h2.encoder.encode(headers), 4))
                await asyncio.sleep(60)
            await go.wait()
            await served.answer(200, (), b"well")

        async with calling(kind, peer(kind, script, lenient=SWITCHES)) as (caller, server):
            other = asyncio.ensure_future(caller.ask())
            await until(lambda: server.served, "another stream is under way")
            with pytest.raises(UpstreamError) as caught:
                await within(caller.send(b"GET", b"/bad"))
            assert caught.value.reason in (Reason.HTTP_PROTOCOL_ERROR, Reason.HTTP_RESPONSE_HEADER_SECTION_SIZE)
            assert caught.value.phase is Phase.HEADERS
            go.set()
            assert (await other).body == b"well"
            assert server.connections == 1

    uvloop.run(main())


@over_http2
@pytest.mark.parametrize(("length", "sent"), [(10, 5), (5, 10)], ids=["less", "more"])
def test_a_body_that_has_not_its_length_is_no_whole_one(kind: Kind, length: int, sent: int) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            assert isinstance(served, Http2Served)
            if served.target == b"/bad":
                await served.start(200, [(b"content-length", b"%d" % length)])
                await served.raw(frame(0, served.stream, b"x" * sent, 1))
                await asyncio.sleep(60)
            await served.answer()

        async with calling(kind, script) as (caller, server):
            with pytest.raises(UpstreamError) as caught:
                await caller.ask(b"GET", b"/bad")
            assert caught.value.phase is Phase.BODY
            assert (await caller.ask()).status == 200
            assert server.connections == 1

    uvloop.run(main())


FLOODS = {
    "ping": frame(6, 0, bytes(8)),
    "settings": frame(4),
    "empty data": frame(0, 1),
    "unknown frames": frame(0xEE, 0, b"x"),
    "priority": frame(2, 1, bytes(5)),
    "window updates": frame(8, 0, (1).to_bytes(4, "big")),
}


@over_http2
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_frames_that_carry_nothing_end_the_connection_when_there_are_too_many(kind: Kind, flood: bytes) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            if served.number == 0:
                for _ in range(40):
                    await served.raw(flood * 100)
                    await asyncio.sleep(0)
                await asyncio.sleep(60)
            await served.answer(200, (), b"well")

        async with calling(kind, script) as (caller, server):
            with pytest.raises(UpstreamError) as caught:
                await within(caller.send())
            assert caught.value.reason in (Reason.HTTP_PROTOCOL_ERROR, Reason.CONNECTION_TERMINATED)
            assert (await caller.ask()).body == b"well"
            assert server.connections == 2

    uvloop.run(main())


GARBAGE = {
    "HTTP/1.1": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "a frame that is too long": b"\xff\xff\xff\x00\x00" + bytes(4),
    "a header block that is none": frame(1, 1, b"\xff\xff\xff\xff\xff", 4),
    "a push": frame(5, 1, bytes(4) + b"\x82", 4),
    "headers of no stream": frame(1, 0, b"\x88", 4),
    "a window of nothing": frame(8, 0, bytes(4)),
}


@over_http2
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_what_is_not_http2_ends_the_connection(kind: Kind, garbage: bytes) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            if served.number == 0:
                await served.raw(garbage)
                await asyncio.sleep(60)
            await served.answer(200, (), b"well")

        async with calling(kind, script) as (caller, server):
            with pytest.raises(UpstreamError) as caught:
                await within(caller.send())
            assert caught.value.reason is Reason.HTTP_PROTOCOL_ERROR
            assert (await caller.ask()).body == b"well"
            assert server.connections == 2

    uvloop.run(main())


@over_http2
def test_a_list_of_fields_without_end_ends_the_connection(kind: Kind) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            assert isinstance(served, Http2Served)
            if served.number == 0:
                block = served.connection.h2.encoder.encode([(b":status", b"200"), *((b"x-%d" % n, b"y" * 1000) for n in range(100))])
                await served.raw(frame(1, served.stream, block[:16000]))
                for start in range(16000, len(block), 16000):
                    await served.raw(frame(9, served.stream, block[start : start + 16000], 4 if start + 16000 >= len(block) else 0))
                await asyncio.sleep(60)
            await served.answer(200, (), b"well")

        async with calling(kind, script) as (caller, _):
            with pytest.raises(UpstreamError) as caught:
                await within(caller.send())
            assert caught.value.reason is Reason.HTTP_RESPONSE_HEADER_SECTION_SIZE
            assert (await caller.ask()).body == b"well"

    uvloop.run(main())


@over_http2
def test_fields_of_a_request_are_those_that_http2_knows(kind: Kind) -> None:
    async def main() -> None:
        fields = [(b"X-B", b"1"), (b"A", b"2"), (b"x-b", b"3"), (b"Connection", b"x"), (b"Cookie", b"a=1; b=2"), (b"X-Latin", b"caf\xe9")]
        async with calling(kind, lambda served: served.answer()) as (caller, server):
            await caller.ask(b"GET", b"/", fields, wants_trailers=True)
            served = server.served[0]
            assert isinstance(served, Http2Served)
            assert (served.authority, served.scheme) == (b"upstream.test", b"https" if kind.tls else b"http")
            assert served.fields == [
                (b"x-b", b"1"),
                (b"a", b"2"),
                (b"x-b", b"3"),
                (b"cookie", b"a=1; b=2"),
                (b"x-latin", b"caf\xe9"),
                (b"via", b"1.1 outrider"),
                (b"te", b"trailers"),
            ]

    uvloop.run(main())


@over_http2
def test_an_exchange_that_is_given_up_cancels_its_stream_and_spares_the_others(kind: Kind) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            await served.start(200)
            while served.target == b"/endless":
                await served.send(b"x" * 1000)
            await served.end()

        async with calling(kind, script) as (caller, server):
            response = await within(caller.send(b"GET", b"/endless"))
            response.abort()
            served = server.served[0]
            assert isinstance(served, Http2Served)
            await until(lambda: served.cancelled == 8, "the server has heard CANCEL")
            assert (await caller.ask()).status == 200
            assert server.connections == 1

    uvloop.run(main())


@over_http2
def test_who_waits_for_a_connection_shares_it_and_what_became_of_it(kind: Kind) -> None:
    async def main() -> None:
        async with calling(kind, lambda served: served.answer()) as (caller, server):
            answers = await asyncio.gather(*(caller.ask() for _ in range(30)))
            assert [answer.status for answer in answers] == [200] * 30
            assert server.connections == 1
            assert caller.observer.connects == ["success"]

    uvloop.run(main())
