"""The chunked coding: exact, bounded, indifferent to how its bytes are cut."""

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import BadMessage
from sidecar.model.reason import Phase, Reason, Rejection
from sidecar.protocol.chunked import LAST_CHUNK, ChunkedDecoder, encode_chunk, last_chunk


def decode(data: bytes, *cuts: int) -> tuple[bytes, int, ChunkedDecoder]:
    decoder = ChunkedDecoder()
    payload, used = b"", 0
    for begin, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
        piece, consumed = decoder.decode(data[begin:end])
        assert decoder.done or consumed == end - begin
        payload += piece
        used += consumed
    return payload, used, decoder


BODY = b'5\r\nhello\r\n00a;x=y;z="q\\"\xff"\r\n0123456789\r\n0;e\r\nX-T: 1 \r\nx-t:\t2\r\n\r\n'


def test_every_cut_gives_the_same_payload_and_trailers():
    for cut in range(1, len(BODY)):
        payload, used, decoder = decode(BODY + b"GET", cut)
        assert payload == b"hello0123456789"
        assert used == len(BODY)
        assert decoder.done
        assert decoder.trailers == [(b"X-T", b"x-t", b"1"), (b"x-t", b"x-t", b"2")]


def test_byte_by_byte_gives_the_same_too():
    payload, used, decoder = decode(BODY, *range(1, len(BODY)))
    assert (payload, used, decoder.done) == (b"hello0123456789", len(BODY), True)


def test_bytes_after_the_end_are_not_touched():
    decoder = ChunkedDecoder()
    assert decoder.decode(LAST_CHUNK + b"GET / HTTP") == (b"", len(LAST_CHUNK))
    assert decoder.done
    assert decoder.decode(b"more") == (b"", 0)


def test_an_unfinished_body_is_not_done():
    for end in range(len(BODY)):
        assert not decode(BODY[:end])[2].done


def test_payload_is_handed_on_at_once_and_not_kept():
    decoder = ChunkedDecoder()
    assert decoder.decode(b"fffff\r\nabc") == (b"abc", 10)
    assert decoder.decode(b"def") == (b"def", 3)


@pytest.mark.parametrize(
    ("data", "rejection"),
    [
        (b"5 \r\n", Rejection.BAD_CHUNK),
        (b"Z", Rejection.BAD_CHUNK),
        (b"\n", Rejection.BAD_CHUNK),
        (b"5\n", Rejection.BAD_CHUNK),
        (b"5\r\nhelloX", Rejection.BAD_CHUNK),
        (b"5\r\nhello\n", Rejection.BAD_CHUNK),
        (b"5\r\nhello\rX", Rejection.BAD_CHUNK),
        (b"5;a\x00", Rejection.BAD_CHUNK),
        (b"1234567890123456", Rejection.BAD_CHUNK),
        (b"5;a=" + b"x" * 4096, Rejection.CHUNK_LINE_TOO_LONG),
        (b"5;a=" + b"x" * 4096 + b"\r\n", Rejection.CHUNK_LINE_TOO_LONG),
        (b"0\r\nX: a\n", Rejection.BAD_TRAILER),
        (b"0\r\nX: a\x00\r\n\r\n", Rejection.BAD_TRAILER),
        (b"0\r\nX\r\n\r\n", Rejection.BAD_TRAILER),
        (b"0\r\nX: " + b"y" * 9000, Rejection.BAD_TRAILER),
        (b"0\r\n" + b"X: y\r\n" * 65, Rejection.BAD_TRAILER),
        (b"0\r\n" + (b"X: " + b"y" * 1000 + b"\r\n") * 9, Rejection.BAD_TRAILER),
    ],
)
def test_wrong_bytes_are_refused_as_soon_as_they_are_there(data, rejection):
    with pytest.raises(BadMessage) as caught:
        ChunkedDecoder().decode(data)
    assert caught.value.rejection is rejection
    assert caught.value.status == 400


def test_extensions_of_a_whole_body_are_bounded():
    chunk = b"1;a=" + b"x" * 1000 + b"\r\nh\r\n"
    decoder = ChunkedDecoder()
    for _ in range(16):
        decoder.decode(chunk)
    with pytest.raises(BadMessage) as caught:
        decoder.decode(chunk)
    assert caught.value.rejection is Rejection.CHUNK_LINE_TOO_LONG


def test_limits_are_reachable():
    assert decode(b"0\r\n" + b"X: y\r\n" * 64 + b"\r\n")[2].done
    assert decode(b"1;a=" + b"x" * 4092 + b"\r\nh\r\n" + LAST_CHUNK)[0] == b"h"
    assert decode(b"f" * 15 + b"\r\nabc")[0] == b"abc"


def test_the_upstreams_malformed_body_is_blamed_on_the_upstream():
    with pytest.raises(BadMessage) as caught:
        ChunkedDecoder(Reason.HTTP_PROTOCOL_ERROR).decode(b"x")
    assert (caught.value.status, caught.value.reason, caught.value.phase) == (502, Reason.HTTP_PROTOCOL_ERROR, Phase.BODY)
    with pytest.raises(BadMessage) as caught:
        ChunkedDecoder(Reason.HTTP_PROTOCOL_ERROR).decode(b"0\r\n x: y\r\n")
    assert (caught.value.reason, caught.value.rejection) == (Reason.HTTP_PROTOCOL_ERROR, Rejection.BAD_TRAILER)


def test_an_encoded_chunk_is_size_payload_and_line_end():
    assert encode_chunk(b"x" * 26) == (b"1a\r\n", b"x" * 26, b"\r\n")
    assert last_chunk([]) == b"0\r\n\r\n"
    assert last_chunk([(b"X-T", b"x-t", b"1"), (b"y", b"y", b"")]) == b"0\r\nX-T: 1\r\ny: \r\n\r\n"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.data())
def test_what_is_encoded_is_decoded_wherever_it_is_cut(pieces, draw):
    trailers = [(b"X", b"x", b"1")] if draw.draw(st.booleans()) else []
    data = b"".join(part for piece in pieces for part in encode_chunk(piece)) + last_chunk(trailers)
    cuts = sorted(draw.draw(st.sets(st.integers(1, len(data) - 1), max_size=4)))
    payload, used, decoder = decode(data, *cuts)
    assert (payload, used, decoder.done, decoder.trailers) == (b"".join(pieces), len(data), True, trailers)


class Oracle:
    def __init__(self) -> None:
        self.body = b""
        self.complete = False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                b"5",
                b"hello",
                b"\r\n",
                b"0",
                b"0\r\n\r\n",
                b"5\r\nhello\r\n",
                b"\n",
                b"\r",
                b";a",
                b"=b",
                b'"',
                b" ",
                b"X: y\r\n",
                b"1\r\n",
                b"x",
                b"A",
                b"\x00",
            ]
        ),
        max_size=12,
    ).map(b"".join)
)
def test_llhttp_reads_every_body_that_we_accept_as_we_do(data):
    try:
        payload, used, decoder = decode(data)
    except BadMessage:
        return
    if not decoder.done:
        return  # a line whose end has not come has not been judged yet
    oracle = Oracle()
    parser = httptools.HttpRequestParser(oracle)
    parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data[:used])
    assert oracle.body == payload
    assert oracle.complete
