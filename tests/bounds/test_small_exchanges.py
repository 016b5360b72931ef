"""What one exchange with a slow peer holds at most while memory could run short is what the overload manager counts on."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Callable
from typing import cast

import pytest
import uvloop
from bounds_kit import KIB, MIB, Crowd, until
from support import Connection, RawClient, ScriptedUpstream
from support.engine import Engine, upstream

from sidecar.http1.body import RequestBody
from sidecar.http1.connection import BULK_READ, SMALL_READ, set_bulk_read
from sidecar.http1.server_connection import ServerConnection
from sidecar.http1.upstream_connection import UpstreamConnection
from sidecar.model.exchange import Exchange
from sidecar.model.head import Field, RequestHead
from sidecar.model.snapshot import Listener, Mode, Timeouts
from sidecar.policy.deadline import Deadlines
from sidecar.policy.overload import SMALL_EXCHANGE
from sidecar.proxy.body import Kept, OutgoingBody

SIZE = 6 * MIB


def chunks(size: int) -> Callable[[int], bytes]:
    """A chunked body of `total` bytes in chunks of `size`."""
    return lambda total: (b"%x\r\n" % size + bytes(size) + b"\r\n") * (total // size) + b"0\r\n\r\n"


BODIES: dict[str, tuple[bytes, Callable[[int], bytes]]] = {
    "of known length": (b"Content-Length: %d\r\n" % SIZE, bytes),
    "in chunks of 100 bytes": (b"Transfer-Encoding: chunked\r\n", chunks(100)),
    "in chunks of 16 KiB": (b"Transfer-Encoding: chunked\r\n", chunks(16 * KIB)),
    "in chunks of 1 MiB": (b"Transfer-Encoding: chunked\r\n", chunks(MIB)),
    "until close": (b"Connection: close\r\n", bytes),
}


def held() -> int:
    """Bytes in all buffers of connections of this process."""
    connected = (
        one
        for one in gc.get_objects()
        if isinstance(one, ServerConnection | UpstreamConnection) and hasattr(one, "transport") and not one.closed
    )
    return sum(len(one.rx) + one.transport.get_write_buffer_size() for one in connected)


async def most_held(seconds: float) -> int:
    """The most that is held within some time."""
    most = 0
    for _ in range(int(seconds / 0.01)):
        most = max(most, held())
        await asyncio.sleep(0.01)
    return most


@pytest.fixture(autouse=True)
def _as_before():
    yield
    set_bulk_read(BULK_READ)


@pytest.mark.parametrize("body", BODIES)
def test_a_response_to_a_client_that_reads_nothing_or_little_holds_what_is_counted_for_it(body: str) -> None:
    framing, rendered = BODIES[body]

    async def script(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + rendered(SIZE))
        await connection.close()

    async def main() -> None:
        async with ScriptedUpstream(script, timeout=60.0) as server, Engine(upstream(server.port)) as engine:
            engine.proxy.overload.roomy, engine.proxy.overload.most = 0, 1000
            set_bulk_read(SMALL_READ)  # what came before is read as it was
            async with Crowd(engine.port(), receive_buffer=4096) as crowd:
                await crowd.join(1, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await until(lambda: held() > 0, "something is held")
                most = await most_held(0.3)
                for _ in range(10):
                    assert len(crowd.sockets[0].recv(64 * KIB)) > 0
                    most = max(most, await most_held(0.03))
            assert most <= SMALL_EXCHANGE, f"{most / KIB:.0f} KiB"

    uvloop.run(main())


@pytest.mark.parametrize("body", [name for name in BODIES if name != "until close"])
def test_an_upload_to_an_upstream_that_reads_nothing_holds_what_is_counted_for_it(body: str) -> None:
    framing, rendered = BODIES[body]
    go = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.read_head()
        connection._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection._writer.transport.pause_reading()
        await go.wait()

    async def main() -> None:
        async with ScriptedUpstream(script, timeout=60.0) as server, Engine(upstream(server.port), route={"retry": None}) as engine:
            engine.proxy.overload.roomy, engine.proxy.overload.most = 0, 1000
            set_bulk_read(SMALL_READ)  # what came before is read as it was
            async with await RawClient.open(engine.port(), timeout=60.0) as client:
                client._writer.write(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n" + rendered(SIZE))
                await until(lambda: held() > 0, "something is held")
                most = await most_held(0.3)
                client.reset()
                go.set()
            assert most <= SMALL_EXCHANGE, f"{most / KIB:.0f} KiB"

    uvloop.run(main())


class Drip:
    """A client's body that comes two bytes at a time, each time in a packet of its own."""

    length = 60_000
    trailers: list[Field] = []  # noqa: RUF012  # as the attribute of a RequestBody, and nobody changes it
    error = None
    left = length

    @property
    def done(self) -> bool:
        return not self.left

    def ready(self) -> bool:
        return True

    async def read(self) -> bytes:
        self.left -= 2
        return b"%02d" % (self.left % 100) if self.left >= 0 else b""


def test_a_body_that_comes_in_tiny_pieces_is_kept_for_a_replay_in_few_objects() -> None:
    listener = Listener(name="in", port=0, bind="127.0.0.1", mode=Mode.REVERSE)
    exchange = Exchange(listener, RequestHead(b"PUT", b"/", 1, []), "127.0.0.1", 0.0)
    kept = Kept()

    async def main() -> None:
        body = OutgoingBody(cast("RequestBody", Drip()), exchange, Deadlines(Timeouts()), 64 * KIB, kept)
        sent = b"".join([await body.read() for _ in range(Drip.length // 2)])
        pieces = body.whole()
        assert pieces is not None
        assert (b"".join(pieces), kept.size) == (sent, Drip.length)
        assert sum(map(sys.getsizeof, pieces)) < Drip.length * 1.1, "what is counted is what is held"
        body.rewind()
        assert b"".join([await body.read() for _ in pieces]) == sent

    asyncio.run(main())
