"""No byte of one exchange gets into the next one on the same connection."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from contract_kit import Kind, Source, calling, every_kind, over_http1, until
from contract_peers import Http1Served, Served

from sidecar.errors import UpstreamError

POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
FIRST = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "204 with a length": b"HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\n",
    "304": b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\n\r\n',
}
AFTER = {
    "a response": POISON,
    "a 408": b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    "a part of one": POISON[:11],
    "one byte": b"H",
    "garbage": b"\x00\xff garbage\r\n\r\n",
    "an interim response": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "a line end": b"\r\n",
}


@over_http1
@pytest.mark.parametrize("later", [False, True], ids=["with it", "later"])
@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("first", FIRST)
def test_what_comes_after_a_response_is_never_the_next_one(kind: Kind, first: str, after: str, later: bool) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            if served.number == 0:
                await served.raw(FIRST[first] + (b"" if later else AFTER[after]))
                if later:
                    await asyncio.sleep(0.02)
                    await served.raw(AFTER[after])
                await asyncio.sleep(30)
            await served.answer(200, (), b"mine")

        async with calling(kind, script) as (caller, peer):
            await caller.ask()
            if later:
                await until(lambda: not caller.counts.open, "the connection is not believed any more")
            assert (await caller.ask()).body == b"mine"
            assert peer.connections == 2

    uvloop.run(main())


@over_http1
def test_bytes_after_the_body_of_a_head_response_are_never_the_next_one(kind: Kind) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            if served.number == 0:
                await served.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
                await asyncio.sleep(30)
            await served.answer(200, (), b"mine")

        async with calling(kind, script) as (caller, peer):
            assert (await caller.ask(b"HEAD")).body == b""
            assert (await caller.ask()).body == b"mine"
            assert peer.connections == 2

    uvloop.run(main())


@over_http1
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_connection_whose_upload_was_not_finished_is_not_used_again(kind: Kind, framing: str) -> None:
    """The next request would be taken for the rest of the body."""

    async def main() -> None:
        async def script(served: Served) -> None:
            await served.answer(401 if served.number == 0 else 200, (), b"%d" % served.number)
            if served.number == 0:
                await asyncio.sleep(30)

        async with calling(kind, script) as (caller, peer):
            source = Source(b"x" * 10, length=1000 if framing == "length" else None, open_end=True)
            assert (await caller.ask(b"POST", b"/", (), source)).status == 401
            assert (await caller.ask()).body == b"1"
            assert peer.connections == 2

    uvloop.run(main())


@over_http1
@pytest.mark.parametrize("fields", [[(b"Connection", b"close")], [(b"connection", b"x, Close")]])
def test_a_server_that_closes_is_believed(kind: Kind, fields) -> None:
    async def main() -> None:
        async with calling(kind, lambda served: served.answer(200, fields, b"once")) as (caller, peer):
            for number in range(3):
                assert (await caller.ask()).body == b"once"
                assert peer.connections == number + 1
            await until(lambda: caller.counts.open == 0, "nothing is kept")

    uvloop.run(main())


@over_http1
@pytest.mark.parametrize("end", ["clean", "reset"])
def test_a_body_that_ends_with_its_connection_is_whole_only_when_the_end_is_clean(kind: Kind, end: str) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            assert isinstance(served, Http1Served)
            await served.raw(b"HTTP/1.%d 200 OK\r\n\r\nuntil the end" % (served.number % 2))
            await asyncio.sleep(0.05)
            await served.close() if end == "clean" else served.vanish()

        async with calling(kind, script) as (caller, peer):
            for _ in range(2):
                if end == "clean":
                    assert (await caller.ask()).body == b"until the end"
                else:
                    with pytest.raises(UpstreamError):
                        await caller.ask()
            assert peer.connections == 2
            await until(lambda: peer.quiet, "the server has said goodbye")

    uvloop.run(main())


@every_kind
def test_a_thousand_exchanges_get_their_own_answers(kind: Kind) -> None:
    """Some servers' answers are late, some come twice, some connections end: none gets the answer of another."""

    async def main() -> None:
        async def script(served: Served) -> None:
            number = int(served.target[1:])
            body = await served.body()
            answer = served.target + b" " + body
            poisoned = number % 50 == 7 and isinstance(served, Http1Served)
            await served.start(200, (), len(answer) if number % 3 or poisoned else None)
            await served.send(answer[:3])
            if number % 5 == 0:
                await asyncio.sleep(0)
            if rest := answer[3:] + (POISON if poisoned else b""):
                await served.send(rest)
            await served.end()

        async with calling(kind, script, max_connections=8, max_pending_requests=2000, max_requests=0) as (caller, _):

            async def ask(number: int) -> None:
                source = Source(b"%d" % number, length=len(b"%d" % number)) if number % 4 else None
                answer = await caller.ask(b"PUT", b"/%d" % number, (), source)
                assert answer.body == b"/%d " % number + (b"%d" % number if number % 4 else b"")

            for start in range(0, 1000, 100):
                await asyncio.gather(*(ask(number) for number in range(start, start + 100)))

    uvloop.run(main())
