"""A great many exchanges of every kind at once: no answer ever goes to another request, and nothing is left at the end.

`OUTRIDER_SOAK` scales it (1.0 = 100,000 exchanges, the default).
"""

from __future__ import annotations

import asyncio
import os
import random
import zlib
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

import pytest
import uvloop
from faults.rig import assert_clean
from support import RawClient
from support.engine import Engine, upstream
from support.wire import Message

from sidecar.model.exchange import State
from sidecar.model.reason import Reason
from sidecar.model.snapshot import PoolLimits, RetryBudget, RetryPolicy

EXCHANGES = int(100_000 * float(os.environ.get("OUTRIDER_SOAK", "1.0")))
CLIENTS = 32
ENDPOINTS = 3
NOISE = random.Random(5).randbytes(512 * 1024)


def body_for(tag: bytes, size: int) -> bytes:
    """`size` bytes that only `tag` has: its name, again and again where it matters, over noise that it selects."""
    start = zlib.crc32(tag) % (len(NOISE) // 2)
    noise = NOISE if start + size <= len(NOISE) else NOISE * (size // len(NOISE) + 2)
    return (tag + b"|" + noise[start : start + size])[:size]


class Server(asyncio.Protocol):
    """An upstream that answers by what the target says: /ID/SIZE/HOW. Naive, whole requests only, but pipelining-safe."""

    seen: ClassVar[Counter[bytes]] = Counter()
    """How often each request that must not be repeated has come."""
    flaky: ClassVar[set[bytes]] = set()
    """Requests whose first try has been refused."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as asyncio's own
        self.transport = transport
        self.data = bytearray()
        self.wanted = 0

    def data_received(self, data: bytes) -> None:
        self.data += data
        while len(self.data) >= self.wanted and (request := self._next()) is not None:
            self._answer(*request)

    def _next(self) -> tuple[bytes, bytes, bytes] | None:
        """Method, target and body of a request that has wholly come."""
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self.data[:end]).lower()
        method, target, _ = bytes(self.data[:end]).split(b" ", 2)
        start = end + 4
        if b"\r\ntransfer-encoding: chunked" in head:
            return self._chunked(method, target, start)
        length = int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0] or 0)
        if len(self.data) < start + length:
            self.wanted = start + length
            return None
        body = bytes(self.data[start : start + length])
        del self.data[: start + length]
        self.wanted = 0
        return method, target, body

    def _chunked(self, method: bytes, target: bytes, at: int) -> tuple[bytes, bytes, bytes] | None:
        body = bytearray()
        while (line := self.data.find(b"\r\n", at)) > 0:
            size = int(bytes(self.data[at:line]), 16)
            after = line + 2 + size + 2
            if len(self.data) < after:
                return None
            body += self.data[line + 2 : line + 2 + size]
            at = after
            if not size:
                del self.data[:at]
                return method, target, bytes(body)
        return None

    def _answer(self, method: bytes, target: bytes, body: bytes) -> None:
        _, tag, size, how = target.split(b"/")
        if method == b"POST":
            Server.seen[tag] += 1
            if body != body_for(tag, len(body)):
                self._write(b"HTTP/1.1 418 Mixed up\r\nContent-Length: 0\r\n\r\n")
                return
        if how == b"flaky" and tag not in Server.flaky:
            Server.flaky.add(tag)
            self._write(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")
            return
        if how == b"dies" and tag not in Server.flaky:
            Server.flaky.add(tag)
            self.transport.abort()
            return
        answer = body_for(tag, int(size))
        common = b"HTTP/1.1 200 OK\r\nx-tag: " + tag + b"\r\nx-got: %d\r\n" % len(body)
        if method == b"HEAD":
            self._write(common + b"Content-Length: %d\r\n\r\n" % len(answer))
        elif how == b"chunked":
            third = max(len(answer) // 3, 1)
            chunks = [answer[start : start + third] for start in range(0, len(answer), third)]
            self._write(
                common
                + b"Transfer-Encoding: chunked\r\n\r\n"
                + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in chunks)
                + b"0\r\n\r\n"
            )
        elif how == b"closes":
            self._write(common + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(answer) + answer)
            self.transport.close()
        else:
            self._write(common + b"Content-Length: %d\r\n\r\n" % len(answer) + answer)

    def _write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)


def _size(rng: random.Random) -> int:
    """Mostly small."""
    return rng.choice((0, 10, 300, 1000, 1000, 5000)) if rng.random() < 0.97 else rng.randrange(200 * 1024)


class Client:
    """One connection after another, each with many exchanges on it."""

    def __init__(self, number: int, port: int) -> None:
        self.number = number
        self.port = port
        self.rng = random.Random(number)
        self.count = 0
        self.kinds: Counter[str] = Counter()

    async def run(self, left: Callable[[], int]) -> None:
        while left() > 0:
            async with await RawClient.open(self.port, timeout=30.0) as wire:
                for _ in range(self.rng.randrange(50, 400)):
                    if left() <= 0 or not await self._some(wire):
                        break

    def _tag(self) -> bytes:
        self.count += 1
        return b"c%d-%d" % (self.number, self.count)

    async def _some(self, wire: RawClient) -> bool:
        """One exchange, or a pipeline of them; False when the connection is used up."""
        dice = self.rng.random()
        if dice < 0.35:
            return await self._pipeline(wire)
        if dice < 0.75:
            await self._one(wire, b"GET", self.rng.choice((b"plain", b"plain", b"chunked", b"closes")))
        elif dice < 0.80:
            await self._one(wire, b"HEAD", b"plain")
        elif dice < 0.97:
            await self._post(wire)
        elif dice < 0.985:
            await self._one(wire, b"GET", self.rng.choice((b"flaky", b"dies")), kind="retried")
        else:
            await self._abort(wire)
            return False
        return True

    async def _one(self, wire: RawClient, method: bytes, how: bytes, kind: str = "") -> None:
        tag, size = self._tag(), _size(self.rng)
        await wire.send(b"%b /%b/%d/%b HTTP/1.1\r\nHost: a\r\n\r\n" % (method, tag, size, how))
        self._check(await wire.read_response(to=method.decode()), tag, b"" if method == b"HEAD" else body_for(tag, size))
        self.kinds[kind or method.decode()] += 1

    async def _pipeline(self, wire: RawClient) -> bool:
        wanted = [(self._tag(), _size(self.rng), self.rng.choice((b"plain", b"chunked"))) for _ in range(self.rng.randrange(2, 12))]
        await wire.send(b"".join(b"GET /%b/%d/%b HTTP/1.1\r\nHost: a\r\n\r\n" % one for one in wanted))
        for tag, size, _ in wanted:
            self._check(await wire.read_response(), tag, body_for(tag, size))
        self.kinds["pipelined"] += len(wanted)
        return True

    async def _post(self, wire: RawClient) -> None:
        tag, size, sent = self._tag(), _size(self.rng), _size(self.rng)
        body = body_for(tag, sent)
        head = b"POST /%b/%d/plain HTTP/1.1\r\nHost: a\r\n" % (tag, size)
        if self.rng.random() < 0.5:
            await wire.send(head + b"Content-Length: %d\r\n\r\n" % sent + body)
        else:
            await wire.send(head + b"Transfer-Encoding: chunked\r\n\r\n")
            step = self.rng.randrange(100, 60_000)
            coded = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for start in range(0, sent, step) if (one := body[start : start + step]))
            await wire.send(coded + b"0\r\n\r\n")
        answer = await wire.read_response()
        self._check(answer, tag, body_for(tag, size))
        assert answer.get("x-got") == str(sent)
        assert Server.seen[tag] == 1, "a POST that was answered was sent once"
        self.kinds["POST"] += 1

    async def _abort(self, wire: RawClient) -> None:
        """Leave in the middle of something: a head, an upload, a download."""
        tag = self._tag()
        part = self.rng.choice(
            (
                b"GET /%b/1000/plain HT" % tag,
                b"POST /%b/10/plain HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" % tag + body_for(tag, 50_000),
                b"GET /%b/200000/plain HTTP/1.1\r\nHost: a\r\n\r\n" % tag,
                b"GET /%b/200000/chunked HTTP/1.1\r\nHost: a\r\n\r\n" % tag,
            )
        )
        await wire.send(part)
        if self.rng.random() < 0.5 and part.startswith(b"GET") and part.endswith(b"\r\n\r\n"):
            await wire.read_some(1000)
        self.rng.choice((wire.reset, wire.half_close))()
        self.kinds["aborted"] += 1

    def _check(self, answer: Message, tag: bytes, body: bytes) -> None:
        assert answer.start.split(b" ")[1] == b"200", (answer, tag)
        assert (answer.get("x-tag") or "").encode() == tag, "the answer of another request"
        assert answer.body == body, f"{tag!r}: {len(answer.body)} bytes instead of {len(body)}, or another's"


@pytest.mark.timeout(600)
def test_mixed_traffic_is_never_mixed_up() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        Server.seen, Server.flaky = Counter(), set()
        servers = [await loop.create_server(Server, "127.0.0.1", 0) for _ in range(ENDPOINTS)]
        ports = [server.sockets[0].getsockname()[1] for server in servers]
        budget = RetryBudget(percent=100.0, min_retries=1_000_000)
        target = upstream(ports, pool=PoolLimits(max_connections=24), retry_budget=budget)
        route = {"retry": RetryPolicy(attempts=3, backoff=0.001, max_backoff=0.002)}
        try:
            async with Engine(target, route=route) as engine:
                clients = [Client(number, engine.port()) for number in range(CLIENTS)]
                try:
                    async with asyncio.TaskGroup() as group:
                        for client in clients:
                            group.create_task(client.run(lambda: EXCHANGES - len(engine.seen.started)))
                except BaseException as error:
                    error.add_note(f"reasons: {Counter(exchange.reason for exchange in engine.seen.finished)}")
                    raise
                await assert_clean(engine)
                _check_records(engine, sum((client.kinds for client in clients), Counter()))
        finally:  # uvloop does not close with a server that listens
            for server in servers:
                server.close()
                await server.wait_closed()

    uvloop.run(main())


def _check_records(engine: Engine, kinds: Counter[str]) -> None:
    seen = engine.seen
    assert len(seen.finished) >= EXCHANGES
    assert {exchange.reason for exchange in seen.finished} <= {None, Reason.CLIENT_CLOSED}
    assert {exchange.state for exchange in seen.finished} == {State.DONE, State.ABORTED}
    assert all(kinds[kind] for kind in ("GET", "HEAD", "POST", "pipelined", "retried", "aborted")), kinds
    assert len({exchange.request_id for exchange in seen.finished}) == len(seen.finished)
