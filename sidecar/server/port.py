"""Port: one listening socket of the document with its connections, from binding to the end of the last of them."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import Any, Final, Protocol

from sidecar.errors import ProxyError
from sidecar.http1.connection import as_protocol
from sidecar.http1.idle import IdleQueue
from sidecar.http1.server_connection import Owner, ServerConnection, ServerSettings
from sidecar.model.snapshot import Listener
from sidecar.protocol.head import HeadLimits
from sidecar.server import handshakes
from sidecar.server.acceptor import Acceptor, Share
from sidecar.server.sockets import UNIX, SocketAddress, listener_address, open_socket
from sidecar.tls.store import TlsStore

Handler = Callable[[ServerConnection], Coroutine[Any, Any, None]]
"""Serves one connection from its first request to its last."""
TURNS: Final = 5
"""Turns of the loop in which a connection that was told to go, and has nothing to say, is gone."""
_FIRST_REQUEST_SECONDS: Final = 1.0
"""How long a connection that has carried nothing yet may take for its request once its port has closed: its client could not know."""


class PortState(StrEnum):
    """`state` of `GET /listeners`."""

    LISTENING = "listening"
    DRAINING = "draining"
    CLOSED = "closed"


class Watcher(handshakes.Watcher, Protocol):
    """Who wants to know of connections: the observers."""

    def connection_opened(self, listener: str) -> None:
        """A client connected."""
        ...

    def connection_closed(self, listener: str) -> None:
        """It is gone."""
        ...


OpenSocket = Callable[[Listener, "tuple[socket.socket, ...]"], "tuple[socket.socket, Share | None]"]
"""Gives the socket of a listener, bound and silent; raises BindError. The second argument is `beside` of `open_socket`.

With a Share the socket is also other processes', who accept from it too.
"""


def open_own(listener: Listener, beside: tuple[socket.socket, ...]) -> tuple[socket.socket, Share | None]:
    """A socket that is ours alone."""
    return open_socket(listener_address(listener.bind, listener.port), beside=beside), None


def port_key(listener: Listener) -> tuple[str, str, int]:
    """What makes two listeners of two documents the same socket: the address; for port 0 the name too."""
    fixed = listener.port or listener.bind.startswith(UNIX)
    return ("", listener.bind, listener.port) if fixed else (listener.name, listener.bind, 0)


class Port:
    """Made bound and silent; `open` begins to accept. A reload calls `update`, a drain `stop_accepting`."""

    def __init__(
        self, listener: Listener, watcher: Watcher, tls: TlsStore, *, beside: tuple[Port, ...] = (), open_at: OpenSocket = open_own
    ) -> None:
        """Raises BindError. `beside`: ports that a reload takes away and that hold the same port number."""
        self._loop = asyncio.get_running_loop()
        self._watcher = watcher
        self._left = asyncio.Event()
        """Set when a connection is gone."""
        self._says_close = False
        self._counted_as: dict[ServerConnection, str] = {}
        self.last_opened = -math.inf
        """When the last connection came since `say_close` (the loop's time)."""
        self.listener = listener
        self.acceptor: Acceptor
        sock, share = open_at(listener, tuple(port.acceptor.sock for port in beside))
        self.owner = Owner(listener.name, self._settings(listener, None), _nobody, self._opened, self._closed)
        self.acceptor = Acceptor(sock, self._make_protocol, name=listener.name, limit=listener.max_connections, share=share)
        self._handshakes = handshakes.Handshakes(lambda: self.owner.name, tls, watcher, self._freed)

    @property
    def address(self) -> SocketAddress:
        """Where it listens; a port 0 of the document has become a number."""
        return self.acceptor.address

    @property
    def state(self) -> PortState:
        """Whether new connections are taken."""
        if self.acceptor.listening:
            return PortState.LISTENING
        return PortState.DRAINING if self.connections or self._handshakes.pending else PortState.CLOSED

    @property
    def connections(self) -> set[ServerConnection]:
        """Those that are open."""
        return self.owner.connections

    def _make_protocol(self) -> asyncio.BaseProtocol:
        connection, listener = ServerConnection(self.owner), self.listener
        if listener.tls is None:
            return as_protocol(connection)
        return as_protocol(self._handshakes.begin(connection, listener.tls, listener.header_timeout))

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

    def close_idle(self, keep: int, most: int | None) -> int:
        """Close the longer idle half of the idle connections above `keep`, `most` of them (None: no matter how many); returns how many."""
        idle = self.owner.settings.idle
        half = max(len(idle) - keep + 1, 0) // 2
        return idle.expire_oldest(half if most is None else min(half, most))

    def refuse_heads(self, refusal: Callable[[], ProxyError]) -> int:
        """Wait no longer for heads that come in pieces; returns how many."""
        return sum(connection.refuse_head(refusal()) for connection in list(self.connections) if connection.head_coming)

    def stop_accepting(self) -> None:
        """No new connection; idle ones close now, the others after their current exchange, or after their first."""
        self.acceptor.close()
        self._let_go()

    def _let_go(self) -> None:
        for connection in list(self.connections):
            if _is_unused(connection):
                self._let_go_later(connection)
            else:
                connection.drain_soon()

    def _let_go_later(self, connection: ServerConnection) -> None:
        connection.draining = True
        self._loop.call_later(_FIRST_REQUEST_SECONDS, connection.drain_soon)

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
        """Cut every connection but those `spared`; returns on how many of them something was said."""
        doomed = [connection for connection in self.connections if connection not in spared]
        cut = sum(not _is_unused(connection) for connection in doomed)
        for connection in doomed:
            connection.closed = False  # closed, too, it can be waiting for a peer that is slow to take the rest
            connection.abort()
        self._handshakes.abort()
        return cut

    async def emptied(self) -> None:
        """Wait until no connection is left."""
        await self.acceptor.settled()
        while self.connections or self._handshakes.pending:
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
        if self._says_close:
            connection.draining = True
            self.last_opened = self._loop.time()
        if not self.acceptor.listening:  # it was in the backlog when we stopped
            self._let_go_later(connection)

    def _closed(self, connection: ServerConnection) -> None:
        self._watcher.connection_closed(self._counted_as.pop(connection, self.owner.name))
        self._freed()

    def _freed(self) -> None:
        self.acceptor.released()
        self._left.set()


def _is_unused(connection: ServerConnection) -> bool:
    """Nothing has come on it yet."""
    return not (connection.requests or connection.rx)


async def _nobody(_connection: ServerConnection) -> None:
    """The handler until `open`: nothing is accepted before."""
