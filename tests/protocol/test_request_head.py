"""Request heads: the vectors of the design, whole and cut at every byte, and what the head says afterwards."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_vectors import ACCEPTED, LIMITS, REFUSED, G, P, T, read

from sidecar.errors import BadMessage
from sidecar.model.head import CHUNKED
from sidecar.model.reason import Reason, Rejection
from sidecar.protocol import fields as field_rules
from sidecar.protocol.head import HeadLimits, RequestHead, find_end, looks_wrong, overflow, parse_request_head

MAX_CUTS = 400
"""Vectors up to this length are cut everywhere; in longer ones only the first bytes are no filler."""


def refusal(block: bytes) -> int | None:
    try:
        parse(block)
    except BadMessage as error:
        return error.status
    return None


def parse(block: bytes, limits: HeadLimits = LIMITS) -> RequestHead:
    return parse_request_head(block, limits)


@pytest.mark.parametrize(("data", "status", "why"), REFUSED, ids=[why[:60] for _, _, why in REFUSED])
def test_a_message_that_must_be_refused_is_refused_however_it_is_cut(data, status, why):
    whole = read(data)
    assert whole.error is not None, why
    assert whole.error.status == status
    assert not whole.messages
    for cut in range(1, len(data) if len(data) <= MAX_CUTS else 60):
        reader = read(data, cut)
        assert reader.error is not None, (why, cut)
        assert reader.error.status == status, (why, cut)
        assert not reader.messages, (why, cut)


SHORT = [vector for vector in REFUSED if len(vector[0]) <= MAX_CUTS]


@pytest.mark.parametrize(("data", "status", "why"), SHORT, ids=[why[:60] for _, _, why in SHORT])
def test_a_message_that_must_be_refused_is_refused_when_it_comes_byte_by_byte(data, status, why):
    reader = read(data, *range(1, len(data)))
    assert reader.error is not None, why
    assert reader.error.status == status
    assert reader.error.rejection is not None


@pytest.mark.parametrize(("data", "expected", "why"), ACCEPTED, ids=[why for _, _, why in ACCEPTED])
def test_a_message_that_is_fine_reads_the_same_however_it_is_cut(data, expected, why):
    cuts = [(), *[(cut,) for cut in range(1, len(data))], tuple(range(1, len(data)))]
    for cut in cuts:
        reader = read(data, *cut)
        assert reader.error is None, (why, cut)
        assert [(m.head.method, m.head.path, m.body) for m in reader.messages] == expected, (why, cut)


def test_a_good_request_before_a_bad_one_is_kept():
    reader = read(G + b"\r\nGARB\x00\r\n\r\n")
    assert len(reader.messages) == 1
    assert reader.error is not None


def test_fields_keep_order_case_duplicates_and_bytes():
    head = parse(G + b"X-b: 1\r\nx-B:2 \r\nA:\t\xff c \t\r\n\r\n")
    assert head.fields[1:] == [(b"X-b", b"x-b", b"1"), (b"x-B", b"x-b", b"2"), (b"A", b"a", b"\xff c")]


def test_the_head_knows_its_size_and_version():
    block = b"GET / HTTP/1.0\r\nHost: A\r\n\r\n"
    head = parse(block)
    assert (head.size, head.minor, head.host) == (len(block), 0, b"a")


def test_leading_zeros_of_a_length_are_not_forwarded():
    assert parse(P + b"Content-Length: 0005\r\n\r\n").fields[-1] == (b"Content-Length", b"content-length", b"5")
    assert parse(P + b"content-length: 000\r\n\r\n").fields[-1] == (b"content-length", b"content-length", b"0")


def test_the_body_length_is_what_the_framing_fields_say():
    assert parse(G + b"\r\n").length == 0
    assert parse(P + b"Content-Length: 17\r\n\r\n").length == 17
    assert parse(T).length == CHUNKED


def test_an_http_10_client_never_keeps_its_connection():
    assert not parse(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nHost: a\r\n\r\n").keep_alive
    assert not parse(b"GET / HTTP/1.0\r\n\r\n").keep_alive


@pytest.mark.parametrize(
    ("value", "keep_alive"),
    [
        (b"close", False),
        (b"Close", False),
        (b"keep-alive, CLOSE", False),
        (b"keep-alive", True),
        (b"x-close", True),
        (b"", True),
        (b"upgrade", True),
    ],
)
def test_connection_close_ends_the_connection(value, keep_alive):
    assert parse(G + b"Connection: " + value + b"\r\n\r\n").keep_alive is keep_alive


def test_connection_lines_are_one_list_of_nominated_names():
    head = parse(G + b"Connection: X-A , close\r\nConnection: Keep-Alive,,TE,x-a\r\n\r\n")
    assert head.connection_tokens == (b"x-a", b"te")
    assert not head.keep_alive


def test_upgrade_counts_only_when_connection_nominates_it_and_the_version_is_11():
    assert parse(G + b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n").upgrade == b"websocket"
    assert parse(G + b"Connection: upgrade, x\r\nUpgrade: a\r\nUpgrade: b\r\n\r\n").upgrade == b"a,b"
    assert parse(G + b"Upgrade: websocket\r\n\r\n").upgrade == b""
    assert parse(b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").upgrade == b""


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (P + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", True),
        (P + b"Expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n", True),
        (G + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", True),
        (P + b"Expect: 100-continue\r\n\r\n", False),
        (P + b"Expect: 100-continue\r\nContent-Length: 0\r\n\r\n", False),
        (P + b"Expect: y 100-continue\r\nContent-Length: 5\r\n\r\n", False),
        (P + b"Expect: foo\r\nContent-Length: 5\r\n\r\n", False),
        (P + b"Expect: 100-continue\r\nExpect: x\r\nContent-Length: 5\r\n\r\n", False),
        (b"POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", False),
    ],
)
def test_only_an_11_request_with_a_body_expects_a_100(head, expected):
    assert parse(head).expect_continue is expected


def test_the_authority_of_an_absolute_target_takes_the_place_of_host():
    head = parse(b"GET HTTP://B:81/x HTTP/1.1\r\nX: 1\r\nHost: a\r\n\r\n")
    assert (head.scheme, head.host, head.path, head.target) == (b"http", b"b:81", b"/x", b"HTTP://B:81/x")
    assert head.fields == [(b"Host", b"host", b"B:81"), (b"X", b"x", b"1")]


def test_an_absolute_target_in_http_10_needs_no_host():
    head = parse(b"GET https://[::1]:8443 HTTP/1.0\r\n\r\n")
    assert (head.scheme, head.host, head.path) == (b"https", b"[::1]:8443", b"/")
    assert head.fields == [(b"Host", b"host", b"[::1]:8443")]


def test_connect_is_for_its_target_whatever_host_says():
    head = parse(b"CONNECT B:443 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (head.host, head.path, head.target) == (b"b:443", b"", b"B:443")


def test_limits_are_met_exactly():
    block = G + b"A: b\r\n\r\n"
    assert parse(block, HeadLimits(len(block), 2, 1)).size == len(block)
    for limits, reason in [
        (HeadLimits(len(block) - 1, 2, 1), Reason.HEADER_SECTION_TOO_LARGE),
        (HeadLimits(len(block), 1, 1), Reason.HEADER_SECTION_TOO_LARGE),
        (HeadLimits(len(block), 2, 0), Reason.URI_TOO_LONG),
    ]:
        with pytest.raises(BadMessage) as caught:
            parse(block, limits)
        assert caught.value.reason is reason


def test_an_unfinished_head_that_is_too_long_is_blamed_on_its_target_only_when_that_is_too_long():
    limits = HeadLimits(100, 10, 20)
    assert overflow(b"GET /" + b"x" * 100, limits).status == 414
    assert overflow(b"GET / HTTP/1.1\r\nX: " + b"x" * 100, limits).status == 431
    assert overflow(bytearray(b"G" * 200), limits).status == 431


@pytest.mark.parametrize(
    ("data", "rejection"),
    [
        (b"GET / HTTP/1.1\nHost", Rejection.BARE_LF),
        (b"GET / HTTP/1.1\r\nHost: a\n", Rejection.BARE_LF),
        (b"\x16\x03\x01", Rejection.TLS_ON_PLAIN_PORT),
        (b"GET / HTTP/2.0\r\n", Rejection.BAD_VERSION),
        (b"GET /x\r\n", Rejection.BAD_REQUEST_LINE),
        (b"G\x00T", Rejection.BAD_REQUEST_LINE),
        (b"GET /\x01", Rejection.BAD_TARGET),
        (b"GET / HTTP/1.1\r\nA\x01", Rejection.BAD_FIELD_NAME),
        (b"GET / HTTP/1.1\r\nA: \x01", Rejection.BAD_FIELD_VALUE),
        (b"G=(T / HTTP/1.1\r\n", Rejection.BAD_REQUEST_LINE),
        (b"GET / HTTP/1.1\r\n\r\t\n", Rejection.BARE_LF),
    ],
)
def test_what_cannot_become_a_head_is_told_early(data, rejection):
    error = looks_wrong(data)
    assert error is not None
    assert error.rejection is rejection
    assert looks_wrong(bytearray(data)) is not None


@pytest.mark.parametrize(
    "data", [b"", b"G", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r"]
)
def test_a_head_that_may_still_come_is_waited_for(data):
    for start in range(len(data) + 1):
        assert looks_wrong(data, start) is None
    assert find_end(data) == -1


def test_the_end_of_a_head_is_just_after_its_empty_line():
    data = G + b"\r\nrest"
    assert data[find_end(data) :] == b"rest"
    assert find_end(bytearray(data), 3) == len(data) - 4
    assert find_end(data, len(data) - 6) == -1


@pytest.mark.parametrize(
    ("line", "rejection"),
    [
        (b"X: y\r\n z", Rejection.OBS_FOLD),
        (b"X : y", Rejection.BAD_FIELD_NAME),
        (b"X: \x01", Rejection.BAD_FIELD_VALUE),
        (b"Content_Length: 5", Rejection.UNDERSCORE_NAME),
        (b"Content-Length: x", Rejection.BAD_CONTENT_LENGTH),
        (b"Content-Length: 1\r\nTransfer-Encoding: chunked", Rejection.CL_TE_CONFLICT),
        (b"Transfer-Encoding: gzip, chunked", Rejection.UNKNOWN_TRANSFER_ENCODING),
        (b"Transfer-Encoding: gzip", Rejection.BAD_TRANSFER_ENCODING),
        (b"Host: b", Rejection.BAD_HOST),
        (b"X: a\nb", Rejection.BARE_LF),
    ],
)
def test_the_rule_that_was_broken_is_named(line, rejection):
    with pytest.raises(BadMessage) as caught:
        parse(G + line + b"\r\n\r\n")
    assert caught.value.rejection is rejection
    assert not caught.value.reusable


def test_a_response_cannot_teach_a_name_that_requests_must_refuse():
    assert field_rules.learn_name(b"Content_Length", b":", Reason.HTTP_PROTOCOL_ERROR) == b"content_length"
    with pytest.raises(BadMessage):
        parse(P + b"Content_Length: 5\r\n\r\n")


def test_invented_names_and_hosts_do_not_grow_the_caches():
    for number in range(3000):
        head = parse(b"GET / HTTP/1.1\r\nHost: h%d\r\nX-%d: 1\r\n\r\n" % (number, number))
        assert head.fields[1][1] == b"x-%d" % number
        assert head.host == b"h%d" % number
    assert len(field_rules._names) <= field_rules.CACHED_NAMES


PIECES = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"POST",
        b" ",
        b"/",
        b"*",
        b"http://a",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"\r\n",
        b"\r",
        b"\n",
        b"Host: a\r\n",
        b"Host:",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: a, close\r\n",
        b":",
        b"\t",
        b"\x00",
        b"_",
        b",",
        b"#",
        b"\xff",
        b"CONNECT",
        b"a:80",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(PIECES, max_size=20).map(b"".join),
        st.lists(PIECES, max_size=12).map(lambda p: b"".join(p) + b"\r\n\r\n"),
    )
)
def test_any_bytes_are_a_head_or_a_bad_message(data):
    looks_wrong(data)
    status = refusal(data)
    assert status in (None, 400, 414, 431, 501, 505)
    if status is None:
        assert data.endswith(b"\r\n\r\n")
        assert looks_wrong(data[:-2]) is None


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=20).map(b"".join), st.data())
def test_cuts_change_nothing(data, draw):
    data = G + data + b"\r\n\r\n"
    cut = draw.draw(st.integers(1, len(data) - 1))
    whole, cut_one = read(data), read(data, cut)
    assert (whole.error is None) == (cut_one.error is None)
    assert [(m.head.method, m.head.fields, m.body) for m in whole.messages] == [
        (m.head.method, m.head.fields, m.body) for m in cut_one.messages
    ]
