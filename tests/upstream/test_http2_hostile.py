"""What an HTTP/2 server may make us keep and compute, by frames that the rules allow (RFC 9113 section 10.5)."""

from __future__ import annotations

import struct
from typing import Any

import h2.config
import h2.connection
import pytest
import uvloop

from sidecar.model.exchange import Attempt
from sidecar.model.head import CHUNKED
from sidecar.model.outbound import OutboundRequest
from sidecar.model.snapshot import Timeouts
from sidecar.policy.deadline import Deadlines
from sidecar.protocol.http2 import Frame, known_settings
from sidecar.upstream.http2_connection import STREAMS, TABLE, Http2Connection
from sidecar.upstream.http2_stream import SMALL_PIECE, Stream

HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS = 1, 3
PADDED = 0x8


def frame(kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def settings(pairs: list[tuple[int, int]]) -> bytes:
    return frame(4, 0, b"".join(struct.pack(">HI", number, value) for number, value in pairs))


class Wire:
    """The connection below, with nobody at its other end."""

    rx = b""
    closed = eof = False
    error = sink = None

    def __init__(self) -> None:
        self.sent = b""
        self.aborted = False

    def send(self, data: bytes) -> None:
        self.sent += data

    def abort(self) -> None:
        self.aborted = self.closed = True


class Heard:
    """In place of a stream: what it was told."""

    held = 0

    def __init__(self) -> None:
        self.error: Any = None

    def data(self, _data: bytes, _flow: int) -> None: ...

    def headers(self, _headers: Any, *, ended: bool) -> None: ...

    def window_opened(self) -> None: ...

    def broken(self, _reason: Any, detail: str) -> str:
        return detail

    def fail(self, error: Any) -> None:
        self.error = error


def opened() -> tuple[Http2Connection, Wire]:
    wire = Wire()
    return Http2Connection(wire, lambda _: None), wire  # type: ignore[arg-type]  # as much of one as is needed


def request(number: int) -> list[tuple[bytes, bytes]]:
    return [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/%d" % number), (b"x-id", b"%040d" % number)]


@pytest.mark.parametrize("allowed", [0xFFFFFFFF, 65536, 4096, 100, 0])
def test_our_compression_table_stays_small_whatever_the_server_allows(allowed: int) -> None:
    """A request is looked up in all of it: with 21,000 entries one took 88 ms, and they stayed."""
    connection, wire = opened()
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    server.decoder.max_allowed_table_size = max(allowed, 4096)
    connection._receive(settings([(HEADER_TABLE_SIZE, allowed)]))
    for number in range(300):
        connection.streams.pop(connection.begin(Heard(), request(number), ended=True))  # type: ignore[arg-type]
        (got,) = (event for event in server.receive_data(wire.sent) if type(event).__name__ == "RequestReceived")
        assert got.headers == request(number)
        server.send_headers(got.stream_id, [(b":status", b"200")], end_stream=True)
        wire.sent = b""
    assert connection._h2.encoder.header_table._current_size <= min(allowed, TABLE)


def test_settings_that_nobody_knows_are_not_kept_and_those_beside_them_count() -> None:
    """65,000 of them, 390 KB on the wire, took 54 MB."""
    connection, wire = opened()
    before = len(connection._h2.remote_settings)
    for start in range(100, 65_000, 2700):
        connection._receive(settings([(number, 1) for number in range(start, min(start + 2700, 65_536))]))
    connection._receive(settings([(50_000, 7), (MAX_CONCURRENT_STREAMS, 5), (50_001, 7)]))
    assert len(connection._h2.remote_settings) <= before + 1
    assert connection.room == 5 < STREAMS
    assert not wire.aborted


def test_a_settings_frame_of_no_whole_settings_is_left_to_be_refused() -> None:
    data = frame(4, 0, bytes(7))
    assert known_settings(Frame(4, 0, 0, data)) == data


@pytest.mark.parametrize("padding", [0, 1, 60])
def test_data_that_is_padding_alone_carries_nothing(padding: int) -> None:
    connection, wire = opened()
    heard = Heard()
    stream = connection.begin(heard, request(1), ended=True)  # type: ignore[arg-type]
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection._receive(frame(1, stream, server.encoder.encode([(b":status", b"200")]), 4))
    for _ in range(1100):
        if not wire.aborted:
            connection._receive(frame(0, stream, bytes((padding,)) + bytes(padding), PADDED))
    assert wire.aborted
    assert "carry nothing" in heard.error


def test_octets_that_wait_one_by_one_are_joined_and_none_is_lost() -> None:
    """Else a stream's window of 128 KiB is as many objects."""

    async def main() -> None:
        asked = OutboundRequest(b"GET", b"/", [], [], 0, None)
        stream = Stream(opened()[0], asked, Attempt(1, 0.0), Deadlines(Timeouts()), lambda _: None)
        stream.length = CHUNKED
        sent = [bytes((number % 256, number // 256 % 256)) for number in range(20_000)]
        for piece in sent:
            stream.data(piece, len(piece))
        stream.data(b"x" * 5000, 5000)
        assert len(stream._pieces) <= 2 * len(sent) * 2 // SMALL_PIECE + 2
        stream.end()
        assert await stream.read() == b"".join(sent) + b"x" * 5000

    uvloop.run(main())
