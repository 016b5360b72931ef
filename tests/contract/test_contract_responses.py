"""What comes back is what the server said."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from contract_kit import Kind, Source, calling, every_kind, over_http1, read, until, within
from contract_peers import Served

from sidecar.errors import UpstreamError
from sidecar.model.head import ResponseHead
from sidecar.model.reason import Reason


@every_kind
@pytest.mark.parametrize("status", [200, 201, 206, 299, 301, 302, 307, 308, 400, 401, 404, 407, 418, 429, 500, 502, 503, 599])
def test_a_status_comes_back_as_it_is(kind: Kind, status: int) -> None:
    """No redirect is followed, no challenge answered, nothing raised."""

    async def main() -> None:
        fields = [(b"Location", b"/elsewhere"), (b"WWW-Authenticate", b'Basic realm="x"'), (b"Retry-After", b"1")]
        async with calling(kind, lambda served: served.answer(status, fields, b"body")) as (caller, peer):
            for _ in range(2):
                answer = await caller.ask()
                assert (answer.status, answer.body) == (status, b"body")
                assert answer.get(b"location") == b"/elsewhere"
            assert (len(peer.served), peer.connections) == (2, 1)

    uvloop.run(main())


@over_http1
@pytest.mark.parametrize("status", [600, 999])
def test_a_status_that_no_rfc_knows_comes_back_as_it_is(kind: Kind, status: int) -> None:
    async def main() -> None:
        async with calling(kind, lambda served: served.answer(status, (), b"body")) as (caller, _):
            assert (await caller.ask()).status == status

    uvloop.run(main())


@every_kind
@pytest.mark.parametrize("location", [b"http://[bad/", b"//", b"/a b/%zz?x=%2b", b"http://a:x/", b"caf\xe9", b""])
def test_a_location_that_is_no_url_comes_back_as_it_is(kind: Kind, location: bytes) -> None:
    async def main() -> None:
        async with calling(kind, lambda served: served.answer(302, [(b"Location", location)])) as (caller, _):
            answer = await caller.ask()
            assert (answer.status, answer.get(b"location")) == (302, location)

    uvloop.run(main())


@over_http1
def test_fields_of_a_response_keep_order_case_repeats_and_bytes(kind: Kind) -> None:
    async def main() -> None:
        fields = [
            (b"X-A", b"1"),
            (b"x-a", b"2"),
            (b"Z", b""),
            (b"X-Latin", b"caf\xe9"),
            (b"X-Raw", b"\xff\xfe"),
            (b"B", b"b"),
            (b"A", b"a"),
        ]
        async with calling(kind, lambda served: served.answer(200, fields)) as (caller, _):
            assert (await caller.ask()).fields == [*fields, (b"Content-Length", b"0")]

    uvloop.run(main())


@every_kind
@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"br", b"zstd", b"x-what"])
def test_nothing_is_decompressed(kind: Kind, coding: bytes) -> None:
    async def main() -> None:
        body = b"\x1f\x8b not really compressed " * 50
        async with calling(kind, lambda served: served.answer(200, [(b"Content-Encoding", coding)], body)) as (caller, _):
            answer = await caller.ask()
            assert (answer.body, answer.get(b"content-encoding"), answer.get(b"content-length")) == (body, coding, b"%d" % len(body))

    uvloop.run(main())


@every_kind
def test_a_body_of_unknown_length_comes_back_with_its_trailers(kind: Kind) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            await served.start(200)
            for piece in (b"one", b"two", b"three"):
                await served.send(piece)
            await served.end([(b"x-sum", b"11"), (b"x-sum", b"12")])

        async with calling(kind, script) as (caller, peer):
            for _ in range(2):
                answer = await caller.ask()
                assert (answer.body, answer.trailers) == (b"onetwothree", [(b"x-sum", b"11"), (b"x-sum", b"12")])
            assert peer.connections == 1

    uvloop.run(main())


@every_kind
@pytest.mark.parametrize(("method", "status", "fields"), [
    (b"HEAD", 200, ()),
    (b"HEAD", 404, ()),
    (b"GET", 204, ()),
    (b"GET", 304, [(b"ETag", b'"1"')]),
    (b"GET", 304, [(b"Content-Length", b"100")]),
    (b"GET", 200, ()),
])  # fmt: skip
def test_a_response_without_a_body_leaves_the_connection_usable(kind: Kind, method: bytes, status: int, fields: tuple) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            if served.method == b"HEAD":
                await served.start(status, fields, 100)
            else:
                await served.start(status, fields, 0)
            await served.end()

        async with calling(kind, script) as (caller, peer):
            for _ in range(3):
                answer = await caller.ask(method)
                assert (answer.status, answer.body) == (status, b"")
                if method == b"HEAD" or fields == [(b"Content-Length", b"100")]:
                    assert answer.get(b"content-length") == b"100"
            assert peer.connections == 1

    uvloop.run(main())


@every_kind
def test_interim_responses_come_back_in_order_before_the_final_one(kind: Kind) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            await served.interim(103, [(b"link", b"</a>; rel=preload"), (b"link", b"</b>; rel=preload")])
            await served.interim(102)
            await served.interim(199, [(b"x", b"y")])
            await served.answer(200, (), b"final")

        async with calling(kind, script) as (caller, peer):
            for _ in range(2):
                caller.interims.clear()
                assert (await caller.ask()).body == b"final"
                assert [head.status for head in caller.interims] == [103, 102, 199]
                assert [value for _, _, value in caller.interims[0].fields] == [b"</a>; rel=preload", b"</b>; rel=preload"]
            assert peer.connections == 1

    uvloop.run(main())


@every_kind
def test_an_interim_response_comes_back_while_the_final_one_is_not_there_yet(kind: Kind) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def script(served: Served) -> None:
            await served.interim(103, [(b"link", b"</a>")])
            await go.wait()
            await served.answer()

        async with calling(kind, script) as (caller, _):
            asking = asyncio.ensure_future(caller.ask())
            await until(lambda: caller.interims, "the hint has come")
            assert not asking.done()
            go.set()
            assert (await asking).status == 200

    uvloop.run(main())


@every_kind
def test_interim_responses_without_end_are_an_error(kind: Kind) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            while True:
                await served.interim(103)

        async with calling(kind, script) as (caller, _):
            with pytest.raises(UpstreamError) as caught:
                await caller.ask()
            assert caught.value.reason is Reason.HTTP_PROTOCOL_ERROR
            assert len(caller.interims) == 16

    uvloop.run(main())


@every_kind
def test_expect_is_left_to_the_server_which_says_go_on(kind: Kind) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            assert (b"expect", b"100-continue") in [(name.lower(), value) for name, value in served.fields]
            await served.interim(100)
            assert await served.body() == b"after all"
            await served.answer(201)

        async with calling(kind, script) as (caller, peer):
            for _ in range(2):
                source = Source(length=9, open_end=True)

                def go_on(head: ResponseHead, source: Source = source) -> None:
                    assert head.status == 100
                    source.add(b"after all")
                    source.finish()

                caller.on_interim = go_on
                assert (await caller.ask(b"POST", b"/", [(b"Expect", b"100-continue")], source)).status == 201
            assert peer.connections == 1

    uvloop.run(main())


@every_kind
@pytest.mark.parametrize("status", [417, 401, 200])
def test_expect_is_left_to_the_server_which_answers_instead(kind: Kind, status: int) -> None:
    """The body is never asked for, and the connection is not used again where its absence would be taken for the next request."""

    async def main() -> None:
        async with calling(kind, lambda served: served.answer(status, (), b"no")) as (caller, _):
            source = Source(length=1000, open_end=True)
            answer = await caller.ask(b"POST", b"/", [(b"Expect", b"100-continue")], source)
            assert (answer.status, answer.body, source.taken) == (status, b"no", 0)
            assert (await caller.ask()).status == status

    uvloop.run(main())


@every_kind
@pytest.mark.parametrize("status", [200, 413])
def test_an_early_answer_comes_back_while_the_body_is_not_all_there(kind: Kind, status: int) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            await served.some() if served.method == b"POST" else None
            await served.answer(status, (), b"early")

        async with calling(kind, script) as (caller, _):
            source = Source(b"some", length=1_000_000, open_end=True)
            answer = await caller.ask(b"POST", b"/", (), source)
            assert (answer.status, answer.body) == (status, b"early")
            assert (await caller.ask()).body == b"early"

    uvloop.run(main())


@every_kind
def test_both_bodies_may_be_under_way_together(kind: Kind) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            await served.start(200)
            while piece := await served.some():
                await served.send(piece.upper())
            await served.end()

        async with calling(kind, script) as (caller, _):
            source = Source(open_end=True)
            source.add(b"first")
            response = await within(caller.send(b"POST", b"/", (), source))
            assert await within(response.body.read()) == b"FIRST"
            for number in range(20):
                source.add(b"piece %d" % number)
                assert await within(response.body.read()) == b"PIECE %d" % number
            source.finish()
            assert (await within(read(response))).body == b""

    uvloop.run(main())


@every_kind
def test_a_response_that_nobody_reads_can_be_given_up(kind: Kind) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            await served.start(200)
            while served.target == b"/endless":
                await served.send(b"x" * 10_000)
            await served.end()

        async with calling(kind, script) as (caller, _):
            for end in ("abort", "release"):
                response = await within(caller.send(b"GET", b"/endless"))
                getattr(response, end)()
                getattr(response, end)()  # once is enough
                assert (await caller.ask()).body == b""

    uvloop.run(main())
