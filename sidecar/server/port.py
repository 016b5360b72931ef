"""Port: one listening socket of the document with its connections, from binding to the end of the last of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import Any, Final, Protocol

from sidecar.http1.idle import IdleQueue
from sidecar.http1.server_connection import Owner, ServerConnection, ServerSettings
from sidecar.model.snapshot import Listener
from sidecar.protocol.head import HeadLimits
from sidecar.server.acceptor import Acceptor
from sidecar.server.sockets import UNIX, SocketAddress, listener_address, open_socket

Handler = Callable[[ServerConnection], Coroutine[Any, Any, None]]
"""Serves one connection from its first request to its last."""
TURNS: Final = 5
"""Turns of the loop in which a connection that was told to go, and has nothing to say, is gone."""
_LATE_SECONDS: Final = 0.25


class PortState(StrEnum):
    """`state` of `GET /listeners`."""

    LISTENING = "listening"
    DRAINING = "draining"
    CLOSED = "closed"


class Watcher(Protocol):
    """Who wants to know of connections: the observers."""

    def connection_opened(self, listener: str) -> None:
        """A client connected."""
        ...

    def connection_closed(self, listener: str) -> None:
        """It is gone."""
        ...


def port_key(listener: Listener) -> tuple[str, str, int]:
    """What makes two listeners of two documents the same socket: the address; for port 0 the name too."""
    fixed = listener.port or listener.bind.startswith(UNIX)
    return ("", listener.bind, listener.port) if fixed else (listener.name, listener.bind, 0)


class Port:
    """Made bound and silent; `open` begins to accept. A reload calls `update`, a drain `stop_accepting`."""

    def __init__(self, listener: Listener, watcher: Watcher, *, beside: tuple[Port, ...] = ()) -> None:
        """Raises BindError. `beside`: ports that a reload takes away and that hold the same port number."""
        self._loop = asyncio.get_running_loop()
        self._watcher = watcher
        self._left = asyncio.Event()
        """Set when a connection is gone."""
        self._says_close = False
        self._counted_as: dict[ServerConnection, str] = {}
        self.listener = listener
        self.acceptor: Acceptor
        sock = open_socket(listener_address(listener.bind, listener.port), beside=tuple(port.acceptor.sock for port in beside))
        self.owner = Owner(listener.name, self._settings(listener, None), _nobody, self._opened, self._closed)
        self.acceptor = Acceptor(sock, lambda: ServerConnection(self.owner), name=listener.name, limit=listener.max_connections)

    @property
    def address(self) -> SocketAddress:
        """Where it listens; a port 0 of the document has become a number."""
        return self.acceptor.address

    @property
    def state(self) -> PortState:
        """Whether new connections are taken."""
        if self.acceptor.listening:
            return PortState.LISTENING
        return PortState.DRAINING if self.connections else PortState.CLOSED

    @property
    def connections(self) -> set[ServerConnection]:
        """Those that are open."""
        return self.owner.connections

    def open(self, handler: Handler) -> None:
        """Begin to accept."""
        self.owner.handler = handler
        self.acceptor.start()

    def update(self, listener: Listener, handler: Handler) -> None:
        """Other settings on the same socket: for new connections, and for the next request of those that are open."""
        if listener.name != self.owner.name:  # connections were counted, and are served, under the old name: they leave under it
            self._counted_as.update(dict.fromkeys(self.connections - self._counted_as.keys(), self.owner.name))
            self._let_go()
        self.listener = listener
        self.owner.name = self.acceptor.name = listener.name
        self.owner.handler = handler
        self.owner.settings = self._settings(listener, self.owner.settings)
        self.acceptor.set_limit(listener.max_connections)

    def stop_accepting(self) -> None:
        """No new connection; idle ones close now, the others after their current exchange."""
        self.acceptor.close()
        self._let_go()

    def _let_go(self) -> None:
        for connection in list(self.connections):
            connection.drain_soon()

    def say_close(self) -> None:
        """From now on responses say `Connection: close`; new connections are still taken."""
        self._says_close = True
        for connection in self.connections:
            connection.draining = True

    @property
    def names(self) -> set[str]:
        """Under which its connections are served."""
        return {self.listener.name, *self._counted_as.values()}

    def abort(self, spared: set[ServerConnection] | frozenset[ServerConnection] = frozenset()) -> int:
        """Cut every connection but those `spared`; returns how many."""
        doomed = [connection for connection in self.connections if connection not in spared]
        for connection in doomed:
            connection.closed = False  # closed, too, it can be waiting for a peer that is slow to take the rest
            connection.abort()
        return len(doomed)

    async def emptied(self) -> None:
        """Wait until no connection is left."""
        await self.acceptor.settled()
        while self.connections:
            self._left.clear()
            await self._left.wait()

    async def aclose(self) -> None:
        """Nothing is left afterwards: socket, connections, timer."""
        await self.acceptor.aclose()
        self.abort()
        await self.emptied()
        self.owner.settings.idle.close()

    def _settings(self, listener: Listener, old: ServerSettings | None) -> ServerSettings:
        limits = HeadLimits(max_bytes=listener.max_header_bytes, max_fields=listener.max_header_count, max_target=listener.max_target_bytes)
        idle = old.idle if old is not None and old.idle.timeout == listener.idle_timeout else IdleQueue(self._loop, listener.idle_timeout)
        return ServerSettings(limits, listener.header_timeout, listener.max_request_body, idle)

    def _opened(self, connection: ServerConnection) -> None:
        self._watcher.connection_opened(self.owner.name)
        connection.draining = self._says_close
        if not self.acceptor.listening:  # it was in the backlog when we stopped: its request is probably on the way
            self._loop.call_later(_LATE_SECONDS, connection.drain_soon)

    def _closed(self, connection: ServerConnection) -> None:
        self._watcher.connection_closed(self._counted_as.pop(connection, self.owner.name))
        self.acceptor.released()
        self._left.set()


async def _nobody(_connection: ServerConnection) -> None:
    """The handler until `open`: nothing is accepted before."""
