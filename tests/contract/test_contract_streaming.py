"""Bodies move at the speed of the slower side, and what is kept of them is bounded."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop
from contract_kit import Kind, Source, calling, every_kind, read, within
from contract_peers import Served

MIB = 1024 * 1024
PIECE = bytes(range(256)) * 256
OURS = 256 * 1024
"""Bytes that one exchange may keep (product.md 3.4)."""
FAKES = 512 * 1024
"""What the server that a test plays keeps in its own buffers, at most."""


@asynccontextmanager
async def memory_grows_less_than(size: int) -> AsyncIterator[None]:
    """Python's memory at the end of the block, compared with its beginning; the kernel's buffers do not count."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        yield
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < size, f"{grown} bytes more than before"


async def stands_still(count) -> int:
    """Wait until `count()` does not change any more; returns it."""
    last, same = -1, 0
    while same < 40:
        await asyncio.sleep(0.01)
        now = count()
        same = same + 1 if now == last else 0
        last = now
    return last


@every_kind
def test_a_response_that_is_not_read_stops_its_server(kind: Kind) -> None:
    async def main() -> None:
        sent = 0

        async def script(served: Served) -> None:
            nonlocal sent
            await served.start(200)
            for number in range(384):  # 24 MiB
                await served.send(b"%04d" % number + PIECE[4:])
                sent += len(PIECE)
            await served.end()

        async with calling(kind, script) as (caller, _):
            response = await within(caller.send())
            async with memory_grows_less_than(OURS + FAKES):
                assert await within(response.body.read())
                stopped = await within(stands_still(lambda: sent))
                assert stopped < 12 * MIB
            response.abort()

    uvloop.run(main())


@every_kind
def test_a_large_response_comes_back_whole(kind: Kind) -> None:
    async def main() -> None:
        async def script(served: Served) -> None:
            await served.start(200, (), None if served.target == b"/chunked" else 64 * len(PIECE))
            for number in range(64):
                await served.send(b"%04d" % number + PIECE[4:])
            await served.end()

        async with calling(kind, script) as (caller, peer):
            whole = b"".join(b"%04d" % number + PIECE[4:] for number in range(64))
            for target in (b"/chunked", b"/length"):
                assert (await caller.ask(b"GET", target)).body == whole
            assert peer.connections == 1

    uvloop.run(main())


class Endless(Source):
    """A body of 24 MiB whose pieces are made when they are asked for."""

    def __init__(self, **more) -> None:
        super().__init__(**more)
        self.made = 0

    def ready(self) -> bool:
        return True

    async def read(self) -> bytes:
        if self.made == 384:
            return b""
        self.made += 1
        self.taken += len(PIECE)
        await asyncio.sleep(0)
        return b"%04d" % (self.made % 10_000) + PIECE[4:]


@every_kind
def test_an_upload_that_is_not_read_is_not_fetched_from_the_client(kind: Kind) -> None:
    """The server answers nothing, reads nothing, and then goes on."""

    async def main() -> None:
        go = asyncio.Event()

        async def script(served: Served) -> None:
            served.transport.pause_reading()
            await go.wait()
            served.transport.resume_reading()
            size = 0
            while piece := await served.some():
                size += len(piece)
            await served.answer(200, (), b"%d" % size)

        async with calling(kind, script) as (caller, _):
            source = Endless(length=384 * len(PIECE))
            async with memory_grows_less_than(OURS + FAKES):
                asking = asyncio.ensure_future(caller.send(b"POST", b"/", (), source))
                stopped = await within(stands_still(lambda: source.taken))
                assert 0 < stopped < 12 * MIB
            go.set()
            assert (await read(await within(asking))).body == b"%d" % (24 * MIB)

    uvloop.run(main())


@every_kind
def test_a_response_is_handed_on_piece_by_piece_as_it_comes(kind: Kind) -> None:
    async def main() -> None:
        steps: asyncio.Queue[bytes] = asyncio.Queue()

        async def script(served: Served) -> None:
            await served.start(200, (), 30 if served.target == b"/length" else None)
            while piece := await steps.get():
                await served.send(piece)
            await served.end()

        async with calling(kind, script) as (caller, _):
            for target in (b"/length", b"/chunked"):
                response = await within(caller.send(b"GET", target))
                for number in range(6):
                    assert not response.body.ready()
                    steps.put_nowait(b"five%d" % number)
                    assert await within(response.body.read()) == b"five%d" % number
                steps.put_nowait(b"")
                assert await within(response.body.read()) == b""
                assert await within(response.body.read()) == b""
                response.release()

    uvloop.run(main())
