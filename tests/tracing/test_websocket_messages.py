"""Messages of WebSockets are counted by their frames, however the bytes are cut, and only where spans are recorded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.engine import Engine, upstream
from support.otlp import Collector
from tracing_kit import QUICK, live, server, to
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode

from sidecar.model.telemetry import Sampler, Telemetry
from sidecar.observe.tracing.service import Tracing
from sidecar.protocol.websocket import MessageCounter

SIZES = [0, 1, 125, 126, 127, 65535, 65536, 70000]


def frame(opcode: Opcode, size: int, *, fin: bool = True, mask: bool = True) -> bytes:
    return Frame(opcode, bytes(size), fin).serialize(mask=mask)


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_a_frame_of_every_size_is_a_message(size: int, mask: bool):
    counter = MessageCounter()
    assert counter.feed(frame(Opcode.BINARY, size, mask=mask) + frame(Opcode.TEXT, 3, mask=mask)) == 2
    assert counter.feed(frame(Opcode.TEXT, 0, mask=mask)) == 1


def test_control_frames_are_no_messages_and_fragments_are_one():
    counter = MessageCounter()
    stream = (
        frame(Opcode.TEXT, 5, fin=False)
        + frame(Opcode.PING, 4)
        + frame(Opcode.CONT, 5, fin=False)
        + frame(Opcode.PONG, 0)
        + frame(Opcode.CONT, 5)
        + frame(Opcode.CLOSE, 2)
    )
    assert counter.feed(stream) == 1


@given(st.lists(st.tuples(st.sampled_from([0, 1, 125, 126, 300, 65536]), st.booleans()), max_size=8), st.data())
def test_it_does_not_matter_how_the_bytes_are_cut(frames: list[tuple[int, bool]], data: st.DataObject):
    stream = b"".join(frame(Opcode.BINARY, size, mask=mask) for size, mask in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    counter, total = MessageCounter(), 0
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        total += counter.feed(stream[start:end])
    assert total == len(frames)


def test_one_byte_at_a_time():
    stream = b"".join(frame(Opcode.BINARY, size) for size in (0, 130, 65536, 2))
    counter = MessageCounter()
    assert sum(counter.feed(stream[at : at + 1]) for at in range(len(stream))) == 4


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_other_bytes_upset_nothing(pieces: list[bytes]):
    counter = MessageCounter()
    assert all(counter.feed(piece) >= 0 for piece in pieces)


async def echo(socket: ServerConnection) -> None:
    async for message in socket:
        await socket.send(message)
        await socket.send("and more")


@pytest.mark.parametrize("sampler", [Sampler.ALWAYS_ON, Sampler.ALWAYS_OFF])
@live
async def test_the_span_of_a_real_websocket_ends_with_it_and_tells_its_messages(sampler: Sampler):
    async with Collector() as collector, serve(echo, "127.0.0.1", 0) as behind:
        port = behind.sockets[0].getsockname()[1]
        telemetry = Telemetry(tracing=to(collector, sampler=sampler))
        async with Engine(upstream(port), tracing=Tracing(QUICK), telemetry=telemetry) as engine:
            async with connect(f"ws://127.0.0.1:{engine.port()}/chat", proxy=None) as socket:
                for message in ("a", "b" * 1000, b"c" * 100_000):
                    await socket.send(message)
                    assert await socket.recv() == message
                    assert await socket.recv() == "and more"
                await socket.ping()
                assert collector.spans == []
            exchange = await engine.seen.last()
            if sampler is Sampler.ALWAYS_OFF:
                assert (exchange.messages_in, exchange.messages_out) == (0, 0)
                return
            span = server(await collector.wait(2))
    assert span.attributes["http.response.status_code"] == 101
    assert span.attributes["outrider.tunnel"] == "websocket"
    assert (span.attributes["outrider.tunnel.messages_in"], span.attributes["outrider.tunnel.messages_out"]) == (3, 6)
    assert span.attributes["outrider.tunnel.bytes_in"] == exchange.bytes_in > 0
