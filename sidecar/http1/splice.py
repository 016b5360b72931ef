"""Moving a long body from one TCP socket to another inside the kernel: splice(2) through a pipe, no copy to user space.

The source's transport is paused meanwhile, so every byte that is not spliced stays in the kernel, in order. The
destination's transport goes on reading: that is how its loss is noticed. uvloop refuses to watch a transport's own
descriptor, so duplicates are watched; one that stays open keeps the socket open, so every way out closes them.

Nothing here knows how a body may end. Whatever is out of the ordinary (an end too early, an error on either side, a kernel
that refuses) puts what the pipe holds into the destination's transport and leaves the rest to the relay in user space.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable
from typing import Final, NamedTuple

from sidecar.http1.body import Body
from sidecar.http1.connection import BUFFER, HEAD_READ, Connection

SPLICE_MIN: Final = 128 * 1024
"""Unread bytes from which splicing beats the shared buffer (128 KiB: 80 against 89 us per request, 1 MiB: 230 against 326)."""
PIPE_LARGE: Final = 1024 * 1024
"""As much as a pipe may have (pipe-max-size of pipe(7)): what a piece costs is its wake-ups and acknowledgements, so few pieces are cheap."""
LARGE_MAX: Final = 8
"""Pipes of that size at a time: a container's user has 64 MiB of pipe buffers in all (pipe-user-pages-soft of pipe(7))."""
PIPE_BYTES: Final = 256 * 1024
"""What further bodies get."""
PIPE_MIN: Final = 64 * 1024
"""Above its share a user gets pipes of two pages; with those the shared buffer is faster."""
PIPES_MAX: Final = 64
"""Bodies that are spliced at a time, with four descriptors each; further ones go through the shared buffer."""
DRAWS: Final = 4
"""How often a large pipe is filled before it is emptied: the kernel takes a pipe for full by pages, and a page of TCP's has up to 32 KiB."""
TURN: Final = 2 * 1024 * 1024
"""Bytes of one body in a row, but for the last piece, while others wait for their turn."""
_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK if hasattr(os, "splice") else 0


class Pipe(NamedTuple):
    """Both ends, and how many bytes it holds."""

    read: int
    write: int
    size: int

    @property
    def large(self) -> bool:
        """Whether it counts against `LARGE_MAX`."""
        return self.size >= PIPE_LARGE

    def close(self) -> None:
        """What it still holds is lost."""
        os.close(self.read)
        os.close(self.write)


class Pipes:
    """Pipes that are used again while others are in use; who comes last closes them all, so an idle process has none."""

    def __init__(self) -> None:
        self.taken = 0
        self.large = 0
        """Those of the taken that are large."""
        self.refused = not hasattr(os, "splice")
        """The kernel does not splice between sockets (gVisor): it is not asked again."""
        self._free: list[Pipe] = []
        self._free_large: list[Pipe] = []

    def take(self) -> Pipe | None:
        """An empty pipe, None when there are too many, or when it would be too small. Each one comes back by `give`."""
        if self.refused or self.taken >= PIPES_MAX:
            return None
        large = self.large < LARGE_MAX
        free = self._free_large if large else self._free
        pipe = free.pop() if free else _make_pipe(large=large)
        if pipe is not None:
            self.taken += 1
            self.large += pipe.large
        return pipe

    def give(self, pipe: Pipe, *, empty: bool) -> None:
        """`pipe` is not used any more."""
        self.taken -= 1
        self.large -= pipe.large
        if empty:
            (self._free_large if pipe.large else self._free).append(pipe)
        else:
            pipe.close()
        if not self.taken:
            for free in (self._free, self._free_large):
                for one in free:
                    one.close()
                free.clear()


PIPES: Final = Pipes()


def _make_pipe(*, large: bool) -> Pipe | None:
    try:
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # out of descriptors
        return None
    for wanted in (PIPE_LARGE, PIPE_BYTES) if large else (PIPE_BYTES,):
        try:
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, wanted)
            break
        except OSError:  # EPERM: the user's share is used up, and what we got may be tiny
            continue
    pipe = Pipe(read, write, fcntl.fcntl(write, fcntl.F_GETPIPE_SZ))
    if pipe.size < PIPE_MIN:
        pipe.close()
        return None
    return pipe


def plain_tcp(connection: Connection) -> bool:
    """Whether the bytes on `connection`'s socket are those of its messages."""
    if connection.closed or connection.secure:
        return False
    sock = connection.transport.get_extra_info("socket")
    return sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6)


async def splice_body(body: Body, destination: Connection, moved: Callable[[int], None]) -> bool:
    """Move what has not arrived yet of `body`; `moved` hears of every piece, and with 0 when only the destination went on.

    True: it is complete, or over (see Sink.ended). False: as far as it went it is exact; the rest is to go another way.
    """
    source = body.connection
    if not (plain_tcp(source) and plain_tcp(destination)):
        return False
    pipe = PIPES.take()
    if pipe is None:
        return False
    empty = True
    try:
        source.pause_reading()
        await _flushed(destination)
        if destination.closed or not body.bulk_left():
            return False
        splice = _begin(body, destination, moved, pipe)
        if splice is None:
            return False
        try:
            return await splice.done
        finally:
            splice.stop()
            empty = not splice.held()
    finally:
        PIPES.give(pipe, empty=empty)
        source.resume_reading()


async def _flushed(connection: Connection) -> None:
    """Wait until no byte for the peer is left in user space: from then on others may follow by another way."""
    await asyncio.sleep(0)  # uvloop writes at the end of a turn
    transport = connection.transport
    if connection.closed or not transport.get_write_buffer_size():
        return
    transport.set_write_buffer_limits(0)
    try:
        await connection.drain()
    finally:
        if not connection.closed:
            transport.set_write_buffer_limits()


class _Splice:
    """One body on its way; a Sink of its source, which gets no bytes. `done` resolves as `splice_body` returns."""

    __slots__ = (
        "_blocked",
        "_body",
        "_destination",
        "_draws",
        "_held",
        "_in",
        "_left",
        "_loop",
        "_moved",
        "_out",
        "_pipe",
        "_source",
        "done",
    )

    def __init__(self, body: Body, destination: Connection, moved: Callable[[int], None], pipe: Pipe) -> None:
        self._body = body
        self._source = source = body.connection
        self._destination = destination
        self._moved = moved
        self._pipe = pipe
        self._left = body.bulk_left()
        self._held = 0
        """Bytes in the pipe."""
        self._draws = 1
        """How often a large pipe is filled before it is emptied: more often the longer the destination takes all there is, so that
        a slow one holds little."""
        self._blocked = False
        """The destination takes nothing for now."""
        self._loop = source.loop
        self.done: asyncio.Future[bool] = self._loop.create_future()
        self._in = os.dup(source.fd)
        try:
            self._out = os.dup(destination.fd)
        except OSError:
            os.close(self._in)
            raise
        source.sink = self
        self._loop.add_reader(self._in, self._fill)

    def feed(self, size: int) -> None:
        """See Sink: somebody reads the source again, because the body's exchange is over; we have not been told yet."""
        self._source.rx += bytes(BUFFER[:size])
        self._finish(over=True)

    def ended(self) -> None:
        """See Sink: what came before still goes out; `body.read` will say what ended it."""
        self._finish(over=True)

    def held(self) -> int:
        """See Sink: the kernel's pages, counted against our limit as ours are."""
        return self._held

    @property
    def awaiting(self) -> bool:
        """See Sink."""
        return not self._blocked

    def _fill(self) -> None:
        """The source has something: into the pipe and on, until it has no more.

        Until then, because libuv watches a socket no more once it has told of an error, behind which there may be data.
        """
        before = self._left
        while self._in >= 0 and not self._blocked:
            if before - self._left >= TURN:
                self._loop.call_soon(self._fill)
                return
            if not self._pull():
                return

    def _pull(self) -> bool:
        """One piece. False: nothing has come, or it was the last."""
        if self._destination.closed:
            self._finish(over=False)
            return False
        try:
            size = self._draw()
        except BlockingIOError:
            return False
        if not size:
            self._finish(over=False)
            return False
        self._left -= size
        self._held = size
        self._body.moved(size)
        self._moved(size)
        self._empty()
        return True

    def _draw(self) -> int:
        """Into the pipe, never more than belongs to the body; 0: nothing will come any more. Raises BlockingIOError: nothing has come."""
        drawn = 0
        for _ in range(self._draws):
            try:
                size = os.splice(self._in, self._pipe.write, min(self._left - drawn, self._pipe.size), flags=_FLAGS)
            except BlockingIOError:  # or the pipe is full
                if not drawn:
                    raise
                break
            except OSError as error:
                if not _refuses(error):
                    self._source.error = error  # asked again, its socket would tell its transport, and us, of a clean end
                break
            drawn += size
            if not size or drawn == self._left:  # the end: its transport will see the same
                break
        return drawn

    def _empty(self) -> None:
        """From the pipe to the destination. While that is full, the source waits."""
        destination = self._destination
        try:
            while self._held and not destination.closed:
                self._held -= os.splice(self._pipe.read, self._out, self._held, flags=_FLAGS)
        except BlockingIOError:
            self._block()
            return
        except OSError as error:  # broken: its transport will find out, after it has read what the peer said before
            _refuses(error)
        if not self._left:
            self._take_excess()
            self._finish(over=True)
        elif self._held:
            self._finish(over=False)
        elif self._blocked:
            self._unblock()
        elif self._pipe.large:
            self._draws = min(2 * self._draws, DRAWS)

    def _block(self) -> None:
        if not self._blocked:
            self._blocked = True
            self._draws = 1
            self._loop.remove_reader(self._in)
            self._loop.add_writer(self._out, self._empty)
            self._destination.pause_writing()
        self._moved(0)  # slow is not dead, and not the source's fault

    def _unblock(self) -> None:
        self._blocked = False
        self._loop.remove_writer(self._out)
        self._loop.add_reader(self._in, self._fill)
        self._destination.resume_writing()
        self._moved(0)

    def _take_excess(self) -> None:
        """What came behind the body is there before anybody takes the source for idle."""
        with contextlib.suppress(OSError):
            self._source.rx += os.read(self._in, HEAD_READ)

    def _finish(self, *, over: bool) -> None:
        """Leave it to the destination's transport to send, or to lose, what the pipe holds."""
        self.stop()
        if self._held:
            self._destination.send(os.read(self._pipe.read, self._held))
            self._held = 0
        if not self.done.done():
            self.done.set_result(over)

    def stop(self) -> None:
        """Give both sockets back to their transports."""
        if self._in < 0:
            return
        # Before they are closed: their numbers may be used again at once.
        self._loop.remove_reader(self._in)
        self._loop.remove_writer(self._out)
        os.close(self._in)
        os.close(self._out)
        self._in = self._out = -1
        if self._source.sink is self:
            self._source.sink = None
        if self._blocked:
            self._blocked = False
            self._destination.resume_writing()


def _begin(body: Body, destination: Connection, moved: Callable[[int], None], pipe: Pipe) -> _Splice | None:
    """None: out of descriptors."""
    with contextlib.suppress(OSError):
        return _Splice(body, destination, moved, pipe)
    return None


def _refuses(error: OSError) -> bool:
    """Whether it is the kernel that does not splice these sockets; then it is not asked again."""
    refuses = error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES)
    PIPES.refused = PIPES.refused or refuses
    return refuses
