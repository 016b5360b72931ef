"""What aiohttp, httpx and httpcore do by themselves: the reason for each guard in aiohttp_client.py, httpx_client.py and guest.py.

Each test shows a library without our guards misbehave. One that fails says that a release has mended something: then the
guard that its message names may go, and the line in docs/clients.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import httpx
import pytest
import uvloop
from support import Connection, ScriptedUpstream, answer, response
from yarl import URL

POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MENDED = "mended: the guard may go"


def with_aiohttp(script: Any, use: Callable[[aiohttp.ClientSession, str, ScriptedUpstream], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        async with ScriptedUpstream(script) as fake, aiohttp.ClientSession(**settings) as session:
            await use(session, fake.url, fake)

    uvloop.run(main())


def with_httpx(script: Any, use: Callable[[httpx.AsyncClient, str, ScriptedUpstream], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        async with ScriptedUpstream(script) as fake, httpx.AsyncClient(trust_env=False, **settings) as client:
            await use(client, fake.url, fake)

    uvloop.run(main())


def test_aiohttp_delivers_what_comes_unasked_to_the_next_request() -> None:
    """guest: connections are ours and are watched while they are idle; AiohttpWire: a protocol object for one exchange."""

    async def script(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(OK)
        await asyncio.sleep(0.1)
        await connection.send(POISON)
        await connection.read_request()
        await connection.send(OK)

    async def use(session: aiohttp.ClientSession, url: str, _fake: ScriptedUpstream) -> None:
        async with session.get(url) as first:
            await first.read()
        await asyncio.sleep(0.3)
        async with session.get(url) as second:
            assert await second.read() == b"poison", MENDED

    with_aiohttp(script, use)


def test_aiohttp_sends_a_get_twice_without_a_word() -> None:
    """AiohttpWire.plug_in: a second connection is refused."""

    async def script(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(OK)
        if connection.number == 0:
            await connection.read_request()
        else:
            await connection.read_until_close()

    async def use(session: aiohttp.ClientSession, url: str, fake: ScriptedUpstream) -> None:
        for _ in range(2):
            async with session.get(url) as got:
                await got.read()
        assert len(fake.requests) == 3, MENDED

    with_aiohttp(script, use)


def test_aiohttp_drops_interim_responses_and_trailers() -> None:
    """guest: heads and trailers are read by us."""
    hinted = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: 1\r\n\r\n"

    async def use(session: aiohttp.ClientSession, url: str, _fake: ScriptedUpstream) -> None:
        async with session.get(url) as got:
            await got.read()
            assert got.status == 200
            assert "Link" not in got.headers, MENDED
            assert not hasattr(got, "trailers"), MENDED

    with_aiohttp(answer(hinted), use)


def test_aiohttp_takes_a_101_that_nobody_asked_for() -> None:
    """guest: heads are read by us."""

    async def use(session: aiohttp.ClientSession, url: str, _fake: ScriptedUpstream) -> None:
        async with session.get(url) as got:
            assert got.status == 101, MENDED

    with_aiohttp(answer(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"), use)


def test_aiohttp_loses_lines_that_differ_in_case_and_bytes_that_are_no_utf8() -> None:
    """guest.Wire.write: our head takes the place of aiohttp's."""

    async def use(session: aiohttp.ClientSession, url: str, fake: ScriptedUpstream) -> None:
        async with session.get(url, headers=[("X-A", "1"), ("x-a", "2"), ("X-L", b"caf\xe9".decode("latin-1"))]) as got:
            await got.read()
        assert [value for name, value in fake.requests[0].fields if name.lower() == b"x-a"] == [b"2"], MENDED
        assert (b"X-L", b"caf\xe9") not in fake.requests[0].fields, MENDED

    with_aiohttp(answer(OK), use)


def test_aiohttp_writes_methods_in_upper_case_and_cannot_ask_for_an_asterisk() -> None:
    """guest.Wire.write: our head takes the place of aiohttp's."""

    async def use(session: aiohttp.ClientSession, url: str, fake: ScriptedUpstream) -> None:
        async with session.request("get", URL(f"{url}/*", encoded=True)) as got:
            await got.read()
        assert fake.requests[0].start == b"GET /* HTTP/1.1", MENDED

    with_aiohttp(answer(OK), use)


def test_aiohttp_holds_its_head_back_until_the_first_bytes_of_the_body() -> None:
    """guest.Wire.pieces: our head goes out at once where the body is not there yet."""

    async def silence(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(response(body=b"early"))

    async def use(session: aiohttp.ClientSession, url: str, _fake: ScriptedUpstream) -> None:
        more = asyncio.Event()

        async def body() -> Any:
            await more.wait()
            yield b"late"

        asking = asyncio.ensure_future(session.post(url, data=body()))
        await asyncio.sleep(0.3)
        assert not asking.done(), MENDED
        more.set()
        (await asking).close()

    with_aiohttp(silence, use)


def test_aiohttp_waits_for_a_100_without_end() -> None:
    """_headers: aiohttp does not get to see `Expect`."""

    async def silence(connection: Connection) -> None:
        await connection.read_head()
        await connection.read_until_close()

    async def use(session: aiohttp.ClientSession, url: str, fake: ScriptedUpstream) -> None:
        asking = asyncio.ensure_future(session.post(url, data=b"x", headers={"Expect": "100-continue"}))
        await fake.connection(0)
        await asyncio.sleep(0.3)
        assert not asking.done(), MENDED
        assert b"x" not in fake.connections[0].received.partition(b"\r\n\r\n")[2]
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    with_aiohttp(silence, use)


def test_aiohttp_adds_fields_decompresses_and_follows() -> None:
    """_new_session: skip_auto_headers, auto_decompress; allow_redirects; DummyCookieJar."""
    cookie = b"HTTP/1.1 302 Found\r\nSet-Cookie: a=1\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n"

    async def use(session: aiohttp.ClientSession, url: str, fake: ScriptedUpstream) -> None:
        async with session.get(url) as got:
            await got.read()
        assert {b"Accept", b"Accept-Encoding", b"User-Agent"} <= {name for name, _ in fake.requests[0].fields}, MENDED
        assert [request.start for request in fake.requests][1] == b"GET /next HTTP/1.1", MENDED
        assert fake.requests[1].get("cookie") == "a=1", MENDED

    async def main() -> None:
        async with (
            ScriptedUpstream(answer(cookie, OK)) as fake,
            aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session,
        ):
            await use(session, fake.url, fake)

    uvloop.run(main())


def test_httpx_reads_locations_that_it_is_not_to_follow_and_fails() -> None:
    """httpx_response: httpx does not get to see `Location`."""

    async def use(client: httpx.AsyncClient, url: str, _fake: ScriptedUpstream) -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(url, follow_redirects=False)

    with_httpx(answer(response("302 Found", headers="Location: http://a:x/\r\n")), use)


def test_httpx_keeps_all_cookies() -> None:
    """httpx_response and new_client: httpx does not get to see `Set-Cookie`, and its jar takes nothing."""

    async def use(client: httpx.AsyncClient, url: str, fake: ScriptedUpstream) -> None:
        for _ in range(2):
            await client.get(url)
        assert fake.requests[1].get("cookie") == "a=1", MENDED

    with_httpx(answer(response(headers="Set-Cookie: a=1\r\n")), use)


def test_httpcore_sends_all_of_a_request_before_it_reads_anything() -> None:
    """_Exchange.run: an answer that comes first goes past httpcore."""

    async def script(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(response("413 Too Large", b"early"))
        await connection.read_until_close()

    async def use(client: httpx.AsyncClient, url: str, _fake: ScriptedUpstream) -> None:
        more = asyncio.Event()

        async def body() -> Any:
            yield b"some"
            await more.wait()

        asking = asyncio.ensure_future(client.post(url, content=body()))
        await asyncio.sleep(0.3)
        assert not asking.done(), MENDED
        more.set()
        assert (await asking).status_code == 413

    with_httpx(script, use)


def test_httpcore_drops_interim_responses_and_trailers_and_puts_host_first() -> None:
    """guest: heads and trailers are read by us, and our head takes the place of h11's."""
    hinted = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: 1\r\n\r\n"

    async def use(client: httpx.AsyncClient, url: str, fake: ScriptedUpstream) -> None:
        request = httpx.Request("GET", url, headers=[("A", "1"), ("Host", "x")])
        got = await client.send(request)
        assert got.status_code == 200
        assert "link" not in got.headers, MENDED
        assert "x-t" not in got.headers, MENDED
        assert fake.requests[0].fields[0] == (b"Host", b"x"), MENDED

    with_httpx(answer(hinted), use)


def test_httpx_writes_targets_anew() -> None:
    """httpx_request: the target is given past httpx's URL."""

    async def use(client: httpx.AsyncClient, url: str, fake: ScriptedUpstream) -> None:
        await client.get(f"{url}/a b|%zz?x=<>")
        assert fake.requests[0].start != b"GET /a b|%zz?x=<> HTTP/1.1", MENDED

    with_httpx(answer(OK), use)
