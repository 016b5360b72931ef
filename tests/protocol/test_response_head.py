"""Response heads: F7 body rules, hostile upstreams, and what is kept as it came."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import BadMessage
from sidecar.model.head import CHUNKED, UNTIL_CLOSE
from sidecar.model.reason import Phase, Reason, Rejection
from sidecar.protocol.head import ResponseHead, parse_response_head, response_looks_wrong, response_overflow


def parse(lines: bytes, method: bytes = b"GET") -> ResponseHead:
    return parse_response_head(lines + b"\r\n", method)


def refusal(block: bytes, method: bytes) -> int | None:
    try:
        parse_response_head(block, method)
    except BadMessage as error:
        return error.status
    return None


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("lines", "method", "length"),
    [
        (OK + b"Content-Length: 5\r\n", b"GET", 5),
        (OK + b"Content-Length: 0\r\n", b"GET", 0),
        (OK + b"Transfer-Encoding: chunked\r\n", b"GET", CHUNKED),
        (OK, b"GET", UNTIL_CLOSE),
        (OK, b"CONNECT", 0),
        (OK + b"Content-Length: 5\r\n", b"HEAD", 0),
        (OK + b"Transfer-Encoding: chunked\r\n", b"HEAD", 0),
        (OK + b"Content-Length: 5\r\n", b"CONNECT", 0),
        (b"HTTP/1.1 403 No\r\nContent-Length: 5\r\n", b"CONNECT", 5),
        (b"HTTP/1.1 100 Continue\r\n", b"POST", 0),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n", b"GET", 0),
        (b"HTTP/1.1 101 Switching Protocols\r\n", b"GET", 0),
        (b"HTTP/1.1 204 No Content\r\n", b"GET", 0),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n", b"GET", 0),
        (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n", b"GET", 0),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n", b"GET", 0),
        (b"HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n", b"GET", 0),
        (b"HTTP/1.0 200 OK\r\n", b"GET", UNTIL_CLOSE),
    ],
)
def test_the_body_length_follows_status_method_and_framing_fields(lines, method, length):
    assert parse(lines, method).length == length


@pytest.mark.parametrize(
    ("lines", "rejection"),
    [
        (OK + b"Content-Length: 5\r\nContent-Length: 3\r\n", Rejection.BAD_CONTENT_LENGTH),
        (OK + b"Content-Length: 5, 3\r\n", Rejection.BAD_CONTENT_LENGTH),
        (OK + b"Content-Length: +5\r\n", Rejection.BAD_CONTENT_LENGTH),
        (OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", Rejection.CL_TE_CONFLICT),
        (OK + b"Transfer-Encoding: gzip, chunked\r\n", Rejection.UNKNOWN_TRANSFER_ENCODING),
        (OK + b"Transfer-Encoding: gzip\r\n", Rejection.BAD_TRANSFER_ENCODING),
        (OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Rejection.BAD_TRANSFER_ENCODING),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n", Rejection.TE_IN_HTTP10),
        (b"HTTP/1.1 200 OK\nX: a\n", Rejection.BARE_LF),
        (OK + b"X: a\rSet-Cookie: z=1\r\n", Rejection.BAD_FIELD_VALUE),
        (OK + b"X: a\x01b\r\n", Rejection.BAD_FIELD_VALUE),
        (OK + b"X: a\r\n b\r\n", Rejection.OBS_FOLD),
        (OK + b"X\r\n", Rejection.BAD_FIELD_NAME),
        (OK + b"Host\r\n", Rejection.BAD_FIELD_NAME),
        (OK + b": x\r\n", Rejection.BAD_FIELD_NAME),
        (OK + b"X y: x\r\n", Rejection.BAD_FIELD_NAME),
        (b"HTTP/1.1 099 x\r\n", Rejection.BAD_STATUS_LINE),
        (b"HTTP/1.1 2000 x\r\n", Rejection.BAD_STATUS_LINE),
        (b"HTTP/1.1 abc x\r\n", Rejection.BAD_STATUS_LINE),
        (b"HTTP/1.1 200x\r\n", Rejection.BAD_STATUS_LINE),
        (b"HTTP/1.1  200 OK\r\n", Rejection.BAD_STATUS_LINE),
        (b"HTTP/1.1\t200 OK\r\n", Rejection.BAD_STATUS_LINE),
        (b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n", Rejection.BAD_STATUS_LINE),
        (b"HTTP/1.1 200 O\x00K\r\n", Rejection.BAD_STATUS_LINE),
        (b"okHTTP/1.1 200 OK\r\n", Rejection.BAD_STATUS_LINE),
        (b"http/1.1 200 OK\r\n", Rejection.BAD_STATUS_LINE),
        (b"\r\nHTTP/1.1 200 OK\r\n", Rejection.BAD_STATUS_LINE),
        (b"HTTP/2.0 200 OK\r\n", Rejection.BAD_VERSION),
        (b"HTTP/0.9 200 OK\r\n", Rejection.BAD_VERSION),
    ],
)
def test_a_response_that_breaks_a_rule_is_a_502_and_names_it(lines, rejection):
    with pytest.raises(BadMessage) as caught:
        parse(lines)
    assert caught.value.rejection is rejection
    assert caught.value.status == 502
    assert caught.value.reason is Reason.HTTP_PROTOCOL_ERROR
    assert caught.value.phase is Phase.HEADERS


def test_a_head_beyond_a_limit_has_its_own_reason():
    for lines in (OK + b"X: y\r\n" * 257, OK + b"X: " + b"y" * 70_000 + b"\r\n"):
        with pytest.raises(BadMessage) as caught:
            parse(lines)
        assert caught.value.reason is Reason.HTTP_RESPONSE_HEADER_SECTION_SIZE
        assert caught.value.status == 502
    assert response_overflow().reason is Reason.HTTP_RESPONSE_HEADER_SECTION_SIZE
    assert len(parse(OK + b"X: y\r\n" * 256).fields) == 256


@pytest.mark.parametrize(
    ("line", "status", "reason", "minor"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK", 1),
        (b"HTTP/1.1 200 ", 200, b"", 1),
        (b"HTTP/1.1 200", 200, b"", 1),
        (b"HTTP/1.0 999 Weird \xe9 \tx", 999, b"Weird \xe9 \tx", 0),
        (b"HTTP/1.1 600  two", 600, b" two", 1),
        (b"HTTP/1.7 100 x", 100, b"x", 1),
        (b"HTTP/1.1 404 " + b"x" * 300, 404, b"x" * 300, 1),
    ],
)
def test_status_and_reason_phrase_are_kept_as_they_came(line, status, reason, minor):
    for _ in range(2):  # the second time from the cache
        head = parse(line + b"\r\nContent-Length: 0\r\n")
        assert (head.status, head.reason, head.minor) == (status, reason, minor)


@pytest.mark.parametrize(
    ("lines", "method", "keep_alive"),
    [
        (OK + b"Content-Length: 0\r\n", b"GET", True),
        (OK + b"Content-Length: 0\r\nConnection: close\r\n", b"GET", False),
        (OK + b"Content-Length: 0\r\nConnection: x, Close\r\n", b"GET", False),
        (OK, b"GET", False),
        (OK, b"HEAD", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n", b"GET", False),
        (b"HTTP/1.1 204 x\r\n", b"GET", True),
        (b"HTTP/1.1 204 x\r\nContent-Length: 0\r\n", b"GET", True),
        (b"HTTP/1.1 204 x\r\nContent-Length: 5\r\n", b"GET", False),
        (b"HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n", b"GET", False),
        (b"HTTP/1.1 304 x\r\nContent-Length: 5\r\n", b"GET", True),
    ],
)
def test_a_connection_is_reused_only_when_the_next_response_begins_at_a_known_place(lines, method, keep_alive):
    assert parse(lines, method).keep_alive is keep_alive


def test_a_length_stays_where_it_is_metadata_and_goes_where_it_is_forbidden():
    def has_length(lines: bytes, method: bytes) -> bool:
        return any(field[1] == b"content-length" for field in parse(lines, method).fields)

    assert has_length(b"HTTP/1.1 304 x\r\nContent-Length: 5\r\n", b"GET")
    assert has_length(OK + b"Content-Length: 5\r\n", b"HEAD")
    assert not has_length(b"HTTP/1.1 204 x\r\nContent-Length: 5\r\n", b"GET")
    assert not has_length(b"HTTP/1.1 103 x\r\nContent-Length: 5\r\n", b"GET")
    assert not has_length(OK + b"Content-Length: 5\r\n", b"CONNECT")


def test_blanks_before_the_colon_are_removed_before_the_field_counts():
    head = parse(OK + b"Content-Length : 5\r\nX-Y\t : z\r\n")
    assert head.length == 5
    assert head.fields == [(b"Content-Length", b"content-length", b"5"), (b"X-Y", b"x-y", b"z")]


def test_values_keep_their_bytes_and_lines_their_order():
    head = parse(OK + b"Set-Cookie: a\r\nX: caf\xe9\r\nset-cookie:b\r\nContent_Length: 1\r\nContent-Length: 007\r\n")
    assert head.fields == [
        (b"Set-Cookie", b"set-cookie", b"a"),
        (b"X", b"x", b"caf\xe9"),
        (b"set-cookie", b"set-cookie", b"b"),
        (b"Content_Length", b"content_length", b"1"),
        (b"Content-Length", b"content-length", b"7"),
    ]


def test_the_upgrade_of_a_101_and_the_nominated_names_are_read():
    head = parse(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade, X-A\r\n")
    assert head.upgrade == b"websocket"
    assert head.connection_tokens == (b"x-a",)


def test_what_cannot_become_a_response_is_told_early():
    assert response_looks_wrong(b"SSH-2.0-x\r\n") is not None
    assert response_looks_wrong(b"HTTP/1.1 200 OK\nX") is not None
    assert response_looks_wrong(b"HTTP/2") is not None
    for end in range(len(OK)):
        assert response_looks_wrong(OK[:end]) is None


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.binary(max_size=100), st.binary(max_size=60).map(lambda b: OK + b + b"\r\n\r\n")),
    st.sampled_from([b"GET", b"HEAD", b"CONNECT"]),
)
def test_any_bytes_are_a_response_head_or_a_502(data, method):
    response_looks_wrong(data)
    assert refusal(data, method) in (None, 502)
