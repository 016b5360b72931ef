"""RequestMirror: copies of requests, whose answers nobody sees."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from document_kit import Chain, Document, document, live, problems_of, proves, reason_of, says, silent, upstream_at
from support import Connection, Script, ScriptedUpstream
from support.ports import closed_port

from sidecar.proxy import mirror
from sidecar.proxy.mirror import COPIES_MAX, Mirrors

MIRROR = "routes[].filters[].requestMirror"


def to_canary(**mirror: Any) -> Document:
    return {"filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "canary"}, **mirror}}]}


def mirrored(app: int, canary: int | str, route: Document | None = None, **more: Any) -> Document:
    doc = document(app, route=to_canary() if route is None else route, **more)
    doc["upstreams"].append(upstream_at(canary, name="canary"))
    return doc


@asynccontextmanager
async def chain_with_canary(script: Script, **parts: Any) -> AsyncIterator[tuple[Chain, ScriptedUpstream, ScriptedUpstream]]:
    async with ScriptedUpstream(says("app")) as app, ScriptedUpstream(script) as canary:
        async with Chain(mirrored(app.port, canary.port, **parts)) as chain:
            yield chain, app, canary


async def copies(chain: Chain, count: int) -> Counter[str]:
    """What became of the copies, once so many are over."""
    while sum((found := Counter(chain.registry.statuses()[1].copies)).values()) < count:
        await asyncio.sleep(0.01)
    return found


@proves(f"{MIRROR}.backendRef.name", "routes[].filters[].type=RequestMirror")
@live
async def test_the_copy_is_the_request_as_it_went_to_its_upstream_and_its_answer_goes_nowhere() -> None:
    async with chain_with_canary(says("canary", status="500 No")) as (chain, app, canary):
        for body in (b"", b"some body"):
            assert reason_of(await chain.ask("/a%20b?c", method="POST", body=body, headers="X-Mine: 1\r\nx-mine: 2\r\n")) == "app"
        assert await copies(chain, 2) == {"success": 2}
        for original, copy in zip(app.requests, canary.requests, strict=True):
            assert (copy.start, copy.fields, copy.body) == (original.start, original.fields, original.body)


@live
async def test_a_chunked_body_is_copied_with_its_trailers() -> None:
    async with chain_with_canary(says("canary")) as (chain, app, canary):
        async with await chain.client() as client:
            await client.send(
                b"POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"3\r\nabc\r\n4\r\ndefg\r\n0\r\nx-sum: 7\r\n\r\n"
            )
            assert (await client.read_response()).status == 200
        await copies(chain, 1)
        assert canary.requests[0].body == app.requests[0].body == b"abcdefg"
        assert canary.requests[0].trailers == app.requests[0].trailers


@proves(f"{MIRROR}.percent")
@live
async def test_a_share_of_the_requests_is_copied() -> None:
    for percent, least, most in ((0, 0, 0), (50, 20, 180), (100, 200, 200)):
        async with chain_with_canary(says("canary"), route=to_canary(percent=percent)) as (chain, _, canary):
            async with await chain.client() as client:
                for _ in range(200):
                    await client.request()
            await copies(chain, least)
            assert least <= len(canary.requests) <= most


@live
async def test_a_body_that_is_too_long_to_be_kept_is_not_copied_and_the_request_is_none_the_worse() -> None:
    async with chain_with_canary(says("canary")) as (chain, app, canary):
        assert reason_of(await chain.ask(method="POST", body=b"x" * 70_000)) == "app"
        assert await copies(chain, 1) == {"body": 1}
        assert len(app.requests[0].body) == 70_000
        assert canary.requests == []


@live
async def test_a_mirror_that_refuses_or_is_silent_changes_nothing_and_is_counted() -> None:
    async with ScriptedUpstream(says("app")) as app:
        with closed_port() as port:
            async with Chain(mirrored(app.port, port)) as chain:
                assert reason_of(await chain.ask()) == "app"
                assert await copies(chain, 1) == {"connection_refused": 1}
    async with chain_with_canary(silent) as (chain, _, canary):
        assert reason_of(await chain.ask()) == "app"
        while not canary.requests:
            await asyncio.sleep(0.01)  # it is still on its way when everything ends


@live
async def test_more_copies_than_may_be_on_their_way_are_not_made() -> None:
    async with chain_with_canary(silent) as (chain, _, _):
        async with await chain.client() as client:
            for _ in range(COPIES_MAX + 3):
                assert (await client.request()).status == 200
        assert await copies(chain, 3) == {"busy": 3}


@live
async def test_the_bodies_of_copies_on_their_way_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "KEPT_MAX", 25_000)
    async with chain_with_canary(silent) as (chain, _, _):
        for _ in range(3):
            assert (await chain.ask(method="POST", body=b"x" * 10_000)).status == 200
        assert await copies(chain, 1) == {"busy": 1}


@live
async def test_several_mirrors_get_a_copy_each() -> None:
    twice = {"filters": to_canary()["filters"] * 2}
    async with chain_with_canary(says("canary"), route=twice) as (chain, _, canary):
        await chain.ask()
        await copies(chain, 2)
        assert len(canary.requests) == 2


@live
async def test_an_upgrade_is_not_copied() -> None:
    async with chain_with_canary(says("canary")) as (chain, _, canary):
        await chain.ask(headers="Connection: Upgrade\r\nUpgrade: websocket\r\n")
        await chain.ask()
        assert await copies(chain, 1) == {"success": 1}
        assert len(canary.requests) == 1


@live
async def test_a_body_that_was_refused_on_its_way_is_not_copied_as_if_it_had_been_whole() -> None:
    async with chain_with_canary(says("canary"), listener={"maxRequestBody": "10"}) as (chain, app, canary):
        async with await chain.client() as client:
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            while not app.connections:
                await asyncio.sleep(0.01)
            await client.send(b"6\r\nworld!\r\n0\r\n\r\n")  # its end has come, and with it too much
            assert (await client.read_response()).status == 413
        assert await copies(chain, 1) == {"body": 1}
        assert canary.connections == []


@live
async def test_a_mirrors_answer_that_does_not_end_is_cut_by_its_size_or_its_time_and_neither_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def endless(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await connection.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")

    async def slow(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        await connection.read_until_close()

    for script, bound in ((endless, "ANSWER_MAX"), (slow, "SECONDS")):
        with monkeypatch.context() as patch:
            patch.setattr(mirror, bound, 1)
            async with chain_with_canary(script) as (chain, _, canary):
                assert (await chain.ask()).status == 200
                assert await copies(chain, 1) == {"success": 1}, "it was answered"
                await canary.connections[0].ended.wait()
                assert chain.registry.statuses()[1].endpoints[0].failures == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" * 1000,
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        b"\xff\x00 garbage \r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000,
    ],
    ids=["interim flood", "upgrade", "poison", "garbage", "huge head"],
)
@live
async def test_what_a_hostile_mirror_says_reaches_nobody(answer: bytes) -> None:
    async def hostile(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(answer)
        await connection.read_until_close()

    async with chain_with_canary(hostile) as (chain, _, _):
        async with await chain.client() as client:
            for count in range(1, 4):
                assert (await client.request(method="POST", body=b"x" * 100)).body == b"app"
                await copies(chain, count)
            await client.read_nothing()


@live
async def test_copies_are_the_first_to_go_without_memory() -> None:
    async with chain_with_canary(silent) as (chain, _, _):
        chain.proxy.overload.roomy = 4  # the request itself, and three more
        async with await chain.client() as client:
            for _ in range(5):
                assert (await client.request()).body == b"app"
        assert await copies(chain, 2) == {"busy": 2}


@live
async def test_closing_owners_without_copies_is_quick() -> None:
    await Mirrors().aclose()


@pytest.mark.parametrize(
    ("route", "problem"),
    [
        (to_canary(backendRef={"name": "cannary"}), "routes[0].filters[0].requestMirror.backendRef.name: there is no upstream"),
        (to_canary(backendRef={"name": "canary", "weight": 1}), "routes[0].filters[0].requestMirror.backendRef.weight: "),
        (to_canary(percent=101), "routes[0].filters[0].requestMirror.percent: "),
        ({"filters": [{"type": "RequestMirror"}]}, "a filter of type RequestMirror has its parameters in requestMirror"),
        (
            {"filters": [*to_canary()["filters"], {"type": "RequestRedirect", "requestRedirect": {"hostname": "b"}}], "backendRefs": []},
            "a route that redirects has nothing to copy",
        ),
    ],
)
def test_what_could_not_work_is_refused(route: Document, problem: str) -> None:
    found = problems_of(mirrored(1, 2, route))
    assert len(found) == 1
    assert problem in found[0]
