"""What a reload does to listeners, on real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from msgspec.structs import replace
from support.client import RawClient
from support.ports import free_port

from sidecar.errors import ProxyError
from sidecar.http1.server_connection import ServerConnection
from sidecar.model.snapshot import Listener, Mode
from sidecar.proxy.timekeeper import Timekeeper
from sidecar.server.listeners import ListenerError, Listeners

IN = Listener(name="in", port=0, bind="127.0.0.1", mode=Mode.REVERSE)
OUT = Listener(name="out", port=0, bind="127.0.0.1", mode=Mode.FORWARD)


class Counts:
    def __init__(self) -> None:
        self.open: dict[str, int] = {}

    def connection_opened(self, listener: str) -> None:
        self.open[listener] = self.open.get(listener, 0) + 1

    def connection_closed(self, listener: str) -> None:
        self.open[listener] -= 1


class World:
    """Listeners whose connections are answered with the listener's name, when `gate` is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.held = 0
        """Requests that wait for the gate."""
        self.counts = Counts()
        self.listeners = Listeners(self.handler, self.counts, Timekeeper(asyncio.get_running_loop()))

    def handler(self, listener: Listener) -> Callable[[ServerConnection], Any]:
        async def serve(connection: ServerConnection) -> None:
            while True:
                try:
                    if await connection.next_request() is None:
                        return
                except ProxyError as error:
                    connection.send(b"HTTP/1.1 %d Refused\r\nContent-Length: 0\r\n\r\n" % error.status)
                    return
                self.held += 1
                await self.gate.wait()
                self.held -= 1
                close = b"Connection: close\r\n" if connection.draining else b""
                body = listener.name.encode()
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n%b" % (len(body), close, body))
                if connection.draining:
                    return

        return serve

    def apply(self, *listeners: Listener, drain_timeout: float = 5.0) -> None:
        self.listeners.commit(self.listeners.prepare(listeners), drain_timeout)

    def port(self, name: str) -> int:
        return int(self.listeners.addresses()[name].rpartition(":")[2])

    async def connect(self, name: str) -> RawClient:
        return await RawClient.open(self.port(name))


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    one = World()
    try:
        yield one
    finally:
        await one.listeners.aclose()


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except ConnectionRefusedError:
        return True
    return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def test_an_unchanged_listener_keeps_its_socket_and_its_connections() -> None:
    async def main() -> None:
        async with world() as w:
            w.apply(IN)
            port = w.port("in")
            async with await w.connect("in") as client:
                assert (await client.request()).body == b"in"
                w.apply(IN, OUT)
                assert (w.port("in"), (await client.request()).body) == (port, b"in")

    uvloop.run(main())


def test_a_changed_limit_applies_to_the_next_request_of_an_open_connection() -> None:
    async def main() -> None:
        async with world() as w:
            w.apply(IN)
            async with await w.connect("in") as client:
                await client.request()
                w.apply(replace(IN, max_header_count=1))
                await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n\r\n")
                assert (await client.read_response()).status == 431

    uvloop.run(main())


def test_new_listeners_are_bound_before_old_ones_go_and_a_failure_changes_nothing() -> None:
    async def main() -> None:
        async with world() as w:
            w.apply(IN)
            port = w.port("in")
            with socket.create_server(("127.0.0.1", 0)) as taken:
                bad = replace(OUT, port=taken.getsockname()[1])
                with pytest.raises(ListenerError, match="in use") as caught:
                    w.listeners.prepare((replace(IN, name="other"), bad))
            assert caught.value.index == 1
            assert w.listeners.addresses() == {"in": f"127.0.0.1:{port}"}
            async with await w.connect("in") as client:
                assert (await client.request()).body == b"in"

    uvloop.run(main())


def test_a_removed_listener_stops_accepting_and_closes_idle_connections() -> None:
    async def main() -> None:
        async with world() as w:
            w.apply(IN, OUT)
            port = w.port("out")
            async with await w.connect("out") as client:
                await client.request()
                w.apply(IN)
                assert await client.read_until_close() == b""
            assert refused(port)
            await until(lambda: [entry["name"] for entry in w.listeners.status()] == ["in"])

    uvloop.run(main())


def test_a_removed_listener_lets_the_exchange_in_flight_finish_and_says_close() -> None:
    async def main() -> None:
        async with world() as w:
            w.apply(IN, OUT)
            async with await w.connect("out") as client:
                w.gate.clear()
                await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await until(lambda: w.held == 1)
                w.apply(IN)
                await asyncio.sleep(0.05)
                assert [(entry["name"], entry["state"]) for entry in w.listeners.status()] == [("in", "listening"), ("out", "draining")]
                w.gate.set()
                answer = await client.read_response()
                assert (answer.body, answer.get("connection")) == (b"out", "close")

    uvloop.run(main())


def test_what_does_not_finish_within_the_drain_timeout_is_cut() -> None:
    async def main() -> None:
        async with world() as w:
            w.apply(IN, OUT)
            async with await w.connect("out") as client:
                w.gate.clear()
                await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await until(lambda: w.held == 1)
                w.apply(IN, drain_timeout=0.1)
                with pytest.raises(ConnectionResetError):
                    assert await client.read_until_close() == b"never"
            w.gate.set()

    uvloop.run(main())


@pytest.mark.parametrize("binds", [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"), ("::", "127.0.0.1"), ("127.0.0.1", "::")])
def test_an_address_may_become_narrower_or_wider_on_the_same_port(binds: tuple[str, str]) -> None:
    async def main() -> None:
        async with world() as w:
            port = free_port()
            for bind in binds:
                w.apply(replace(IN, bind=bind, port=port))
                async with await RawClient.open(port) as client:
                    assert (await client.request()).body == b"in"
            assert w.listeners.status()[0]["address"] == binds[1]

    uvloop.run(main())


def test_a_renamed_listener_keeps_its_socket_and_its_old_connections_leave() -> None:
    async def main() -> None:
        async with world() as w:
            w.apply(IN)
            fixed = replace(IN, port=w.port("in"))
            w.apply(fixed)
            async with await w.connect("in") as old:
                assert (await old.request()).body == b"in"
                w.apply(replace(fixed, name="new"))
                assert await old.read_until_close() == b""
            async with await w.connect("new") as client:
                assert (await client.request()).body == b"new"
                assert w.counts.open == {"in": 0, "new": 1}

    uvloop.run(main())


def test_max_connections_leaves_the_rest_in_the_backlog_until_there_is_room() -> None:
    async def main() -> None:
        async with world() as w:
            w.apply(replace(IN, max_connections=1))
            first, second = await w.connect("in"), await w.connect("in")
            assert (await first.request()).body == b"in"
            await second.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await second.read_nothing()
            await first.close()
            assert (await second.read_response()).body == b"in"
            await second.close()

    uvloop.run(main())


def test_a_unix_path_is_a_listener_too(tmp_path: Any) -> None:
    async def main() -> None:
        async with world() as w:
            path = f"{tmp_path}/in.sock"
            w.apply(replace(IN, bind=f"unix:{path}"))
            async with await RawClient.open_unix(path) as client:
                assert (await client.request()).body == b"in"
            assert w.listeners.status()[0]["address"] == f"unix:{path}"
            w.apply(replace(IN, name="renamed", bind=f"unix:{path}"))
            async with await RawClient.open_unix(path) as client:
                assert (await client.request()).body == b"renamed"

    uvloop.run(main())


def test_the_listing_tells_where_port_0_has_gone() -> None:
    async def main() -> None:
        async with world() as w:
            w.apply(IN)
            assert w.listeners.status() == [
                {
                    "name": "in",
                    "mode": "Reverse",
                    "address": "127.0.0.1",
                    "port": w.port("in"),
                    "protocol": "HTTP1",
                    "state": "listening",
                    "tls": "",
                    "problem": "",
                }
            ]

    uvloop.run(main())
