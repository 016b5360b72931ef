"""Takes connections from a listening socket, as many as it may, and leaves the rest to the kernel's backlog.

Why not `loop.create_server`: libuv answers "no descriptor left" by accepting and closing whatever waits, silently, and
its servers cannot pause. Both matter more to a sidecar than the microseconds that this costs per connection.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Final, Protocol

from sidecar.observe.logs import Event, event
from sidecar.server.sockets import BACKLOG, SocketAddress, bound_address, close_socket
from sidecar.tasks import cancel_and_wait, create_task

_BATCH: Final = 32
"""Connections taken per wake-up, so that a storm of them does not starve the ones that are open."""
_PAUSE_SECONDS: Final = 0.2
"""How long accepting rests when the process or the machine has no descriptor or memory left."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


_YIELD_SECONDS: Final = 0.002
_LONGEST_YIELD: Final = 5
"""Where several processes accept from a socket, a connection waits so long for one with fewer of them, times how many fewer
that has (five at most): at most 10 ms, and no longer at all when that process does not come."""


class Share(Protocol):
    """One process's part in a listening socket that several accept from."""

    def report(self, open_connections: int) -> None:
        """So many connections are open here, and more may be taken."""
        ...

    def leave(self) -> None:
        """None is taken here now: nobody need wait for this process."""
        ...

    def room(self) -> int:
        """How many this process should take until it has one more than the one with the fewest; below 1 when it has more already."""
        ...


class Acceptor:
    """Owns one listening socket. `make_protocol` is called for each connection; `limit` says how many may be open.

    Who made the protocol tells `released` when its connection is gone, if it uses `limit` or `spares`: descriptors that
    are held back, so that so many connections are served also when the process has no other left. With a `share` other
    processes accept from the same socket: closing it here is no end of it.
    """

    def __init__(
        self,
        sock: socket.socket,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        *,
        name: str,
        limit: int = 0,
        spares: int = 0,
        share: Share | None = None,
    ) -> None:
        self.sock = sock
        self.name = name
        self.address: SocketAddress = bound_address(sock)
        self.open = 0
        """Connections that were taken and are not released."""
        self._make_protocol = make_protocol
        self._limit = limit
        self._most: int | None = None
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._closed = False
        self._exhausted = False
        self._resume: asyncio.TimerHandle | None = None
        self._spares_wanted = spares
        self._spares: list[int] = []
        self._hold_back()
        self._adopting: set[asyncio.Task[None]] = set()
        self._share = share
        self._yielding: asyncio.TimerHandle | None = None
        self._yielded = False
        """Others have had their chance to take what waits."""
        self._in_vain = 0
        """How often in a row they have not used it."""
        self._count()

    def start(self) -> None:
        """Begin to accept."""
        self._adjust()

    @property
    def listening(self) -> bool:
        """Whether connections are still taken (now, or when there is room again)."""
        return not self._closed

    def set_limit(self, limit: int) -> None:
        """`maxConnections`; 0 = no limit, below it none. Connections above a lowered limit stay."""
        self._limit = limit
        self._count()
        self._adjust()

    def narrow(self, most: int | None) -> None:
        """For now not more than `most` connections, whatever the limit says; None: that is over."""
        if most != self._most:
            self._most = most
            self._count()
            self._adjust()

    @property
    def stalled(self) -> bool:
        """Whether clients wait in the backlog because the process is short of something (not because of its limit)."""
        return not self._closed and (self._resume is not None or self._narrow())

    def released(self) -> None:
        """A connection is gone: there is room for another."""
        self.open -= 1
        self._count()
        self._hold_back()
        if not self._reading:
            self._adjust()

    def _adjust(self) -> None:
        """Read the socket exactly when another connection may be taken."""
        wanted = not (self._closed or self._resume is not None or self._yielding is not None or self._full())
        if wanted and not self._reading:
            self._loop.add_reader(self.sock.fileno(), self._readable)
        elif self._reading and not wanted:
            self._loop.remove_reader(self.sock.fileno())
        self._reading = wanted

    def _full(self) -> bool:
        return (self._limit != 0 and self.open >= self._limit) or self._narrow()

    def _narrow(self) -> bool:
        return self._most is not None and self.open >= self._most

    def _count(self) -> None:
        if self._share is None:
            return
        if self._closed or self._full():
            self._share.leave()
        else:
            self._share.report(self.open)

    def _readable(self) -> None:
        self._accept(_BATCH if self._share is None else self._turn(self._share))
        self._adjust()

    def _turn(self, share: Share) -> int:
        """How many to take now. Who has more connections than another lets that one go first, for a moment."""
        room = share.room()
        if room > 0:
            self._in_vain = 0
        elif self._yielded:
            room = 1 << min(self._in_vain, 5)  # who does not come is busy, or hangs: all that waits is not made to wait for it
            self._in_vain += 1
        else:
            self._yielding = self._loop.call_later(_YIELD_SECONDS * min(1 - room, _LONGEST_YIELD), self._yield_over)
            room = 0
        self._yielded = room == 0
        return min(room, _BATCH)

    def _yield_over(self) -> None:
        self._yielding = None
        self._adjust()

    def _accept(self, most: int) -> None:
        for _ in range(most):
            if self._full():
                return
            try:
                client, _ = self.sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    if self._spares:
                        os.close(self._spares.pop())
                        continue
                    self._rest(error)
                    return
                continue  # ECONNABORTED and its kin: that client has left while it waited
            self._exhausted = False
            self.adopt(client)

    def adopt(self, client: socket.socket) -> None:
        """Serve a connection that was accepted elsewhere on the same socket."""
        client.setblocking(False)
        self.open += 1
        self._count()
        task = create_task(self._connect(client), name=f"accept {self.name}")
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def _connect(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, client)
        except BaseException as error:
            client.close()
            self.released()
            if not isinstance(error, OSError):  # else the client has gone already
                raise

    def _hold_back(self) -> None:
        while not self._closed and len(self._spares) < self._spares_wanted:
            try:
                self._spares.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:  # later, when a connection is gone
                return

    def _rest(self, error: OSError) -> None:
        """Whoever waits stays in the backlog; a busy loop over a failing accept would take the CPU from the rest."""
        self._resume = self._loop.call_later(_PAUSE_SECONDS, self._rested)
        if not self._exhausted:
            self._exhausted = True
            event(Event.LISTENER_FAILED, f"cannot accept: {error.strerror}; clients wait", level=logging.ERROR, listener=self.name)

    def _rested(self) -> None:
        self._resume = None
        self._adjust()

    def close(self) -> None:
        """Take what already waits in the backlog (closing would reset it), then stop listening. Connections stay."""
        if self._closed:
            return
        self._accept(BACKLOG)
        self._closed = True
        self._count()
        while self._spares:
            os.close(self._spares.pop())
        for timer in (self._resume, self._yielding):
            if timer is not None:
                timer.cancel()
        self._resume = self._yielding = None
        self._adjust()
        if self._share is None:
            close_socket(self.sock)
        else:
            self.sock.close()

    async def settled(self) -> None:
        """Wait until every connection that was accepted has its protocol."""
        while self._adopting:
            await asyncio.wait(set(self._adopting))

    async def aclose(self) -> None:
        """Stop listening; what was accepted and has no protocol yet is dropped."""
        self.close()
        await cancel_and_wait(set(self._adopting))
