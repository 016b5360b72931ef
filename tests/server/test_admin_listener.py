"""The admin address is bound at once, its application is loaded at the first visit."""

from __future__ import annotations

import asyncio
import threading

import pytest
import uvloop
from aiohttp import web
from support.client import RawClient

from sidecar.server.admin_listener import LOADED_BYTES, AdminListener
from sidecar.server.sockets import SocketAddress

LOOPBACK = SocketAddress("127.0.0.1", 0)


class Loader:
    """Makes an application that says hello, and counts how often."""

    def __init__(self) -> None:
        self.loaded = 0

    def __call__(self) -> web.Application:
        self.loaded += 1
        app = web.Application()
        app.router.add_get("/", self.hello)
        return app

    async def hello(self, _request: web.Request) -> web.Response:
        return web.Response(text="hello")


def test_the_first_visit_loads_the_application_and_is_answered() -> None:
    async def main() -> None:
        loader = Loader()
        listener = AdminListener(LOOPBACK, loader)
        assert loader.loaded == 0
        for _ in range(2):
            async with await RawClient.open(listener.address.port) as client:
                assert (await client.request("/")).body == b"hello"
        assert loader.loaded == 1
        await listener.aclose()

    uvloop.run(main())


def test_without_a_visit_nothing_is_loaded() -> None:
    async def main() -> None:
        loader = Loader()
        await AdminListener(LOOPBACK, loader).aclose()
        assert loader.loaded == 0

    uvloop.run(main())


@pytest.mark.expects_traceback("task admin surface failed")
def test_a_surface_that_cannot_be_loaded_refuses_its_visitors_at_once() -> None:
    def fail() -> web.Application:
        raise ImportError("no aiohttp")

    async def main() -> None:
        listener = AdminListener(LOOPBACK, fail)
        async with await RawClient.open(listener.address.port) as client:
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await client.request("/")
        await listener.aclose()

    uvloop.run(main())


def test_where_the_memory_limit_leaves_no_room_it_is_not_loaded_and_says_so() -> None:
    async def main() -> None:
        loader, left = Loader(), LOADED_BYTES - 1
        listener = AdminListener(LOOPBACK, loader, lambda: left)
        for _ in range(2):
            async with await RawClient.open(listener.address.port) as client:
                answer = await client.request("/")
                assert (answer.status, loader.loaded) == (503, 0)
                assert b"no room" in answer.body
        async with await RawClient.open(listener.address.port):
            await asyncio.sleep(0.05)  # says nothing: waited for, and let go at the end
            left += 1
            async with await RawClient.open(listener.address.port) as client:
                assert (await client.request("/")).body == b"hello"
            await listener.aclose()

    uvloop.run(main())


def test_closing_ends_a_kept_connection() -> None:
    async def main() -> None:
        listener = AdminListener(LOOPBACK, Loader())
        async with await RawClient.open(listener.address.port) as client:
            await client.request("/")
            await listener.aclose()
            assert await client.read_until_close() == b""

    uvloop.run(main())


def echo(request: bytes) -> bytes | None:
    """A doorstep that answers one request."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndoor" if request.startswith(b"POST /door ") else None


def test_what_the_doorstep_answers_needs_no_surface_nor_room_for_it() -> None:
    async def main() -> None:
        loader = Loader()
        listener = AdminListener(LOOPBACK, loader, lambda: 0, doorstep=echo)
        for _ in range(3):
            async with await RawClient.open(listener.address.port) as client:
                answer = await client.request("/door", method="POST")
                assert (answer.status, answer.body, loader.loaded) == (200, b"door", 0)
                assert await client.read_until_close() == b""
        await listener.aclose()

    uvloop.run(main())


def test_the_doorstep_answers_while_the_surface_is_being_loaded_and_the_surface_afterwards() -> None:
    gate = threading.Event()

    class Slow(Loader):
        def __call__(self) -> web.Application:
            assert gate.wait(60)
            return super().__call__()

    async def main() -> None:
        listener = AdminListener(LOOPBACK, Slow(), doorstep=echo)
        async with await RawClient.open(listener.address.port) as first, await RawClient.open(listener.address.port) as second:
            await first.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await second.request("/door", method="POST")).body == b"door"
            gate.set()
            assert (await first.read_response()).body == b"hello"
        async with await RawClient.open(listener.address.port) as client:
            assert (await client.request("/door", method="POST")).status == 404
        await listener.aclose()

    uvloop.run(main())


def test_a_visitor_that_leaves_without_a_word_loads_nothing_and_many_that_stay_silent_are_let_go_at_the_end() -> None:
    async def main() -> None:
        loader = Loader()
        listener = AdminListener(LOOPBACK, loader)
        async with await RawClient.open(listener.address.port):
            pass
        clients = [await RawClient.open(listener.address.port) for _ in range(80)]
        await asyncio.sleep(0.1)
        await listener.aclose()
        for client in clients:
            await client.close()
        assert loader.loaded == 0

    uvloop.run(main())
