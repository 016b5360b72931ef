"""Fanout: several observers behind one Observer; a failing one is reported and never breaks a request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from sidecar.model.exchange import Attempt, Exchange
from sidecar.model.reason import Rejection
from sidecar.model.snapshot import Snapshot
from sidecar.model.tls import Handshake
from sidecar.observe.base import SilentObserver
from sidecar.observe.observer import Observer

log = logging.getLogger("outrider")


class Fanout:
    """Calls each observer in the given order; a method that it inherits from SilentObserver is not called at all."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        everybody = tuple(observers)
        self.failures: dict[str, int] = {type(observer).__name__: 0 for observer in everybody}
        """Exceptions by observer, for `observer_failures_total`."""
        self._reported: set[tuple[str, str, type[Exception]]] = set()
        self._exchange_started = _interested(everybody, "exchange_started")
        self._attempt_finished = _interested(everybody, "attempt_finished")
        self._exchange_finished = _interested(everybody, "exchange_finished")
        self._message_rejected = _interested(everybody, "message_rejected")
        self._connection_opened = _interested(everybody, "connection_opened")
        self._connection_closed = _interested(everybody, "connection_closed")
        self._handshake_finished = _interested(everybody, "handshake_finished")
        self._tunnel_started = _interested(everybody, "tunnel_started")
        self._config_applied = _interested(everybody, "config_applied")
        self._upstream_connected = _interested(everybody, "upstream_connected")

    # The per-request calls spell out their loop: a shared helper with *args would cost more than some observers do.

    def exchange_started(self, exchange: Exchange) -> None:
        """See Observer."""
        for call in self._exchange_started:
            try:
                call(exchange)
            except Exception as error:  # noqa: BLE001 - whatever an observer does, the request goes on
                self._failed(call, error)

    def attempt_finished(self, exchange: Exchange, attempt: Attempt) -> None:
        """See Observer."""
        for call in self._attempt_finished:
            try:
                call(exchange, attempt)
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(call, error)

    def exchange_finished(self, exchange: Exchange) -> None:
        """See Observer."""
        for call in self._exchange_finished:
            try:
                call(exchange)
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(call, error)

    def message_rejected(self, listener: str, kind: Rejection) -> None:
        """See Observer."""
        self._tell(self._message_rejected, listener, kind)

    def connection_opened(self, listener: str) -> None:
        """See Observer."""
        self._tell(self._connection_opened, listener)

    def connection_closed(self, listener: str) -> None:
        """See Observer."""
        self._tell(self._connection_closed, listener)

    def handshake_finished(self, listener: str, result: Handshake) -> None:
        """See Observer."""
        self._tell(self._handshake_finished, listener, result)

    def tunnel_started(self, exchange: Exchange) -> None:
        """See Observer."""
        self._tell(self._tunnel_started, exchange)

    def config_applied(self, snapshot: Snapshot) -> None:
        """See Observer."""
        self._tell(self._config_applied, snapshot)

    def upstream_connected(self, upstream: str, result: str, seconds: float) -> None:
        """See Observer."""
        self._tell(self._upstream_connected, upstream, result, seconds)

    def _tell(self, calls: tuple[Callable[..., None], ...], *arguments: object) -> None:
        for call in calls:
            try:
                call(*arguments)
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(call, error)

    def _failed(self, call: Callable[..., None], error: Exception) -> None:
        observer = type(getattr(call, "__self__", call)).__name__
        self.failures[observer] = self.failures.get(observer, 0) + 1
        kind = (observer, call.__name__, type(error))
        if kind not in self._reported:
            # Once per kind: a broken observer would otherwise write a traceback for every request.
            self._reported.add(kind)
            log.error(
                "%s.%s failed; further failures of this kind are only counted",
                observer,
                call.__name__,
                exc_info=error,
                extra={"event": "observer_failed"},
            )


def _interested(observers: tuple[Observer, ...], name: str) -> tuple[Callable[..., Any], ...]:
    silent = getattr(SilentObserver, name)
    return tuple(getattr(observer, name) for observer in observers if getattr(type(observer), name) is not silent)
