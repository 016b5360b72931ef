"""The document's listening sockets, as the main process keeps them for its workers: bound here, accepted from there."""

from __future__ import annotations

import socket
from collections.abc import Collection
from typing import NamedTuple

from sidecar.model.snapshot import Listener, Mode
from sidecar.server.listeners import ListenerError
from sidecar.server.port import open_own, port_key
from sidecar.server.sockets import BindError, bound_address, close_socket
from sidecar.workers.messages import Key
from sidecar.workers.seats import Seats


class Bound(NamedTuple):
    """A socket, whose it is, and its column of the seats."""

    listener: Listener
    sock: socket.socket
    column: int


class Change(NamedTuple):
    """A reload that is bound and not yet in force: `SharedSockets.commit` or `discard` ends it."""

    listeners: tuple[Listener, ...]
    bound: dict[Key, Bound]


class SharedSockets:
    """While a worker dies, is made, or all of them change their listeners, whoever connects waits here and loses nothing."""

    def __init__(self, seats: Seats) -> None:
        self._seats = seats
        self._sockets: dict[Key, Bound] = {}
        self.closing = False
        """The sidecar is on its way out: nothing is opened any more."""

    def prepare(self, listeners: tuple[Listener, ...]) -> Change:
        """Bind what is new, before anything old goes. Raises ListenerError; then nothing has changed."""
        change = Change(listeners, {})
        if self.closing:
            return change
        wanted = {port_key(listener) for listener in listeners}
        leaving = [bound for key, bound in self._sockets.items() if key not in wanted]
        try:
            for index, listener in enumerate(listeners):
                if port_key(listener) not in self._sockets:
                    change.bound[port_key(listener)] = self._bind(index, listener, leaving)
        except BaseException:
            self.discard(change)
            raise
        return change

    def _bind(self, index: int, listener: Listener, leaving: list[Bound]) -> Bound:
        beside = tuple(old.sock for old in leaving if listener.port and bound_address(old.sock).port == listener.port)
        try:
            sock, _ = open_own(listener, beside)
        except BindError as error:
            raise ListenerError(index, str(error)) from error
        return Bound(listener, sock, self._seats.new_column())

    def discard(self, change: Change) -> None:
        """Close what `prepare` bound: the document is not taken after all."""
        for bound in change.bound.values():
            close_socket(bound.sock)

    def commit(self, change: Change) -> None:
        """The new set is in force: the workers have let go of the others."""
        kept: dict[Key, Bound] = {}
        for listener in change.listeners:
            key = port_key(listener)
            bound = change.bound.get(key) or self._sockets.get(key)
            if bound is not None:
                kept[key] = bound._replace(listener=listener)
        for key, bound in self._sockets.items():
            if key not in kept:
                close_socket(bound.sock)
        self._sockets = kept

    def with_change(self, change: Change) -> dict[Key, Bound]:
        """What there is, and what the change brings."""
        return {**self._sockets, **change.bound}

    @property
    def all(self) -> dict[Key, Bound]:
        """Those in force."""
        return self._sockets

    def addresses(self) -> dict[str, str]:
        """Name -> `address:port` of the listeners in force."""
        return {bound.listener.name: str(bound_address(bound.sock)) for bound in self._sockets.values()}

    def has(self, modes: Collection[Mode]) -> bool:
        """Whether a listener of these modes has a socket."""
        return any(bound.listener.mode in modes for bound in self._sockets.values())

    def close(self, modes: Collection[Mode]) -> None:
        """Close those of these modes; the workers have stopped accepting."""
        for key, bound in list(self._sockets.items()):
            if bound.listener.mode in modes:
                close_socket(bound.sock)
                del self._sockets[key]
