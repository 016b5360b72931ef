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
from typing import Final

from sidecar.observe.logs import Event, event
from sidecar.server.sockets import BACKLOG, SocketAddress, bound_address, close_socket
from sidecar.tasks import cancel_and_wait, create_task

_BATCH: Final = 32
"""Connections taken per wake-up, so that a storm of them does not starve the ones that are open."""
_PAUSE_SECONDS: Final = 0.2
"""How long accepting rests when the process or the machine has no descriptor or memory left."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Owns one listening socket. `make_protocol` is called for each connection; `limit` says how many may be open.

    Who made the protocol tells `released` when its connection is gone, if it uses `limit` or `spares`: descriptors that
    are held back, so that so many connections are served also when the process has no other left.
    """

    def __init__(
        self, sock: socket.socket, make_protocol: Callable[[], asyncio.BaseProtocol], *, name: str, limit: int = 0, spares: int = 0
    ) -> None:
        self.sock = sock
        self.name = name
        self.address: SocketAddress = bound_address(sock)
        self.open = 0
        """Connections that were taken and are not released."""
        self._make_protocol = make_protocol
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._closed = False
        self._exhausted = False
        self._resume: asyncio.TimerHandle | None = None
        self._spares_wanted = spares
        self._spares: list[int] = []
        self._hold_back()
        self._adopting: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to accept."""
        self._adjust()

    @property
    def listening(self) -> bool:
        """Whether connections are still taken (now, or when there is room again)."""
        return not self._closed

    def set_limit(self, limit: int) -> None:
        """`maxConnections`; 0 = no limit. Connections above a lowered limit stay."""
        self._limit = limit
        self._adjust()

    def released(self) -> None:
        """A connection is gone: there is room for another."""
        self.open -= 1
        self._hold_back()
        if not self._reading:
            self._adjust()

    def _adjust(self) -> None:
        """Read the socket exactly when another connection may be taken."""
        wanted = not (self._closed or self._resume is not None or self._full())
        if wanted and not self._reading:
            self._loop.add_reader(self.sock.fileno(), self._readable)
        elif self._reading and not wanted:
            self._loop.remove_reader(self.sock.fileno())
        self._reading = wanted

    def _full(self) -> bool:
        return self._limit > 0 and self.open >= self._limit

    def _readable(self) -> None:
        self._accept(_BATCH)
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
            self._adopt(client)

    def _adopt(self, client: socket.socket) -> None:
        client.setblocking(False)
        self.open += 1
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
        while self._spares:
            os.close(self._spares.pop())
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        self._adjust()
        close_socket(self.sock)

    async def settled(self) -> None:
        """Wait until every connection that was accepted has its protocol."""
        while self._adopting:
            await asyncio.wait(set(self._adopting))

    async def aclose(self) -> None:
        """Stop listening; what was accepted and has no protocol yet is dropped."""
        self.close()
        await cancel_and_wait(set(self._adopting))
