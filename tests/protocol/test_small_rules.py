"""Via, request ids, Max-Forwards, Proxy-Status, problem bodies, upgrades, status lines, dates."""

import json
import random
import uuid
from email.utils import formatdate
from http import HTTPStatus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.model.reason import Clock, Reason
from sidecar.protocol import max_forwards, problem, proxy_status, request_id, upgrade, via
from sidecar.protocol.http_date import imf_fixdate
from sidecar.protocol.status_line import REASON_PHRASES, status_line


def test_via_keeps_what_came_and_ends_with_us():
    assert via.append(None) == b"1.1 outrider"
    assert via.append(b"") == b"1.1 outrider"
    assert via.append(b"1.0 fred, 1.1 p (x)", 0) == b"1.0 fred, 1.1 p (x), 1.0 outrider"


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (b"", 0),
        (b"1.1 outrider", 1),
        (b"1.1 outrider, 1.0 outrider,HTTP/2.0 Outrider (c), 2 outrider", 4),
        (b"1.1 outrider2, 1.1 x-outrider, 1.1 a (outrider)", 0),
    ],
)
def test_own_via_entries_are_counted(value, count):
    assert via.own_entries(value) == count


def test_more_than_eight_own_entries_are_a_loop():
    value = None
    for _ in range(8):
        value = via.append(value)
    assert not via.is_loop(value)
    assert via.is_loop(via.append(value))


def test_a_new_request_id_is_a_random_uuid():
    rng = random.Random(1)
    for _ in range(200):
        text = request_id.maker(rng.getrandbits)()
        parsed = uuid.UUID(text.decode())
        assert (parsed.version, parsed.variant, str(parsed).encode()) == (4, uuid.RFC_4122, text)
        assert request_id.valid(text)
    for bits in (0, (1 << 128) - 1):
        assert uuid.UUID(request_id.maker(lambda count, bits=bits: bits & ((1 << count) - 1))().decode()).version == 4


@pytest.mark.parametrize("value", [b"a", b"A-Z.a_z:0/9+=@-", b"x" * 128])
def test_a_request_id_of_the_permitted_characters_is_kept(value):
    assert request_id.valid(value)


@pytest.mark.parametrize("value", [b"", b"x" * 129, b"a b", b"a\n", b"a,b", b"\xe9", b'"', b"{}"])
def test_other_request_ids_are_not(value):
    assert not request_id.valid(value)


def test_max_forwards_counts_for_options_and_trace_only():
    fields = [(b"A", b"a", b"1"), (b"Max-Forwards", b"max-forwards", b"3")]
    assert max_forwards.received(b"OPTIONS", fields) == 3
    assert max_forwards.received(b"TRACE", fields) == 3
    assert max_forwards.received(b"GET", fields) is None
    assert max_forwards.received(b"OPTIONS", fields[:1]) is None
    assert max_forwards.received(b"OPTIONS", fields * 2) is None
    for value in (b"x", b"-1", b"+1", b""):
        assert max_forwards.received(b"OPTIONS", [(b"Max-Forwards", b"max-forwards", value)]) is None


def test_max_forwards_is_sent_one_less_and_never_absurd():
    fields = [(b"A", b"a", b"1"), (b"Max-Forwards", b"max-forwards", b"3")]
    assert max_forwards.decremented(fields, 3) == [(b"A", b"a", b"1"), (b"Max-Forwards", b"max-forwards", b"2")]
    assert max_forwards.decremented(fields, 10**17)[1][2] == b"%d" % max_forwards.MAX


def test_proxy_status_names_the_error_and_quotes_its_details():
    details = {"upstream": "orders", "attempt": "2/3", "clock": Clock.CONNECT}
    assert (
        proxy_status.render(Reason.CONNECTION_TIMEOUT, details)
        == b'outrider; error=connection_timeout; details="upstream=orders attempt=2/3 clock=connect"'
    )
    assert proxy_status.render(Reason.NO_ROUTE) == b"outrider; error=no_route"


def test_no_detail_can_leave_its_string():
    assert (
        proxy_status.render(Reason.DNS_ERROR, {"a": 'x"; error=b\\\r\né'}) == b'outrider; error=dns_error; details="a=x\\"; error=b\\\\???"'
    )


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_every_detail_gives_a_printable_line_with_balanced_quotes(text):
    value = proxy_status.render(Reason.DNS_ERROR, {"k": text})
    assert value.decode("ascii").isprintable()
    assert value.replace(b"\\\\", b"").replace(b'\\"', b"").count(b'"') == 2


def test_a_problem_has_the_members_of_the_interface_in_their_order():
    body = json.loads(problem.render(504, Reason.CONNECTION_TIMEOUT, b"id-1", clock=Clock.CONNECT))
    assert list(body) == ["type", "title", "status", "detail", "reason", "clock", "requestId"]
    assert (body["title"], body["status"], body["reason"], body["clock"], body["requestId"]) == (
        "Gateway Timeout",
        504,
        "connection_timeout",
        "connect",
        "id-1",
    )
    body = json.loads(problem.render(404, Reason.NO_ROUTE, b"id-1", detail='no "route"\n'))
    assert "clock" not in body
    assert body["detail"] == 'no "route"\n'


def test_every_reason_has_a_sentence_without_internals():
    for reason in Reason:
        body = json.loads(problem.render(499, reason, b""))
        assert body["detail"].endswith(".")
        assert body["title"]


@pytest.mark.parametrize(
    ("asked", "forwarded"),
    [
        (b"websocket", b"websocket"),
        (b"SPDY/3.1", b"SPDY/3.1"),
        (b"h2c", b""),
        (b"H2C, WebSocket", b"WebSocket"),
        (b"TLS/1.0, HTTP/2.0, h2, custom/1", b"custom/1"),
        (b" , ", b""),
        (b"", b""),
    ],
)
def test_cleartext_http2_is_never_asked_for_through_us(asked, forwarded):
    assert upgrade.forwardable(asked) == forwarded


@pytest.mark.parametrize(
    ("asked", "answered", "fine"),
    [
        (b"websocket", b"WebSocket", True),
        (b"a, b", b"b", True),
        (b"a, b", b"b, a", True),
        (b"websocket", b"h2c", False),
        (b"websocket", b"websocket, h2c", False),
        (b"websocket", b"", False),
        (b"", b"websocket", False),
    ],
)
def test_a_101_must_name_what_was_asked_for(asked, answered, fine):
    assert upgrade.accepted(asked, answered) is fine


def test_status_lines_keep_the_upstreams_phrase():
    assert status_line(200, b"OK") == b"HTTP/1.1 200 OK\r\n"
    assert status_line(200, b"Fine \xe9") == b"HTTP/1.1 200 Fine \xe9\r\n"
    assert status_line(200, b"") == b"HTTP/1.1 200 \r\n"
    assert status_line(999, b"x") == b"HTTP/1.1 999 x\r\n"


def test_our_own_status_lines_have_the_registered_phrase():
    assert status_line(503) == b"HTTP/1.1 503 Service Unavailable\r\n"
    assert status_line(799) == b"HTTP/1.1 799 \r\n"
    assert {status.value for status in HTTPStatus} <= set(REASON_PHRASES)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 32_503_680_000))
def test_dates_are_imf_fixdates(seconds):
    assert imf_fixdate(seconds + 0.75) == formatdate(seconds, usegmt=True).encode()
