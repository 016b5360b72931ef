"""What the upstream gets of a good request: RFC 9110 section 7, RFC 9112 sections 3 and 6."""

from __future__ import annotations

import pytest
import uvloop
from engine_driver import GET, LAST, Heard, arrived, cut, each_byte, swallow, talk
from protocol.protocol_vectors import ACCEPTED
from support import Connection, RawClient, ScriptedUpstream, answer, response
from support.engine import Engine, upstream
from support.wire import Message

OK = response(body=b"ok")
# HTTP/1.0 ends its connection and CONNECT is for Forward listeners: they have tests of their own.
VECTORS = [vector for vector in ACCEPTED if b"HTTP/1.0" not in vector[0] and b"CONNECT" not in vector[0]]


async def pass_on(*pieces: bytes, **listener: object) -> tuple[Heard, list[Message]]:
    """What the client hears and what the upstream has read; the last request must end the connection."""
    async with ScriptedUpstream(answer(OK)) as peer, Engine(upstream(peer.port), listener=listener) as engine:
        heard = await talk(engine.port(), *pieces)
    return heard, peer.requests


def sent(data: bytes, **listener: object) -> Message:
    """The one request that reached the upstream."""
    heard, requests = uvloop.run(pass_on(data, **listener))
    assert heard.statuses == [200]
    assert len(requests) == 1
    return requests[0]


def lines(message: Message) -> list[bytes]:
    """Field lines less those that we add to every request."""
    ours = (b"via", b"x-request-id", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-real-ip")
    return [name + b": " + value for name, value in message.fields if name.lower() not in ours]


def test_a_good_message_arrives_the_same_however_the_network_cuts_it():
    async def main() -> list[str]:
        problems = []
        async with ScriptedUpstream(answer(OK)) as peer, Engine(upstream(peer.port)) as engine:
            for data, expected, why in VECTORS:
                whole = data + LAST
                wanted = [*expected, (b"GET", b"/", b"")]
                deliveries = [[whole], each_byte(whole), *[cut(whole, at) for at in range(1, len(data) + 4)]]
                for number, pieces in enumerate(deliveries):
                    before = len(peer.requests)
                    heard = await talk(engine.port(), *pieces)
                    got = [(*request.start.split(b" ")[:2], request.body) for request in peer.requests[before:]]
                    if got != wanted or heard.statuses != [200] * len(wanted):
                        problems.append(f"{why}, delivery {number}: {got} {heard}")
        return problems

    assert uvloop.run(main()) == []


@pytest.mark.parametrize(
    ("head", "target", "host", "why"),
    [
        (b"GET http://b.test:81/x?y HTTP/1.1\r\nHost: a\r\n", b"/x?y", "b.test:81", "RFC 9112 3.2.2: the target's authority replaces Host"),
        (b"GET HTTP://b/ HTTP/1.1\r\nHost: b\r\n", b"/", "b", "RFC 3986 3.1: schemes are case-insensitive"),
        (b"GET http://b HTTP/1.1\r\nHost: b\r\n", b"/", "b", "RFC 9112 3.2.1: an empty path is sent as /"),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n", b"*", "a", "RFC 9112 3.2.4"),
        (b"OPTIONS http://b HTTP/1.1\r\nHost: a\r\n", b"*", "b", "RFC 9112 3.2.4: the last proxy sends the asterisk"),
        (b"GET //e.com/%2e%2F/a/../b;?%zz= HTTP/1.1\r\nHost: a\r\n", b"//e.com/%2e%2F/a/../b;?%zz=", "a", "RFC 9110 7.7: byte for byte"),
    ],
)
def test_the_target_goes_on_in_its_own_form_and_with_its_own_bytes(head, target, host, why):
    request = sent(head + b"Connection: close\r\n\r\n")
    assert request.start.split(b" ")[1:] == [target, b"HTTP/1.1"], why
    assert request.get_all("host") == [host], why


def test_end_to_end_fields_keep_order_case_duplicates_and_bytes():
    fields = [b"Host: a", b"X-b: 1", b"x-B: 2", b"Cookie: c=\xff", b"Accept:", b"Authorization: Basic eA=="]
    request = sent(b"GET / HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in fields) + b"Connection: close\r\n\r\n")
    assert lines(request) == [line if line[-1:] != b":" else line + b" " for line in fields]


@pytest.mark.parametrize(
    ("line", "gone", "why"),
    [
        (b"Connection: X-A, x-b, close\r\nX-A: 1\r\nX-B: 2", ("connection", "x-a", "x-b"), "RFC 9110 7.6.1: nominated"),
        (b"Keep-Alive: timeout=5", ("keep-alive",), "RFC 9110 7.6.1: known hop-by-hop field"),
        (b"Proxy-Connection: keep-alive", ("proxy-connection",), "RFC 9110 7.6.1: known hop-by-hop field"),
        (b"Proxy-Authorization: Basic x", ("proxy-authorization",), "RFC 9110 11.7.2: meant for us"),
        (b"Upgrade: websocket", ("upgrade", "connection"), "RFC 9110 7.8: without Connection: upgrade it means nothing"),
        (
            b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA",
            ("upgrade", "http2-settings", "connection"),
            "RFC 9113 3.1: h2c is gone",
        ),
        (b"TE: gzip", ("te", "connection"), "RFC 9110 10.1.4: hop-by-hop, and we decode nothing"),
        (b"TE: xtrailers", ("te", "connection"), "RFC 9110 10.1.4: a coding whose name only looks like it"),
        (b"Trailer: X-T", ("trailer",), "RFC 9110 6.6.2: framing of this hop"),
        (b"Proxy: http://evil", ("proxy",), "httpoxy: would become HTTP_PROXY"),
        (b"X_Forwarded_For: 6.6.6.6", ("x_forwarded_for",), "product.md 3.9: reads as a field that we write"),
    ],
)
def test_what_belongs_to_one_hop_or_to_us_stays_behind(line, gone, why):
    request = _sent_first(line)
    assert [name for name in gone if request.get(name) is not None] == [], why


def _sent_first(line: bytes) -> Message:
    heard, requests = uvloop.run(pass_on(GET[:-2] + line + b"\r\n\r\n", LAST))
    assert heard.statuses[0] == 200
    return requests[0]


def test_te_trailers_is_made_anew_for_the_next_hop():
    request = _sent_first(b"TE: gzip, Trailers")
    assert request.get_all("te") == ["trailers"]
    assert request.get_all("connection") == ["TE"]


def test_fields_that_matter_to_others_cannot_be_nominated_away():
    names = b"Host, Content-Length, Authorization, Cookie, Via, Forwarded, X-Forwarded-For, X-Forwarded-Whatever, X-Real-IP, X-Request-ID, traceparent, tracestate"
    values = b"".join(name.strip() + b": 5\r\n" for name in names.split(b",")[1:])
    heard, requests = uvloop.run(pass_on(b"POST / HTTP/1.1\r\nHost: a\r\n" + values + b"Connection: " + names + b"\r\n\r\nhello", LAST))
    assert heard.statuses == [200, 200]
    assert [name for name in names.decode().split(", ") if requests[0].get(name) is None] == []
    assert requests[0].get("connection") is None


@pytest.mark.parametrize(
    ("message", "framing", "body", "why"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", [], b"", "RFC 9112 6.3: no length is invented for a request without a body"),
        (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", [], b"", "RFC 9112 6.3 rule 7: neither field, no body"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", [("content-length", "0")], b"", "RFC 9110 8.6: kept"),
        (
            b"DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
            [("content-length", "2")],
            b"hi",
            "RFC 9110 9.3.5: any method may",
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", [("content-length", "5")], b"hello", "CL.0: exactly five bytes"),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0005\r\n\r\nhello",
            [("content-length", "5")],
            b"hello",
            "one spelling of a number",
        ),
        (
            b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            [("transfer-encoding", "chunked")],
            b"hi",
            "9112 7.1",
        ),
    ],
)
def test_the_framing_of_a_request_is_kept(message, framing, body, why):
    heard, requests = uvloop.run(pass_on(message, LAST))
    assert heard.statuses == [200, 200], why
    names = ("content-length", "transfer-encoding")
    assert [(name, value) for name in names for value in requests[0].get_all(name)] == framing, why
    assert requests[0].body == body


def test_chunk_extensions_go_nowhere():
    data = b"PUT / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n0;c\r\n\r\n"

    async def main() -> bytes:
        async with ScriptedUpstream(answer(OK)) as peer, Engine(upstream(peer.port)) as engine:
            await talk(engine.port(), data)
        return bytes(peer.connections[0].received)

    received = uvloop.run(main())
    assert received.endswith(b"\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
    assert b";" not in received


def test_an_http_10_request_goes_on_as_http_11_with_a_host():
    heard, requests = uvloop.run(pass_on(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"))
    assert heard.statuses == [200]
    assert requests[0].start == b"GET /x HTTP/1.1"
    assert requests[0].get_all("host") == ["app"]
    assert requests[0].get_all("via") == ["1.0 outrider"]
    assert requests[0].get("connection") is None


def test_via_is_one_line_that_ends_with_us():
    request = _sent_first(b"Via: 1.0 fred, 1.1 p.example\r\nVia: HTTP/2 x (y)")
    assert request.get_all("via") == ["1.0 fred, 1.1 p.example, HTTP/2 x (y), 1.1 outrider"]


@pytest.mark.parametrize(("entries", "status"), [(8, 200), (9, 502), (60, 502)])
def test_more_than_eight_entries_of_ours_in_via_are_a_loop(entries, status):
    data = LAST[:-2] + b"Via: " + b", ".join([b"1.1 outrider"] * entries) + b"\r\n\r\n"
    heard, requests = uvloop.run(pass_on(data))
    assert heard.statuses == [status]
    assert len(requests) == (status == 200)
    assert (b"error=proxy_loop_detected" in heard.data) == (status == 502)


@pytest.mark.parametrize(
    ("method", "value", "forwarded"),
    [
        (b"OPTIONS", b"0", None),
        (b"OPTIONS", b"1", "0"),
        (b"OPTIONS", b"10", "9"),
        (b"GET", b"0", "0"),
        (b"OPTIONS", b"x", "x"),
    ],
)
def test_max_forwards_counts_down_for_options_and_at_zero_we_answer(method, value, forwarded):
    data = method + b" / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nMax-Forwards: " + value + b"\r\n\r\n"
    heard, requests = uvloop.run(pass_on(data))
    assert heard.statuses == [200]
    assert [request.get("max-forwards") for request in requests] == ([] if forwarded is None else [forwarded])
    assert (b"Allow: " in heard.data) == (forwarded is None)


def test_trace_is_refused_and_never_invented_max_forwards():
    heard, requests = uvloop.run(pass_on(b"TRACE / HTTP/1.1\r\nHost: a\r\nCookie: secret\r\nMax-Forwards: 5\r\n\r\n" + LAST))
    assert heard.statuses == [405, 200]
    assert b"secret" not in heard.data
    assert [request.start for request in requests] == [b"GET / HTTP/1.1"]
    assert requests[0].get("max-forwards") is None


def test_unknown_methods_are_forwarded():
    assert sent(b"M-SEARCH!~ / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").start == b"M-SEARCH!~ / HTTP/1.1"


@pytest.mark.parametrize(
    ("trailer", "passes", "why"),
    [
        (b"X-Checksum: 1", True, "RFC 9110 6.5: an ordinary trailer"),
        (b"grpc-status: 0", True, "gRPC lives on it"),
        (b"Content-Length: 5", False, "RFC 9110 6.5.1: framing"),
        (b"Transfer-Encoding: chunked", False, "RFC 9110 6.5.1: framing"),
        (b"Host: b", False, "RFC 9110 6.5.1: routing"),
        (b"Authorization: Basic x", False, "RFC 9110 6.5.1: authentication"),
        (b"Set-Cookie: a", False, "RFC 9110 6.5.1: response control"),
        (b"Connection: close", False, "RFC 9110 7.6.1: hop-by-hop"),
        (b"X-Forwarded-For: 1.2.3.4", False, "product.md 3.8: forwarding is ours"),
        (b"content_length: 5", False, "product.md 3.9: reads as framing"),
        (b"X-Nominated: 1", False, "RFC 9110 7.6.1: named in Connection"),
    ],
)
def test_request_trailers_pass_unless_they_could_change_what_the_message_is(trailer, passes, why):
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: X-Nominated\r\nTransfer-Encoding: chunked\r\n\r\n"
    heard, requests = uvloop.run(pass_on(head + b"2\r\nhi\r\n0\r\n" + trailer + b"\r\n\r\n" + LAST))
    if trailer.startswith(b"content_length"):
        assert heard.statuses == [400]
        assert requests == []
        return
    assert heard.statuses == [200, 200], why
    assert [name + b": " + value for name, value in requests[0].trailers] == ([trailer] if passes else []), why
    assert requests[0].body == b"hi"


def test_a_refused_request_does_not_touch_the_connection_of_another_client():
    async def main() -> int:
        async with ScriptedUpstream(answer(OK)) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                assert (await client.request()).status == 200
                assert (await talk(engine.port(), b"GET / HTTP/9.9\r\n\r\n")).statuses == [505]
                assert (await client.request()).status == 200
        return len(peer.connections)

    assert uvloop.run(main()) == 1


def test_an_upload_that_the_client_cuts_never_ends_cleanly_at_the_upstream():
    async def main() -> list[Connection]:
        async with ScriptedUpstream(swallow) as peer, Engine(upstream(peer.port)) as engine:
            for at, head in enumerate((b"Content-Length: 9\r\n\r\nhell", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")):
                async with await RawClient.open(engine.port()) as client:
                    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + head)
                    one = await peer.connection(at)
                    await arrived(one, b"hell")
                    if at:
                        client.reset()
                    else:
                        client.half_close()
                    await one.ended.wait()
            assert (await engine.seen.last(2)).status == 499
        return peer.connections

    length, chunked = uvloop.run(main())
    assert bytes(length.received).endswith(b"\r\n\r\nhell")
    assert not bytes(chunked.received).endswith(b"0\r\n\r\n")
