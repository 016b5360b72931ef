"""The shared fakes do what their docstrings say."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from support import Connection, RawClient, ScriptedUpstream, answer, in_turn, response
from support.wire import TooSlow


def both_loops(test):
    return pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])(test)


@both_loops
def test_each_request_gets_its_answer_in_order_and_the_last_one_stays(run) -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"one"), response("404 Not Found", chunks=[b"t", b"wo"]), piece=1)) as upstream:
            async with await RawClient.open(upstream.port) as client:
                answers = [await client.request("/a", body=b"x" * 10), await client.request("/b"), await client.request("/c")]
        assert [(a.status, a.body) for a in answers] == [(200, b"one"), (404, b"two"), (404, b"two")]
        assert upstream.requests[0].body == b"x" * 10

    run(main())


@both_loops
def test_connections_play_their_scripts_in_turn_and_may_reset(run) -> None:
    async def refuse(connection: Connection) -> None:
        await connection.read_request()
        connection.reset()

    async def main() -> None:
        async with ScriptedUpstream(in_turn(refuse, answer(response(body=b"ok")))) as upstream:
            async with await RawClient.open(upstream.port) as client:
                with pytest.raises(ConnectionResetError):
                    await client.request()
            async with await RawClient.open(upstream.port) as client:
                assert (await client.request()).body == b"ok"
            await asyncio.wait_for((await upstream.connection(0)).ended.wait(), 5)

    run(main())


@both_loops
def test_an_assertion_in_a_script_fails_the_test(run) -> None:
    async def wrong(connection: Connection) -> None:
        raise AssertionError("not what I expected")

    async def main() -> None:
        async with ScriptedUpstream(wrong) as upstream, await RawClient.open(upstream.port) as client:
            assert await client.read_until_close() == b""

    with pytest.raises(AssertionError, match="not what I expected"):
        run(main())


@both_loops
def test_half_close_ends_one_direction_only(run) -> None:
    async def echo(connection: Connection) -> None:
        await connection.send(await connection.read_until_close())

    async def main() -> None:
        async with ScriptedUpstream(echo) as upstream, await RawClient.open(upstream.port) as client:
            await client.send(b"all of it", piece=2)
            client.half_close()
            assert await client.read_until_close() == b"all of it"

    run(main())


@both_loops
def test_silence_that_lasts_too_long_is_a_failure_that_shows_what_came(run) -> None:
    async def half(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 2")
        await connection.read_some()

    async def main() -> None:
        async with ScriptedUpstream(half) as upstream, await RawClient.open(upstream.port, timeout=0.1) as client:
            await client.read_some()
            await client.read_nothing(0.05)
            with pytest.raises(TooSlow, match="HTTP/1.1 2"):
                await client.read_response()

    run(main())
