"""Bodies that stay in the kernel: the same bytes, the same ends and the same accounts as by any other way."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import random
import stat
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import FunctionType
from typing import Any

import pytest
import uvloop
from faults.rig import assert_clean, read_on, until
from faults.test_relays import noise
from support import RawClient, ScriptedUpstream, response
from support.engine import Engine, upstream
from support.upstream import Connection

from sidecar.http1 import splice
from sidecar.http1.server_connection import ServerConnection
from sidecar.http1.splice import DRAWS, LARGE_MAX, PIPE_BYTES, PIPE_LARGE, PIPES, PIPES_MAX, SPLICE_MIN, Pipes, _Splice
from sidecar.model.reason import Clock, Reason
from sidecar.model.snapshot import Timeouts
from sidecar.policy.deadline import NEVER
from sidecar.proxy.flight import Flight

MIB = 1024 * 1024
LONG = 6 * MIB + 321

pytestmark = pytest.mark.skipif(not hasattr(os, "splice"), reason="this system cannot splice")


class Kernel:
    """Counts splices, and refuses what it is told to."""

    def __init__(self) -> None:
        self.moved = 0
        self.refuse: Callable[[int, int], int] = lambda _source, _destination: 0
        """An errno for this pair of descriptors; 0: go on."""
        self.calls: list[tuple[str, int]] = []
        """`in` to a pipe or `out` of it, and how much went; -1: it would have waited."""
        self._splice = os.splice

    def __call__(self, source: int, destination: int, count: int, **more: Any) -> int:
        way = "in" if is_socket(source) else "out"
        if code := self.refuse(source, destination):
            raise OSError(code, os.strerror(code))
        try:
            moved = self._splice(source, destination, count, **more)
        except BlockingIOError:
            self.calls.append((way, -1))
            raise
        self.moved += moved
        self.calls.append((way, moved))
        return moved

    def pieces(self) -> list[tuple[int, int, bool]]:
        """How often each pipe was filled before it was emptied, what was in it then, and whether its destination took that at once."""
        found, draws, held, emptying, at_once = [], 0, 0, False, True
        for way, moved in [*self.calls, ("in", 1)]:
            if way == "out":
                emptying, at_once = True, at_once and moved >= 0
            elif moved > 0:
                if emptying:
                    found.append((draws, held, at_once))
                    draws, held, emptying, at_once = 0, 0, False, True
                draws, held = draws + 1, held + moved
        return found


def is_socket(descriptor: int) -> bool:
    return stat.S_ISSOCK(os.fstat(descriptor).st_mode)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    seen = Kernel()
    monkeypatch.setattr(os, "splice", seen)
    monkeypatch.setattr(PIPES, "refused", False)
    yield seen
    assert (PIPES.taken, PIPES.large, PIPES._free, PIPES._free_large) == (0, 0, [], []), (
        "every pipe has come back, and none is kept for nothing"
    )


def serving(body: bytes, *, pieces: bool = False) -> Callable[[Connection], Any]:
    """Answers every request with `body`: in one write, or cut at random with pauses."""

    async def script(connection: Connection) -> None:
        while True:
            await connection.read_request()
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
            if not pieces:
                await connection.send(head + body)
                continue
            cut = random.Random(len(body))
            await connection.send(head)
            at = 0
            while at < len(body):
                size = cut.choice((1, 7, 1400, 65_536, 300_000, MIB))
                await connection.send(body[at : at + size])
                at += size
                if cut.random() < 0.3:
                    await asyncio.sleep(0.001)

    return script


async def digest(connection: Connection) -> None:
    """Answers every request with the body it came with."""
    while True:
        request = await connection.read_request()
        await connection.send(response(body=request.body))


def of(engine: Engine) -> ServerConnection:
    return next(one for owner in engine._owners for one in owner.connections)


def flight(engine: Engine) -> Flight:
    return next(one for one in engine.timekeeper if isinstance(one, Flight))


def blocked(engine: Engine) -> Callable[[], bool]:
    """The client takes nothing, and we know it."""
    return lambda: any(one.drained is not None for owner in engine._owners for one in owner.connections)


# -- the same bytes


@pytest.mark.parametrize("pieces", [False, True])
def test_a_spliced_answer_is_what_the_server_sent_and_the_connection_goes_on(kernel: Kernel, pieces: bool) -> None:
    async def main() -> None:
        for size in (LONG, SPLICE_MIN + 1, 2 * MIB):
            body = noise(size)
            async with ScriptedUpstream(serving(body, pieces=pieces)) as server, Engine(upstream(server.port)) as engine:
                async with await RawClient.open(engine.port()) as client:
                    for _ in range(3):
                        assert (await client.request()).body == body
                assert len(server.connections) == 1, "the server's connection is used again"
                await assert_clean(engine)
                assert [exchange.bytes_out for exchange in engine.seen.finished] == [size] * 3

    uvloop.run(main())
    assert kernel.moved > 2 * 3 * LONG, "most of it went in and out of a pipe"


def test_a_spliced_upload_is_what_the_client_sent_and_the_connection_goes_on(kernel: Kernel) -> None:
    async def main() -> None:
        sent = noise(LONG)
        async with ScriptedUpstream(digest) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                for _ in range(2):
                    assert (await client.request(method="POST", body=sent)).body == sent
            await assert_clean(engine)
            assert [(exchange.bytes_in, exchange.bytes_out) for exchange in engine.seen.finished] == [(LONG, LONG)] * 2

    uvloop.run(main())
    assert kernel.moved > 2 * 3 * LONG


def test_many_bodies_at_once_never_meet(kernel: Kernel) -> None:
    async def main() -> None:
        async with ScriptedUpstream(digest) as server, Engine(upstream(server.port)) as engine:

            async def one(seed: int) -> None:
                async with await RawClient.open(engine.port()) as client:
                    for turn in range(3):
                        sent = noise(MIB + seed, seed * 10 + turn)
                        assert (await client.request(method="POST", body=sent)).body == sent

            await asyncio.gather(*(one(seed) for seed in range(12)))
            await assert_clean(engine)

    uvloop.run(main())
    assert kernel.moved


def test_asyncios_own_loop_splices_as_well(kernel: Kernel) -> None:
    """What uvloop permits with a transport's descriptor is not the same."""

    async def main() -> None:
        body = noise(LONG)
        async with ScriptedUpstream(serving(body)) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                assert (await client.request()).body == body
            await assert_clean(engine)

    asyncio.run(main())
    assert kernel.moved


def test_a_request_that_comes_behind_a_spliced_upload_is_answered(kernel: Kernel) -> None:
    async def main() -> None:
        sent = noise(LONG)
        async with ScriptedUpstream(digest) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                more = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
                await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(sent) + sent + more)
                assert (await client.read_response()).body == sent
                assert (await client.read_response()).body == b"hi"

    uvloop.run(main())
    assert kernel.moved


def test_bytes_behind_a_spliced_answer_are_never_the_next_answer(kernel: Kernel) -> None:
    """They may still be in the kernel when the connection would go back to its pool."""

    async def main() -> None:
        body = noise(2 * MIB)
        stale = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale"

        async def script(connection: Connection) -> None:
            await connection.read_request()
            await connection.send(response(body=body) + stale)
            await read_on(connection)

        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                for turn in range(5):
                    assert (await client.request()).body == body
                    assert len(server.connections) == turn + 1

    uvloop.run(main())
    assert kernel.moved


# -- slow ends


def test_a_slow_client_holds_the_server_up_and_is_seen_to_take_bytes(kernel: Kernel) -> None:
    async def main() -> None:
        body = noise(32 * MIB)
        async with ScriptedUpstream(serving(body)) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                client._writer.transport.pause_reading()
                await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await until(blocked(engine))
                held, moved_at = flight(engine).exchange.bytes_out, flight(engine).deadlines.moved_at
                await asyncio.sleep(0.05)
                assert flight(engine).exchange.bytes_out == held, "nothing is read that nobody takes"
                client._writer.transport.resume_reading()
                got = await client.read_response()
                assert flight(engine).deadlines.moved_at > moved_at if len(engine.timekeeper) else True
                assert got.body == body

    uvloop.run(main())
    assert kernel.moved


def one_answer(kernel: Kernel, size: int, *, slow: bool) -> None:
    """One client, which stops now and then when it is slow."""

    async def main() -> None:
        body = noise(size)
        async with ScriptedUpstream(serving(body)) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                for _ in range(8 * slow):
                    client._writer.transport.pause_reading()
                    await until(blocked(engine))
                    client._writer.transport.resume_reading()
                    await asyncio.sleep(0.002)
                assert (await client.read_response()).body == body

    uvloop.run(main())


def test_who_takes_all_there_is_gets_more_at_a_time(kernel: Kernel) -> None:
    one_answer(kernel, 64 * MIB, slow=False)
    pieces = kernel.pieces()
    assert max(draws for draws, _, _ in pieces) <= DRAWS
    assert sum(held for _, held, _ in pieces) * 2 == kernel.moved
    grown = [draws for draws, _, _ in pieces if draws > 1]
    assert grown, "a fast destination's pipe is filled more than once"


def test_who_was_slow_gets_one_pipe_at_a_time(kernel: Kernel) -> None:
    one_answer(kernel, 64 * MIB, slow=True)
    pieces = kernel.pieces()
    after_a_wait = [after for before, after in pairwise(pieces) if not before[2]]
    assert after_a_wait
    assert all(draws == 1 and held <= PIPE_LARGE for draws, held, _ in after_a_wait)


@pytest.mark.parametrize(("silent", "direction"), [("client", "write"), ("server", "read")])
def test_stream_idle_fires_and_says_which_side_stood_still(kernel: Kernel, silent: str, direction: str) -> None:
    async def main() -> None:
        async def script(connection: Connection) -> None:
            await connection.read_request()
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
            await connection.send(bytes(MIB if silent == "server" else 64 * MIB))
            await read_on(connection)

        route = {"timeouts": Timeouts(stream_idle=0.3)}
        async with ScriptedUpstream(script) as server, Engine(upstream(server.port), route=route) as engine:
            async with await RawClient.open(engine.port()) as client:
                if silent == "client":
                    client._writer.transport.pause_reading()
                await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                exchange = await engine.seen.last()
                assert (exchange.reason, exchange.clock) == (Reason.STREAM_IDLE_TIMEOUT, Clock.STREAM_IDLE)
                assert kernel.moved
            await assert_clean(engine)

    uvloop.run(main())


def test_a_client_is_not_blamed_while_the_server_takes_nothing(kernel: Kernel) -> None:
    """`bodyIdleTimeout` is of the client: it runs while its bytes are waited for, and only then."""

    async def main() -> None:
        go = asyncio.Event()

        async def script(connection: Connection) -> None:
            await connection.read_head()
            connection._writer.transport.pause_reading()
            await go.wait()
            connection._writer.transport.resume_reading()
            await connection.read_exactly(48 * MIB)
            await connection.send(response(body=b"ok"))

        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (48 * MIB))
                sending = asyncio.create_task(client.send(bytes(48 * MIB - 1)))
                await until(lambda: len(engine.timekeeper) and flight(engine).body is not None and kernel.moved)
                body = flight(engine).body
                assert body is not None
                await until(lambda: not body.awaited and flight(engine).deadlines.body_at == NEVER)
                go.set()
                await sending
                await until(lambda: body.awaited and flight(engine).deadlines.body_at < NEVER)
                await client.send(b"x")
                assert (await client.read_response()).body == b"ok"

    uvloop.run(main())


# -- ends before their time


@pytest.mark.parametrize("end", ["fin", "reset"])
def test_a_server_that_ends_inside_a_spliced_answer_cuts_the_client(kernel: Kernel, end: str) -> None:
    async def main() -> None:
        async def script(connection: Connection) -> None:
            await connection.read_request()
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB) + bytes(8 * MIB))
            await until(lambda: kernel.moved > MIB)
            if end == "reset":
                connection.reset()

        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                    await client.read_response()
                exchange = await engine.seen.last()
                assert exchange.reason is Reason.HTTP_RESPONSE_INCOMPLETE
            await assert_clean(engine)

    uvloop.run(main())


@pytest.mark.parametrize("end", ["closes", "resets"])
@pytest.mark.parametrize("slow", [False, True])
def test_a_client_that_goes_away_ends_the_servers_work(kernel: Kernel, end: str, slow: bool) -> None:
    async def main() -> None:
        gone = asyncio.Event()

        async def script(connection: Connection) -> None:
            await connection.read_request()
            try:
                await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
                await connection.send(bytes(64 * MIB if slow else 2 * MIB))
                await read_on(connection)
            finally:
                gone.set()

        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            client = await RawClient.open(engine.port())
            async with client:
                if slow:
                    client._writer.transport.pause_reading()
                await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await until(blocked(engine) if slow else lambda: kernel.moved > 2 * MIB)
                if end == "resets":
                    client.reset()
            exchange = await engine.seen.last()
            assert exchange.reason is Reason.CLIENT_CLOSED
            async with asyncio.timeout(10):
                await gone.wait()
            await assert_clean(engine)

    uvloop.run(main())


@pytest.mark.parametrize("end", ["closes", "resets"])
def test_a_client_that_goes_away_inside_a_spliced_upload_ends_it(kernel: Kernel, end: str) -> None:
    async def main() -> None:
        async def script(connection: Connection) -> None:
            await connection.read_head()
            await read_on(connection)

        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            client = await RawClient.open(engine.port())
            async with client:
                await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (64 * MIB) + bytes(4 * MIB))
                await until(lambda: kernel.moved > 4 * MIB)
                if end == "resets":
                    client.reset()
            assert (await engine.seen.last()).reason is Reason.CLIENT_CLOSED
            await assert_clean(engine)

    uvloop.run(main())


@pytest.mark.parametrize("slow", [False, True])
def test_a_cancelled_exchange_gives_pipes_and_descriptors_back(kernel: Kernel, slow: bool) -> None:
    async def main() -> None:
        async with ScriptedUpstream(serving(bytes(64 * MIB))) as server, Engine(upstream(server.port)) as engine:
            async with await RawClient.open(engine.port()) as client:
                if slow:
                    client._writer.transport.pause_reading()
                await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await until(blocked(engine) if slow else lambda: kernel.moved)
                of(engine).task.cancel()
                await engine.seen.last()
            await assert_clean(engine)

    uvloop.run(main())


# -- where splicing cannot be had


def whole_answer(kernel: Kernel, **more: Any) -> None:
    """An answer and an upload arrive whole."""

    async def main() -> None:
        sent = noise(LONG)
        async with ScriptedUpstream(digest) as server, Engine(upstream(server.port), **more) as engine:
            async with await RawClient.open(engine.port()) as client:
                for _ in range(2):
                    assert (await client.request(method="POST", body=sent)).body == sent
            await assert_clean(engine)
            assert [(exchange.bytes_in, exchange.bytes_out) for exchange in engine.seen.finished] == [(LONG, LONG)] * 2

    uvloop.run(main())


def test_a_kernel_that_does_not_splice_is_asked_once(kernel: Kernel) -> None:
    asked = []
    kernel.refuse = lambda source, _: asked.append(source) or errno.EINVAL
    whole_answer(kernel)
    assert len(asked) == 1
    assert PIPES.refused


def test_what_is_in_the_pipe_of_a_kernel_that_does_not_go_on_is_not_lost(kernel: Kernel) -> None:
    calls = []

    def refuse(source: int, _destination: int) -> int:
        calls.append(source)
        return errno.EINVAL if len(calls) == 2 else 0  # in, and not out again

    kernel.refuse = refuse
    whole_answer(kernel)
    assert len(calls) == 2
    assert kernel.moved


def test_a_user_without_room_for_pipes_gets_the_shared_buffer(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl

    def small(fd: int, command: int, *rest: Any) -> Any:
        if command == fcntl.F_SETPIPE_SZ:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return 8192 if command == fcntl.F_GETPIPE_SZ else real(fd, command, *rest)

    monkeypatch.setattr(fcntl, "fcntl", small)
    whole_answer(kernel)
    assert not kernel.moved


def test_a_user_without_room_for_a_large_pipe_gets_a_small_one(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = fcntl.fcntl, []

    def small(fd: int, command: int, *rest: Any) -> Any:
        if command == fcntl.F_SETPIPE_SZ:
            asked.append(rest[0])
            if rest[0] > PIPE_BYTES:
                raise PermissionError(errno.EPERM, "Operation not permitted")
        return real(fd, command, *rest)

    monkeypatch.setattr(fcntl, "fcntl", small)
    whole_answer(kernel)
    assert asked[:2] == [PIPE_LARGE, PIPE_BYTES]
    assert {(draws, held <= PIPE_BYTES) for draws, held, _ in kernel.pieces()} == {(1, True)}


def test_the_first_pipes_are_large_and_those_given_back_are_used_again() -> None:
    pipes = Pipes()
    taken = [pipes.take() for _ in range(PIPES_MAX)]
    assert pipes.take() is None
    got = [pipe for pipe in taken if pipe is not None]
    assert [pipe.size for pipe in got] == [PIPE_LARGE] * LARGE_MAX + [PIPE_BYTES] * (PIPES_MAX - LARGE_MAX)
    pipes.give(got[-1], empty=True)
    assert pipes.take() == got[-1]
    pipes.give(got[0], empty=True)
    pipes.give(got[-1], empty=True)
    assert pipes.take() == got[0], "a large one first"
    for pipe in got[:-1]:
        pipes.give(pipe, empty=True)
    assert (pipes.taken, pipes.large, pipes._free, pipes._free_large) == (0, 0, [], [])
    for pipe in got:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(pipe.read)


def test_what_was_drawn_before_an_error_is_not_lost(kernel: Kernel) -> None:
    failed = []

    def refuse(source: int, _destination: int) -> int:
        if not failed and is_socket(source) and kernel.calls and kernel.calls[-1][0] == "in" and kernel.calls[-1][1] > 0:
            failed.append(source)  # a second draw
            return errno.ECONNRESET
        return 0

    async def main() -> None:
        body = noise(64 * MIB)
        async with ScriptedUpstream(serving(body)) as server, Engine(upstream(server.port)) as engine:
            kernel.refuse = refuse
            async with await RawClient.open(engine.port()) as client:
                assert (await client.request()).body == body

    uvloop.run(main())
    assert failed


def test_a_long_body_lets_others_have_their_turn(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    if not isinstance(_Splice.__dict__["_fill"], FunctionType):
        pytest.skip("compiled: nothing can be replaced")
    turns, real = [], _Splice._fill

    def fill(self: _Splice) -> None:
        before = len(kernel.pieces())
        real(self)
        turns.append(len(kernel.pieces()) - before)

    monkeypatch.setattr(_Splice, "_fill", fill)
    monkeypatch.setattr(splice, "TURN", 1)
    one_answer(kernel, 64 * MIB, slow=False)
    assert max(turns) == 1


@pytest.mark.parametrize("what", ["pipe2", "dup"])
def test_a_process_without_descriptors_gets_the_shared_buffer(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def none_left(*_: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, what, none_left)
    whole_answer(kernel)
    assert not kernel.moved


def test_no_more_bodies_than_there_may_be_pipes_are_spliced(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIPES, "taken", PIPES_MAX)
    whole_answer(kernel)
    assert not kernel.moved
    monkeypatch.setattr(PIPES, "taken", 0)


def test_a_unix_socket_gets_the_shared_buffer(kernel: Kernel, tmp_path: Any) -> None:
    async def main() -> None:
        sent = noise(LONG)
        path = str(tmp_path / "s")
        async with ScriptedUpstream(digest, unix_path=path) as _server:
            from sidecar.model.snapshot import Target, Upstream

            one = Upstream(name="app", targets=(Target(host="", port=0, unix_path=path),))
            async with Engine(one) as engine, await RawClient.open(engine.port()) as client:
                assert (await client.request(method="POST", body=sent)).body == sent

    uvloop.run(main())
    assert not kernel.moved
