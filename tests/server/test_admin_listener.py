"""The admin address is bound at once, its application is loaded at the first visit."""

from __future__ import annotations

import pytest
import uvloop
from aiohttp import web
from support.client import RawClient

from sidecar.server.admin_listener import AdminListener
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
            with pytest.raises(ConnectionResetError):
                await client.read_until_close()
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
