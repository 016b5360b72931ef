"""Channel: calls and word between two processes of ours over a Unix socket; file descriptors travel along.

A frame is its length (four bytes) and a msgpack `Frame`. What is told keeps its order; calls are answered as they are
done. The other end is ours, so what cannot be read is a bug, and the end of the channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import IntEnum
from itertools import count
from typing import Any, Final

import msgspec

from sidecar.errors import OutriderError
from sidecar.tasks import cancel_and_wait, create_task

log = logging.getLogger("outrider")

MAX_FRAME: Final = 64 * 1024 * 1024
"""Bytes of a frame: a document of 1 MiB, or the metrics of thousands of routes, are a tenth of that."""
MAX_WAITING: Final = 2 * MAX_FRAME
"""Bytes that may wait for an end that does not read."""
MAX_DESCRIPTORS: Final = 64
"""In one frame; the kernel takes 253."""
_READ: Final = 256 * 1024
_PREFIX: Final = 4
_POLL: Final = 0.01

Call = Callable[[bytes], Awaitable[bytes]]
Tell = Callable[[bytes, list[int]], None]
"""Told a body and the descriptors that came with it, which are now its own."""


class ChannelError(OutriderError):
    """A call has no answer: the other end is gone, or has failed at it."""


class Kind(IntEnum):
    """What a frame is."""

    TELL = 0
    CALL = 1
    ANSWER = 2
    FAILED = 3


class Frame(msgspec.Struct, array_like=True, frozen=True):
    """`number` joins a call and its answer; `descriptors`: how many come with it."""

    kind: int
    number: int
    operation: str
    descriptors: int
    body: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Frame).decode


class Channel:
    """Owns `sock`. `lost` is called once, when the other end is gone; not after `aclose`."""

    def __init__(
        self, sock: socket.socket, *, calls: Mapping[str, Call], tells: Mapping[str, Tell], lost: Callable[[], None], name: str
    ) -> None:
        sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._calls = calls
        self._tells = tells
        self._lost = lost
        self._name = name
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._at_work: set[asyncio.Task[None]] = set()
        self._in = bytearray()
        self._descriptors: deque[int] = deque()
        """Received, and not yet given to whom they are for."""
        self._out: deque[tuple[memoryview, list[int]]] = deque()
        self._waiting = 0
        self._writing = False
        self.open = True
        self._loop.add_reader(sock.fileno(), self._readable)

    # -- what callers use

    async def call(self, operation: str, body: bytes = b"", *, seconds: float) -> bytes:
        """Have the other end do something. Raises ChannelError, or TimeoutError after `seconds`."""
        if not self.open:
            raise ChannelError(f"{self._name} is gone")
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._answers[number] = answer
        self._send(Frame(Kind.CALL, number, operation, 0, body))
        try:
            async with asyncio.timeout(seconds):
                return await answer
        finally:
            self._answers.pop(number, None)

    def tell(self, operation: str, body: bytes = b"", descriptors: Sequence[int] = ()) -> None:
        """Say something; nothing comes back. The descriptors stay the caller's. An end that is gone hears nothing."""
        self._send(Frame(Kind.TELL, 0, operation, len(descriptors), body), descriptors)

    async def flushed(self, seconds: float) -> None:
        """Wait until the other end has taken all that it was sent, but no longer than `seconds`."""
        deadline = self._loop.time() + seconds
        while self._out and self.open and self._loop.time() < deadline:  # noqa: ASYNC110 - at the end of a process, once
            await asyncio.sleep(_POLL)

    async def aclose(self) -> None:
        """Give the socket back; what is at work is cancelled."""
        self._close()
        await cancel_and_wait(set(self._at_work))

    # -- out

    def _send(self, frame: Frame, descriptors: Sequence[int] = ()) -> None:
        if not self.open:
            return
        data = _encode(frame)
        data = len(data).to_bytes(_PREFIX) + data
        self._waiting += len(data)
        # Their owner may close them before they have left.
        self._out.append((memoryview(data), [os.dup(number) for number in descriptors]))
        if self._waiting > MAX_WAITING:
            self._break("it does not read what it is sent")
        elif not self._writing:
            self._writable()

    def _writable(self) -> None:
        try:
            while self._out:
                self._write_some()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._break("")
            return
        self._adjust()

    def _write_some(self) -> None:
        data, descriptors = self._out[0]
        sent = socket.send_fds(self._sock, [data], descriptors) if descriptors else self._sock.send(data)
        self._waiting -= sent
        _close_all(descriptors)
        if sent == len(data):
            self._out.popleft()
        else:
            self._out[0] = (data[sent:], [])

    def _adjust(self) -> None:
        if bool(self._out) is not self._writing:
            self._writing = not self._writing
            if self._writing:
                self._loop.add_writer(self._sock.fileno(), self._writable)
            else:
                self._loop.remove_writer(self._sock.fileno())

    # -- in

    def _readable(self) -> None:
        try:
            data, descriptors, whole = receive(self._sock, _READ, MAX_DESCRIPTORS)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._break("")
            return
        self._descriptors += descriptors
        if not data or not whole:
            self._break("no descriptor is left" if data else "")
            return
        self._in += data
        while self.open and (frame := self._next()) is not None:
            self._take(frame)

    def _next(self) -> Frame | None:
        if len(self._in) < _PREFIX:
            return None
        end = _PREFIX + int.from_bytes(self._in[:_PREFIX])
        if end > MAX_FRAME:
            self._break("a frame is too long")
        if not self.open or len(self._in) < end:
            return None
        data = bytes(memoryview(self._in)[_PREFIX:end])
        del self._in[:end]
        return _decode(data)

    def _take(self, frame: Frame) -> None:
        if frame.kind == Kind.CALL:
            task = create_task(self._answer(frame), name=f"{self._name}: {frame.operation}")
            self._at_work.add(task)
            task.add_done_callback(self._at_work.discard)
        elif frame.kind == Kind.TELL:
            self._tells[frame.operation](frame.body, [self._descriptors.popleft() for _ in range(frame.descriptors)])
        elif (answer := self._answers.get(frame.number)) is not None and not answer.done():
            if frame.kind == Kind.ANSWER:
                answer.set_result(frame.body)
            else:
                answer.set_exception(ChannelError(f"{self._name} failed at {frame.operation}"))

    async def _answer(self, frame: Frame) -> None:
        try:
            body = await self._calls[frame.operation](frame.body)
        except Exception:
            log.exception("a call between our processes failed: %s", frame.operation, extra={"event": "internal_error"})
            self._send(Frame(Kind.FAILED, frame.number, frame.operation, 0, b""))
        else:
            self._send(Frame(Kind.ANSWER, frame.number, frame.operation, 0, body))

    # -- the end

    def _break(self, why: str) -> None:
        if why:
            log.error("%s: %s", self._name, why, extra={"event": "internal_error"})
        if self.open:
            self._close()
            self._lost()

    def _close(self) -> None:
        if not self.open:
            return
        self.open = False
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        _close_all(self._descriptors)
        for _, descriptors in self._out:
            _close_all(descriptors)
        self._out.clear()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ChannelError(f"{self._name} is gone"))
                answer.exception()  # nobody may be waiting any more


def receive(sock: socket.socket, size: int, descriptors: int) -> tuple[bytes, list[int], bool]:
    """Data, the descriptors that came with it, and whether they are all. `socket.recv_fds` would leave them to child processes."""
    numbers = array("i")
    room = socket.CMSG_LEN(descriptors * numbers.itemsize)
    data, ancillary, flags, _ = sock.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
    return data, list(numbers), not flags & socket.MSG_CTRUNC


def _close_all(descriptors: Any) -> None:
    """Close and forget them."""
    while descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptors.pop())
