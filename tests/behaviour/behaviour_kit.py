"""What the tests of behaviour share: an event loop per test, scripts of bad upstreams, the exact shape of our own replies."""

from __future__ import annotations

import asyncio
import functools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import uvloop
from support import Connection, RawClient, Response, Script, ScriptedUpstream
from support.engine import Engine, upstream

LONG = 60.0
"""A bound on a test as a whole, never what it measures."""


def live(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an `async def` test on the loop that production uses."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(LONG):
                await test(*args, **kwargs)

        uvloop.run(bounded())

    return run


# Upstreams


async def silent(connection: Connection) -> None:
    """Reads a request and says nothing."""
    await connection.read_request()
    await connection.read_until_close()


async def deaf(connection: Connection) -> None:
    """Does not even read."""
    connection._writer.transport.pause_reading()
    await asyncio.sleep(LONG)


async def hangs_up(connection: Connection) -> None:
    """Reads a request and closes."""
    await connection.read_request()


async def resets(connection: Connection) -> None:
    """Reads a request and resets."""
    await connection.read_request()
    connection.reset()


def then_silent(*data: bytes, pause: float = 0.0) -> Script:
    """Reads a request, sends each of `data` with `pause` seconds before it, and then nothing more."""

    async def play(connection: Connection) -> None:
        await connection.read_request()
        for piece in data:
            await asyncio.sleep(pause)
            if connection._writer.is_closing():  # the peer has had enough; uvloop would raise RuntimeError
                return
            await connection.send(piece)
        await connection.read_until_close()

    return play


def then_close(data: bytes) -> Script:
    """Reads a request, sends `data` and closes."""

    async def play(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(data)

    return play


@contextmanager
def never_accepts() -> Iterator[int]:
    """A port whose SYN packets are dropped: its backlog is full."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        port = sock.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            yield port
        finally:
            for filler in fillers:
                filler.close()


# One of each


@asynccontextmanager
async def playing(script: Script, **engine: Any) -> AsyncIterator[tuple[Engine, ScriptedUpstream, RawClient]]:
    """An engine in front of one upstream that plays `script`, and a client of its Reverse listener.

    `up` are fields of the upstream, the rest of `engine` goes to the engine.
    """
    up = engine.pop("up", {})
    async with ScriptedUpstream(script) as fake, Engine(upstream(fake.port, **up), **engine) as running:
        async with await RawClient.open(running.port()) as client:
            yield running, fake, client


async def ask(engine: Engine, target: str = "/", *, listener: str = "inbound", **request: Any) -> Response:
    """One request on a connection of its own."""
    async with await RawClient.open(engine.port(listener)) as client:
        return await client.request(target, **request)


def assert_reply(response: Response, status: int, reason: str, *, clock: str | None = None, details: str | None = None) -> None:
    """`response` is our own: status, Proxy-Status and problem+json to the letter; `details` None: not looked at."""
    assert response.status == status, (response.start, response.fields, response.body)
    proxy_status = response.get("proxy-status") or ""
    if details is None:
        assert proxy_status.partition("; details=")[0] == f"outrider; error={reason}"
    elif details:
        assert proxy_status == f'outrider; error={reason}; details="{details}"'
    else:
        assert proxy_status == f"outrider; error={reason}"
    assert response.get("content-type") == "application/problem+json"
    problem = json.loads(response.body)
    expected = {"type", "title", "status", "detail", "reason", "requestId"} | ({"clock"} if clock else set())
    assert set(problem) == expected
    assert (problem["status"], problem["reason"], problem.get("clock")) == (status, reason, clock)
    assert problem["type"] == "about:blank"
    assert problem["requestId"] == response.get("x-request-id") != ""


async def assert_reset(client: RawClient) -> None:
    """What the client got is cut by a reset, never ended."""
    with pytest.raises(ConnectionResetError):
        await client.read_until_close()
