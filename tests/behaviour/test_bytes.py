"""product.md 3.4 and 3.9 Names, Absolute-form, Half-close, Trailers: what passes, in which form, and what does not."""

from __future__ import annotations

import asyncio
import re

import pytest
from behaviour_kit import assert_reply, assert_reset, live, playing, silent, then_close, then_silent
from support import Connection, RawClient, answer, response

from sidecar.model.reason import Reason
from sidecar.model.snapshot import Timeouts

OK = answer(response(body=b"ok"))
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OURS = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-real-ip", b"via", b"x-request-id"}


def end_to_end(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [field for field in fields if field[0].lower() not in OURS]


# Requests


@live
async def test_order_case_and_duplicates_of_request_headers_are_kept():
    async with playing(OK) as (_, fake, client):
        await client.send(
            b"GET / HTTP/1.1\r\nzeta: 1\r\nHOST: a\r\nAlpha: 2\r\nX-Dup: a\r\nx-DUP: b\r\nEmpty:\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n"
        )
        await client.read_response()
        assert end_to_end(fake.requests[0].fields) == [
            (b"zeta", b"1"), (b"HOST", b"a"), (b"Alpha", b"2"), (b"X-Dup", b"a"), (b"x-DUP", b"b"), (b"Empty", b""), (b"Cookie", b"a=1"), (b"Cookie", b"b=2"),
        ]  # fmt: skip


@live
@pytest.mark.parametrize("target", ["/a%2Fb/../c?x=%zz&y=a+b;c=d", "//double//slash", "/%e4?%E4", "/a;b=c?q?r", "/?", "/..", "/%2e%2E/x"])
async def test_the_target_goes_on_with_its_original_bytes(target: str):
    async with playing(OK) as (_, fake, client):
        await client.request(target)
        assert fake.requests[0].start == f"GET {target} HTTP/1.1".encode()


@live
@pytest.mark.parametrize("method", ["LINK", "get", "M-SEARCH", "QUERY"])
async def test_unknown_methods_that_are_tokens_pass(method: str):
    async with playing(OK) as (_, fake, client):
        await client.request("/x", method=method)
        assert fake.requests[0].start == f"{method} /x HTTP/1.1".encode()


@live
async def test_hop_by_hop_request_headers_and_those_that_connection_names_are_removed():
    async with playing(OK) as (_, fake, client):
        await client.request(
            headers="Connection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nProxy-Authorization: y\r\n"
            "TE: gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: z\r\nTrailer: x\r\nProxy: http://evil\r\nX-Kept: 1\r\n"
        )
        assert end_to_end(fake.requests[0].fields) == [(b"Host", b"test"), (b"X-Kept", b"1")]


@live
async def test_fields_that_cannot_be_nominated_away_stay():
    names = "Host, Content-Length, Authorization, Cookie, Via, Forwarded, X-Forwarded-For, X-Real-IP, X-Request-ID, traceparent, tracestate"
    headers = "Authorization: a\r\nCookie: c\r\nVia: 1.1 x\r\nForwarded: for=_x\r\nX-Request-ID: id\r\ntraceparent: t\r\ntracestate: s\r\n"
    async with playing(OK) as (_, fake, client):
        await client.request(method="POST", body=b"abc", headers=f"Connection: {names}\r\n{headers}")
        request = fake.requests[0]
        for name in names.split(", "):
            assert request.get(name) is not None, name
        assert (request.body, request.get("x-request-id"), request.get("via")) == (b"abc", "id", "1.1 x, 1.1 outrider")


@live
async def test_via_is_appended_in_both_directions_as_one_line():
    async with playing(answer(response(headers="Via: 1.0 far\r\nVia: 1.1 near\r\n"))) as (_, fake, client):
        reply = await client.request(headers="Via: 1.1 edge\r\nVia: 2 cdn (x)\r\n")
        assert fake.requests[0].get_all("via") == ["1.1 edge, 2 cdn (x), 1.1 outrider"]
        assert reply.get_all("via") == ["1.0 far, 1.1 near, 1.1 outrider"]


@live
async def test_what_we_add_to_a_request_is_exactly_this():
    async with playing(OK) as (_, fake, client):
        await client.request()
        names = [name for name, _ in fake.requests[0].fields]
        assert names == [b"Host", b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host", b"X-Real-IP", b"Via", b"x-request-id"]


@live
async def test_an_absolute_target_takes_the_place_of_host_and_goes_on_in_origin_form():
    async with playing(OK) as (_, fake, client):
        await client.send(b"GET http://Real.Example:8080/path?q HTTP/1.1\r\nX: 1\r\nHost: other\r\n\r\n")
        assert (await client.read_response()).status == 200
        request = fake.requests[0]
        assert request.start == b"GET /path?q HTTP/1.1"
        assert [value.lower() for value in request.get_all("host")] == ["real.example:8080"]


@live
async def test_an_absolute_target_without_a_path_becomes_a_slash():
    async with playing(OK) as (_, fake, client):
        await client.send(b"GET http://a?q=1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.read_response()).status == 200
        assert fake.requests[0].start == b"GET /?q=1 HTTP/1.1"


@live
async def test_options_star_passes_as_it_is():
    async with playing(OK) as (_, fake, client):
        await client.request("*", method="OPTIONS")
        assert fake.requests[0].start == b"OPTIONS * HTTP/1.1"


@live
async def test_max_forwards_on_options_is_decremented_and_at_zero_we_answer_200():
    async with playing(OK) as (_, fake, client):
        assert (await client.request(method="OPTIONS", headers="Max-Forwards: 3\r\n")).body == b"ok"
        assert fake.requests[0].get("max-forwards") == "2"
        reply = await client.request(method="OPTIONS", headers="Max-Forwards: 0\r\n")
        assert (reply.status, reply.body) == (200, b"")
        assert reply.get("allow")
        await client.request(headers="Max-Forwards: 0\r\n")
        assert [request.get("max-forwards") for request in fake.requests] == ["2", "0"]


@live
async def test_an_http_1_0_request_goes_on_as_1_1_with_a_host_and_its_connection_ends():
    async with playing(answer(response(chunks=[b"o", b"k"]))) as (_, fake, client):
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        reply = await client.read_response()
        assert (reply.start, reply.body) == (b"HTTP/1.1 200 OK", b"ok")
        assert (reply.get("transfer-encoding"), reply.get("connection")) == (None, "close")
        assert fake.requests[0].start == b"GET / HTTP/1.1"
        assert fake.requests[0].get("host")


@live
async def test_pipelined_requests_are_answered_in_order():
    async def echo(connection: Connection) -> None:
        while True:
            request = await connection.read_request()
            await connection.send(response(body=request.start.split()[1]))

    async with playing(echo) as (_, _, client):
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(20)))
        assert [(await client.read_response()).body for _ in range(20)] == [b"/%d" % number for number in range(20)]


@live
async def test_connection_close_from_the_client_closes_after_the_answer():
    async with playing(OK) as (_, fake, client):
        reply = await client.request(headers="Connection: close\r\n")
        assert (reply.get("connection"), reply.body) == ("close", b"ok")
        assert await client.read_until_close() == b""
        assert fake.requests[0].get("connection") is None


@live
async def test_upstream_connections_are_kept_and_used_again():
    async with playing(OK) as (engine, fake, client):
        for _ in range(5):
            await client.request()
        async with await RawClient.open(engine.port()) as other:
            await other.request()
        assert len(fake.connections) == 1


# Request bodies


@live
async def test_a_chunked_request_body_goes_on_chunked_with_its_trailers_less_the_forbidden_ones():
    async with playing(OK) as (_, fake, client):
        await client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\n"
            b"X-Sum: 5\r\nContent-Length: 9\r\nHost: evil\r\nAuthorization: x\r\nX-Request-ID: y\r\n\r\n"
        )
        assert (await client.read_response()).body == b"ok"
        request = fake.requests[0]
        assert (request.body, request.trailers) == (b"abcde", [(b"X-Sum", b"5")])
        assert (request.get("transfer-encoding"), request.get("content-length")) == ("chunked", None)


@live
async def test_a_large_upload_arrives_byte_for_byte():
    body = bytes(range(256)) * 12_000
    async with playing(OK) as (engine, fake, client):
        assert (await client.request(method="POST", body=body)).body == b"ok"
        assert fake.requests[0].body == body
        assert (await engine.seen.last()).bytes_in == len(body)


@live
async def test_a_large_chunked_upload_arrives_byte_for_byte():
    body = bytes(range(256)) * 4_000
    async with playing(OK) as (_, fake, client):
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(body[at : at + 7001]), body[at : at + 7001]) for at in range(0, len(body), 7001))
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        assert (await client.read_response()).body == b"ok"
        assert fake.requests[0].body == body


@live
async def test_a_request_streams_before_it_is_complete():
    async def echo(connection: Connection) -> None:
        await connection.read_head()
        assert await connection.read_exactly(3) == b"abc"
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        assert await connection.read_exactly(3) == b"def"
        await connection.send(b"3\r\ndef\r\n0\r\n\r\n")
        await connection.read_until_close()

    async with playing(echo) as (_, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
        await client.read_head()
        assert await client.read_exactly(8) == b"3\r\nabc\r\n"
        await client.send(b"def")
        assert await client.read_until(b"0\r\n\r\n") == b"3\r\ndef\r\n0\r\n\r\n"


@live
async def test_expect_100_continue_is_relayed_and_the_upstreams_100_comes_back():
    async def continues(connection: Connection) -> None:
        head = await connection.read_head()
        assert head.get("expect") == "100-continue"
        await connection.read_nothing(0.05)
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await connection.read_body(head)
        await connection.send(response(body=head.body))
        await connection.read_until_close()

    async with playing(continues) as (_, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert (await client.read_response()).status == 100
        await client.send(b"abc")
        assert (await client.read_response()).body == b"abc"


@live
async def test_expect_100_continue_refused_by_the_upstream_is_relayed_without_the_body():
    async def refuses(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(response("417 No", b"no"))
        await connection.read_until_close()

    async with playing(refuses) as (_, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        reply = await client.read_response()
        assert (reply.status, reply.body, reply.get("connection")) == (417, b"no", "close")


@live
async def test_a_client_that_waits_for_100_is_not_blamed_for_an_upstream_that_says_nothing():
    async def silent_head(connection: Connection) -> None:
        await connection.read_head()
        await connection.read_until_close()

    listener = {"body_idle_timeout": 0.1}
    async with playing(silent_head, listener=listener, route={"timeouts": Timeouts(response_header=0.2)}) as (_, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert_reply(await client.read_response(), 504, "http_response_timeout", clock="responseHeader")


@live
async def test_after_a_100_the_client_is_to_blame_for_its_silence():
    async def continues(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await connection.read_until_close()

    listener = {"body_idle_timeout": 0.8}
    async with playing(continues, listener=listener, route={"timeouts": Timeouts(response_header=0.5)}) as (_, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert (await client.read_response()).status == 100
        assert_reply(await client.read_response(), 408, "request_body_timeout", clock="bodyIdleTimeout")


@live
async def test_a_client_that_does_not_wait_for_100_is_timed_like_any_other():
    listener = {"body_idle_timeout": 0.8}
    async with playing(OK, listener=listener, route={"timeouts": Timeouts(response_header=0.5)}) as (_, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 6\r\n\r\n")
        await client.send(b"abcdef", piece=1, pause=0.15)  # longer than either in total
        assert (await client.read_response()).body == b"ok"


@live
async def test_an_early_error_of_the_upstream_reaches_a_client_that_is_still_sending():
    async def refuses(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(response("413 Too Large", b"too large", "Connection: close\r\n"))

    async with playing(refuses) as (_, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n" + bytes(100_000))
        reply = await client.read_response()
        assert (reply.status, reply.body, reply.get("connection")) == (413, b"too large", "close")


@live
async def test_a_malformed_body_after_the_response_began_is_an_aborted_connection():
    async def early(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await connection.read_until_close()

    async with playing(early) as (engine, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await client.read_head()
        assert await client.read_exactly(8) == b"3\r\nabc\r\n"
        await client.send(b"nonsense\r\n")
        await assert_reset(client)
        assert (await engine.seen.last()).reason is Reason.HTTP_REQUEST_ERROR


# Responses


@live
async def test_order_case_and_duplicates_of_response_headers_are_kept():
    async with playing(
        answer(response(headers="zeta: 1\r\nSet-Cookie: a\r\nALPHA: 2\r\nset-cookie: b\r\nServer: x\r\nDate: never\r\n"))
    ) as (_, _, client):
        reply = await client.request()
        assert [field for field in reply.fields if field[0] != b"Via"] == [
            (b"Content-Length", b"0"), (b"zeta", b"1"), (b"Set-Cookie", b"a"), (b"ALPHA", b"2"), (b"set-cookie", b"b"), (b"Server", b"x"), (b"Date", b"never"),
        ]  # fmt: skip


@live
async def test_hop_by_hop_response_headers_are_removed():
    headers = (
        "Connection: close, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nX-Kept: 1\r\n"
    )
    async with playing(answer(response(headers=headers))) as (_, _, client):
        reply = await client.request()
        assert [name for name, _ in reply.fields] == [b"Content-Length", b"X-Kept", b"Via"]
        assert (await client.request()).status == 200


@live
@pytest.mark.parametrize(
    "status", ["200", "299 Custom Words", "999 Odd", "418 I'm a teapot", "204 No Content", "304 Not Modified", "600 x"]
)
async def test_any_status_from_200_to_999_passes_with_its_words(status: str):
    bodiless = status[:3] in ("204", "304")
    data = f"HTTP/1.1 {status}\r\n\r\n".encode() if bodiless else response(status)
    async with playing(answer(data)) as (_, _, client):
        assert (await client.request()).start.decode().rstrip() == f"HTTP/1.1 {status}"
        assert (await client.request()).status == int(status[:3])


@live
async def test_a_compressed_body_passes_as_it_is():
    blob = bytes(range(256))
    async with playing(answer(response(body=blob, headers="Content-Encoding: gzip\r\n"))) as (_, _, client):
        reply = await client.request(headers="Accept-Encoding: gzip\r\n")
        assert (reply.body, reply.get("content-encoding")) == (blob, "gzip")


@live
async def test_interim_responses_are_relayed_with_their_fields():
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\nX: 1\r\n\r\n"
    async with playing(answer(b"HTTP/1.1 100 Continue\r\n\r\n" + hints + response(body=b"ok"))) as (_, _, client):
        await client.send(GET)
        assert (await client.read_response()).status == 100
        early = await client.read_response()
        assert (early.start, early.fields) == (b"HTTP/1.1 103 Early Hints", [(b"Link", b"</a>")])
        assert (await client.read_response()).body == b"ok"


@live
async def test_an_http_1_0_client_gets_no_interim_responses():
    async with playing(answer(b"HTTP/1.1 103 Early Hints\r\n\r\n" + response(body=b"ok"))) as (_, _, client):
        await client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        assert (await client.read_response()).body == b"ok"


@live
async def test_response_trailers_pass_when_both_sides_are_chunked_less_the_forbidden_ones():
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ngrpc-status: 0\r\nContent-Length: 7\r\nSet-Cookie: x\r\n\r\n"
    )
    async with playing(answer(chunked)) as (_, _, client):
        reply = await client.request(headers="TE: trailers\r\nConnection: TE\r\n")
        assert (reply.body, reply.trailers) == (b"ok", [(b"grpc-status", b"0")])


@live
async def test_te_trailers_is_passed_on_as_our_own():
    async with playing(OK) as (_, fake, client):
        await client.request(headers="TE: deflate, trailers\r\nConnection: TE\r\n")
        assert (fake.requests[0].get("te"), fake.requests[0].get("connection")) == ("trailers", "TE")


@live
async def test_a_response_until_close_becomes_chunked_and_the_clients_connection_stays():
    async with playing(then_close(b"HTTP/1.1 200 OK\r\n\r\nhello")) as (_, _, client):
        reply = await client.request()
        assert (reply.body, reply.get("transfer-encoding")) == (b"hello", "chunked")
        assert (await client.request()).body == b"hello"


@live
@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + bytes(200_000),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\n",
    ],
    ids=["length", "long", "chunked", "half a last chunk"],
)
async def test_a_truncated_response_is_a_reset_for_the_client_and_incomplete_in_the_record(data: bytes):
    async with playing(then_close(data)) as (engine, _, client):
        await client.send(GET)
        await client.read_head()
        await assert_reset(client)
        exchange = await engine.seen.last()
        assert (exchange.status, exchange.reason) == (200, Reason.HTTP_RESPONSE_INCOMPLETE)
        assert exchange.attempts[0].outcome == "http_response_incomplete"


@live
async def test_a_malformed_chunk_of_the_upstream_is_a_reset_too():
    async with playing(then_silent(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", b"zz\r\n", pause=0.02)) as (
        engine,
        _,
        client,
    ):
        await client.send(GET)
        await client.read_head()
        await assert_reset(client)
        assert (await engine.seen.last()).reason is Reason.HTTP_PROTOCOL_ERROR


@live
async def test_a_head_response_has_its_length_and_no_body():
    async with playing(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n")) as (_, _, client):
        for _ in range(2):
            reply = await client.request(method="HEAD")
            assert (reply.status, reply.get("content-length")) == (200, "1234")


@live
async def test_a_large_download_arrives_byte_for_byte():
    body = bytes(range(256)) * 20_000
    async with playing(answer(response(body=body))) as (engine, _, client):
        assert (await client.request()).body == body
        assert (await client.request()).body == body
        assert (await engine.seen.last(2)).bytes_out == len(body)


@live
async def test_a_slow_client_slows_the_upstream_down():
    sent = 0

    async def pours(connection: Connection) -> None:
        nonlocal sent
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while sent < 100_000_000:
            await connection.send(bytes(1_000_000))
            sent += 1_000_000

    async with playing(pours) as (_, _, client):
        client._reader._transport.pause_reading()
        await client.send(GET)
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 40_000_000


@live
async def test_server_sent_events_pass_one_by_one():
    async def events(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for number in range(3):
            await connection.send(b"data: %d\n\n" % number)
            assert await asyncio.wait_for(seen.get(), 30) == number

    seen: asyncio.Queue[int] = asyncio.Queue()
    async with playing(events) as (_, _, client):
        await client.send(GET)
        await client.read_head()
        for number in range(3):
            assert await client.read_until(b"\n\n\r\n") == b"9\r\ndata: %d\n\n\r\n" % number
            seen.put_nowait(number)
        assert await client.read_exactly(5) == b"0\r\n\r\n"


# Half-close and leaving


@live
async def test_a_fin_on_a_keep_alive_connection_cancels_the_upstream_request():
    async with playing(silent) as (engine, fake, client):
        await client.send(GET)
        connection = await fake.connection(0)
        client.half_close()
        exchange = await engine.seen.last()
        assert (exchange.status, exchange.reason) == (499, Reason.CLIENT_CLOSED)
        await connection.ended.wait()


@live
@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.0\r\nHost: a\r\n\r\n"])
async def test_after_connection_close_or_http_1_0_a_fin_does_not_prevent_the_answer(data: bytes):
    async with playing(then_silent(response(body=b"ok"), pause=0.1)) as (engine, _, client):
        await client.send(data)
        client.half_close()
        assert (await client.read_response()).body == b"ok"
        assert (await engine.seen.last()).reason is None


@live
async def test_a_client_that_leaves_during_the_response_cancels_the_upstream_at_once():
    async def pours(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await connection.read_until_close()

    async with playing(pours) as (engine, fake, client):
        await client.send(GET)
        await client.read_head()
        client.reset()
        exchange = await engine.seen.last()
        assert (exchange.status, exchange.reason) == (200, Reason.CLIENT_CLOSED)
        await (await fake.connection(0)).ended.wait()


@live
async def test_a_client_that_leaves_in_the_middle_of_its_body_cancels_the_upstream_request():
    async with playing(silent) as (engine, fake, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        connection = await fake.connection(0)
        client.half_close()
        assert (await engine.seen.last()).reason is Reason.CLIENT_CLOSED
        await connection.ended.wait()


# Upgrades


@live
async def test_an_upgrade_is_passed_on_answered_with_101_and_carries_bytes_both_ways():
    async def echo(connection: Connection) -> None:
        head = await connection.read_head()
        assert (head.get("connection"), head.get("upgrade"), head.get("sec-websocket-key")) == ("Upgrade", "websocket", "k")
        await connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhello"
        )
        while data := await connection.read_some():
            await connection.send(data)

    async with playing(echo) as (engine, _, client):
        await client.send(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\nearly"
        )
        head = await client.read_head()
        assert head.start == b"HTTP/1.1 101 Switching Protocols"
        assert (head.get("connection"), head.get("upgrade"), head.get("sec-websocket-accept")) == ("Upgrade", "websocket", "x")
        assert await client.read_exactly(10) == b"helloearly"
        client.half_close()
        assert await client.read_until_close() == b""
        exchange = await engine.seen.last()
        assert (exchange.tunnel, exchange.status, exchange.bytes_in, exchange.bytes_out, exchange.reason) == ("websocket", 101, 5, 10, None)
        assert engine.seen.tunnels == [exchange]


@live
async def test_an_upgrade_that_the_upstream_does_not_want_is_an_ordinary_response():
    async with playing(answer(response("426 Upgrade Required", b"no"))) as (_, _, client):
        reply = await client.request(headers="Connection: Upgrade\r\nUpgrade: websocket\r\n")
        assert (reply.status, reply.body) == (426, b"no")
        assert (await client.request()).status == 426


@live
async def test_a_retry_is_a_new_connection_not_bytes_behind_an_old_response():
    """A response that nobody asked for never becomes the answer to the next request."""

    async def talks_too_much(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(response(body=b"ok") + response(body=b"poison"))
        await connection.read_until_close()

    async with playing(talks_too_much) as (_, fake, client):
        for _ in range(3):
            assert (await client.request()).body == b"ok"
        assert len(fake.connections) == 3
        assert re.search(rb"poison", bytes(client.received)) is None


@live
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_upstream_that_goes_away_during_a_large_upload_is_502_and_not_the_clients_fault(chunked: bool):
    async def resets_in_the_middle(connection: Connection) -> None:
        await connection.read_head()
        await connection.read_exactly(300_000)
        connection.reset()

    async with playing(resets_in_the_middle) as (engine, _, client):
        framing = "Transfer-Encoding: chunked" if chunked else "Content-Length: 900000"
        await client.send(f"POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n".encode())
        body = (b"%x\r\n" % 900_000 if chunked else b"") + bytes(900_000) + (b"\r\n0\r\n\r\n" if chunked else b"")
        await client.send(body, piece=50_000)
        assert_reply(await client.read_response(), 502, "connection_terminated", details="upstream=app attempt=1/2")
        exchange = await engine.seen.last()
        assert (exchange.status, exchange.reason) == (502, Reason.CONNECTION_TERMINATED)
        assert exchange.attempts[0].outcome == "connection_terminated"


@live
async def test_an_early_answer_is_passed_on_whole_although_the_upstream_no_longer_takes_the_upload():
    async def answers_and_goes(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(response("403 No", b"x" * 50_000))
        connection.half_close()
        await connection.read_exactly(1_500_000)

    async with playing(answers_and_goes) as (_, _, client):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n")
        await client.send(bytes(200_000), piece=50_000)
        reply = await client.read_response()
        assert (reply.status, reply.body) == (403, b"x" * 50_000)
