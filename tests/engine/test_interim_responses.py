"""Interim responses and `Expect`: RFC 9110 sections 10.1.1 and 15.2, product.md 3.4 and 3.9."""

from __future__ import annotations

import pytest
import uvloop
from engine_driver import LAST, OLD, finish, hold, split_responses, swallow, talk
from support import Connection, RawClient, ScriptedUpstream, response
from support.engine import Engine, upstream

from sidecar.model.reason import Reason

OK = response(body=b"ok")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nlink: </b>\r\nConnection: X-A\r\nX-A: 1\r\nContent-Length: 5\r\n\r\n"
EXPECT = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n"


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints", b"199 Whatever"])
def test_every_interim_response_is_relayed_as_it_came(status):
    async def main() -> None:
        async with (
            ScriptedUpstream(finish(b"HTTP/1.1 " + status + b"\r\nX: y\r\n\r\n" + OK)) as peer,
            Engine(upstream(peer.port)) as engine,
        ):
            heard = await talk(engine.port(), LAST)
            assert heard.data.startswith(b"HTTP/1.1 " + status + b"\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\n")

    uvloop.run(main())


def test_an_interim_response_is_relayed_at_once_and_keeps_its_fields_to_itself():
    async def main() -> None:
        async with ScriptedUpstream(hold(HINTS)) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(LAST)
                hints = await client.read_response()
                assert hints.start == b"HTTP/1.1 103 Early Hints"
                assert hints.fields == [(b"Link", b"</a>"), (b"link", b"</b>")]
                await peer.connections[0].send(OK)
                final = await client.read_response()
                assert (final.status, final.body, final.get("link")) == (200, b"ok", None)

    uvloop.run(main())


def test_an_http_10_client_gets_the_final_response_only():
    async def main() -> None:
        async with ScriptedUpstream(finish(CONTINUE + HINTS + OK)) as peer, Engine(upstream(peer.port)) as engine:
            assert (await talk(engine.port(), OLD)).statuses == [200]

    uvloop.run(main())


@pytest.mark.parametrize(("count", "final"), [(16, 200), (17, 502)])
def test_more_than_sixteen_interim_responses_are_a_502(count, final):
    async def main() -> None:
        async with ScriptedUpstream(hold(HINTS * count + OK)) as peer, Engine(upstream(peer.port)) as engine:
            heard = await talk(engine.port(), LAST)
            assert heard.statuses == [103] * 16 + [final]
            assert engine.seen.finished[0].reason is (Reason.HTTP_PROTOCOL_ERROR if final == 502 else None)

    uvloop.run(main())


def test_interim_responses_of_more_than_64_kib_together_are_a_502():
    async def main() -> None:
        large = b"HTTP/1.1 103 Early Hints\r\nX: " + b"y" * 30_000 + b"\r\n\r\n"
        async with ScriptedUpstream(finish(large * 3 + OK)) as peer, Engine(upstream(peer.port)) as engine:
            heard = await talk(engine.port(), LAST)
            assert heard.data.count(b"HTTP/1.1 103") == 2
            assert b"HTTP/1.1 502 Bad Gateway\r\n" in heard.data
            assert engine.seen.finished[0].reason is Reason.HTTP_PROTOCOL_ERROR

    uvloop.run(main())


def test_an_interim_response_without_a_final_one_is_a_502_and_never_retried():
    async def main() -> None:
        async with ScriptedUpstream(finish(HINTS)) as peer, Engine(upstream(peer.port)) as engine:
            assert (await talk(engine.port(), LAST)).statuses == [103, 502]
            assert len(peer.connections) == 1
            assert engine.seen.finished[0].reason is Reason.HTTP_RESPONSE_INCOMPLETE

    uvloop.run(main())


def test_a_client_that_waits_for_100_gets_the_upstreams_and_only_one():
    async def careful(connection: Connection) -> None:
        request = await connection.read_head()
        assert request.get("expect") == "100-continue"
        await connection.read_nothing(0.02)
        await connection.send(CONTINUE)
        await connection.read_body(request)
        assert request.body == b"hello"
        await connection.send(OK)

    async def main() -> None:
        async with ScriptedUpstream(careful) as peer, Engine(upstream(peer.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(EXPECT + b"Connection: close\r\n\r\n")
                assert (await client.read_response()).status == 100
                await client.send(b"hello")
                assert split_responses(await client.read_until_close()) == [(200, b"ok")]

    uvloop.run(main())


@pytest.mark.parametrize("status", [b"200 OK", b"401 Unauthorized", b"417 Expectation Failed"])
def test_a_final_answer_instead_of_100_says_close_because_the_body_may_or_may_not_follow(status):
    async def main() -> None:
        data = b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"

        async def reject(connection: Connection) -> None:
            await connection.read_head()
            await connection.send(data)
            await swallow(connection)

        async with ScriptedUpstream(reject) as peer, Engine(upstream(peer.port)) as engine:
            heard = await talk(engine.port(), EXPECT + b"\r\n")
            assert heard.statuses == [int(status[:3])]
            assert b"\r\nConnection: close\r\n" in heard.data
            assert heard.ended == "closed"
            await peer.connections[0].ended.wait()

    uvloop.run(main())


def test_a_client_that_does_not_wait_is_served_all_the_same():
    async def main() -> None:
        async def play(connection: Connection) -> None:
            request = await connection.read_request()
            await connection.send(CONTINUE + response(body=request.body))

        async with ScriptedUpstream(play) as peer, Engine(upstream(peer.port)) as engine:
            heard = await talk(engine.port(), EXPECT + b"Connection: close\r\n\r\nhello")
            assert split_responses(heard.data) == [(100, b""), (200, b"hello")]

    uvloop.run(main())


@pytest.mark.parametrize("value", ["y 100-continue", "foo", "100-Continue"])
def test_we_never_answer_an_expectation_ourselves_and_pass_it_on_verbatim(value):
    async def main() -> None:
        async with ScriptedUpstream(finish(OK)) as peer, Engine(upstream(peer.port)) as engine:
            heard = await talk(engine.port(), LAST[:-2] + f"Expect: {value}\r\nContent-Length: 1\r\n\r\nx".encode())
            assert heard.statuses == [200]
            assert peer.requests[0].get_all("expect") == [value]

    uvloop.run(main())
