"""Calls, word and descriptors between two processes, here between two ends of one."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from sidecar.workers.channel import MAX_FRAME, Channel, ChannelError

SECONDS = 30.0


class End:
    """One end that answers `echo`, is told `say`, and notes that the other is gone."""

    def __init__(self, sock: socket.socket) -> None:
        self.heard: list[tuple[bytes, list[int]]] = []
        self.changed = asyncio.Event()
        self.gone = asyncio.Event()
        self.hold = asyncio.Event()
        self.hold.set()
        calls: dict[str, Callable[[bytes], Awaitable[bytes]]] = {"echo": self._echo, "break": self._break}
        self.channel = Channel(sock, calls=calls, tells={"say": self._say}, lost=self.gone.set, name="the other end")

    async def _echo(self, body: bytes) -> bytes:
        await self.hold.wait()
        return body

    async def _break(self, body: bytes) -> bytes:
        raise RuntimeError(body.decode())

    def _say(self, body: bytes, descriptors: list[int]) -> None:
        self.heard.append((body, descriptors))
        self.changed.set()

    async def until_heard(self, count: int) -> None:
        while len(self.heard) < count:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), SECONDS)


@asynccontextmanager
async def ends() -> AsyncIterator[tuple[End, End]]:
    one, other = (End(sock) for sock in socket.socketpair())
    try:
        yield one, other
    finally:
        await one.channel.aclose()
        await other.channel.aclose()


def run(scenario: Callable[[End, End], Awaitable[None]]) -> None:
    async def main() -> None:
        async with ends() as (one, other):
            await scenario(one, other)

    asyncio.run(main())


@pytest.mark.parametrize("size", [0, 1, 4096, 3_000_000])
def test_a_call_is_answered_however_long_it_is(size: int) -> None:
    async def scenario(one: End, _: End) -> None:
        assert await one.channel.call("echo", b"x" * size, seconds=SECONDS) == b"x" * size

    run(scenario)


def test_calls_cross_in_both_directions_and_are_answered_as_they_are_done() -> None:
    async def scenario(one: End, other: End) -> None:
        other.hold.clear()
        slow = asyncio.create_task(one.channel.call("echo", b"slow", seconds=SECONDS))
        assert await other.channel.call("echo", b"back", seconds=SECONDS) == b"back"
        other.hold.set()
        assert await slow == b"slow"

    run(scenario)


def test_word_keeps_its_order() -> None:
    async def scenario(one: End, other: End) -> None:
        for number in range(2000):
            one.channel.tell("say", b"%d" % number)
        await other.until_heard(2000)
        assert [body for body, _ in other.heard] == [b"%d" % number for number in range(2000)]

    run(scenario)


def test_descriptors_arrive_with_the_word_that_they_belong_to_and_stay_the_sender_s() -> None:
    async def scenario(one: End, other: End) -> None:
        pipes = [os.pipe() for _ in range(6)]
        one.channel.tell("say", b"z" * 1_000_000)  # what comes after has to wait
        for number, (_, writer) in enumerate(pipes):
            one.channel.tell("say", b"%d" % number, [writer])
            os.close(writer)
        one.channel.tell("say", b"last")
        await other.until_heard(8)
        for number, (reader, _) in enumerate(pipes):
            body, (writer,) = other.heard[number + 1]
            assert body == b"%d" % number
            assert not os.get_inheritable(writer)
            os.write(writer, body)
            os.close(writer)
            assert os.read(reader, 10) == body
            os.close(reader)
        assert other.heard[-1] == (b"last", [])

    run(scenario)


@pytest.mark.expects_traceback("a call between our processes failed")
def test_a_call_that_breaks_fails_alone_and_tells_nothing_of_why() -> None:
    async def scenario(one: End, _: End) -> None:
        with pytest.raises(ChannelError) as failed:
            await one.channel.call("break", b"secret", seconds=SECONDS)
        assert "secret" not in str(failed.value)
        assert await one.channel.call("echo", b"on", seconds=SECONDS) == b"on"

    run(scenario)


def test_a_call_has_its_time_and_a_late_answer_is_nobody_s() -> None:
    async def scenario(one: End, other: End) -> None:
        other.hold.clear()
        with pytest.raises(TimeoutError):
            await one.channel.call("echo", b"late", seconds=0.05)
        other.hold.set()
        assert await one.channel.call("echo", b"next", seconds=SECONDS) == b"next"

    run(scenario)


def test_calls_under_way_fail_when_the_other_end_goes_and_it_is_told_once() -> None:
    async def scenario(one: End, other: End) -> None:
        other.hold.clear()
        calls = [asyncio.create_task(one.channel.call("echo", b"x", seconds=SECONDS)) for _ in range(3)]
        await asyncio.sleep(0.05)
        await other.channel.aclose()
        await asyncio.wait_for(one.gone.wait(), SECONDS)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, ChannelError) for result in results)
        with pytest.raises(ChannelError):
            await one.channel.call("echo", seconds=SECONDS)
        one.channel.tell("say", b"into the void")
        assert not other.gone.is_set()  # who closes it knows

    run(scenario)


def test_a_frame_that_is_too_long_is_the_end_of_the_channel(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        ours, its = socket.socketpair()
        end = End(ours)
        its.send((MAX_FRAME + 1).to_bytes(4))
        await asyncio.wait_for(end.gone.wait(), SECONDS)
        await end.channel.aclose()
        its.close()

    asyncio.run(main())
    assert "a frame is too long" in caplog.text


def test_frames_in_pieces_are_put_together() -> None:
    async def main() -> None:
        ours, its = socket.socketpair()
        whole, copy = socket.socketpair()
        end, sender = End(ours), End(whole)
        sender.channel.tell("say", b"hello")
        for byte in copy.recv(4096):
            its.send(bytes([byte]))
            await asyncio.sleep(0)
        await end.until_heard(1)
        assert end.heard == [(b"hello", [])]
        for one in (end, sender):
            await one.channel.aclose()
        its.close()
        copy.close()

    asyncio.run(main())


def test_what_was_sent_and_not_read_is_waited_for_at_the_end_but_not_for_ever() -> None:
    async def scenario(one: End, other: End) -> None:
        one.channel.tell("say", b"x" * 5_000_000)
        await one.channel.flushed(SECONDS)
        await other.until_heard(1)
        assert len(other.heard[0][0]) == 5_000_000

    run(scenario)

    async def main() -> None:
        ours, its = socket.socketpair()
        end = End(ours)
        end.channel.tell("say", b"x" * 5_000_000)
        await end.channel.flushed(0.05)
        await end.channel.aclose()
        its.close()

    asyncio.run(main())
