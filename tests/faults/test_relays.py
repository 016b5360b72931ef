"""Bodies on their way: not a byte lost, doubled or out of order, whatever the speeds and whoever goes away."""

from __future__ import annotations

import asyncio
import random

import uvloop
from support import RawClient, ScriptedUpstream
from support.engine import Engine, upstream
from support.upstream import Connection

MIB = 1024 * 1024


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def _slowly(connection: Connection, size: int, *, first_pause: float = 0.05) -> bytes:
    """Read `size` bytes with pauses, so that the kernel's buffers and ours fill up."""
    body = bytearray()
    await asyncio.sleep(first_pause)
    while len(body) < size:
        body += await connection.read_some(min(256 * 1024, size - len(body)))
        if len(body) < size // 2:
            await asyncio.sleep(0.001)
    return bytes(body)


def test_an_upload_through_a_slow_upstream_arrives_in_order() -> None:
    sent = noise(24 * MIB)

    async def main() -> None:
        async def script(connection: Connection) -> None:
            head = await connection.read_head()
            got = await _slowly(connection, int(head.get("content-length") or 0))
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + (b"ok" if got == sent else b"no"))

        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(sent))
                for start in range(0, len(sent), 300_000):
                    await client.send(sent[start : start + 300_000])
                assert (await client.read_response()).body == b"ok"

    uvloop.run(main())
