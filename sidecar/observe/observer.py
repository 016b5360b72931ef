"""The Observer seam: who wants to know what happened. Calls are synchronous, cheap, and must not raise."""

from __future__ import annotations

from typing import Protocol

from sidecar.model.exchange import Attempt, Exchange
from sidecar.model.reason import Rejection
from sidecar.model.snapshot import Snapshot
from sidecar.model.tls import Handshake


class Observer(Protocol):
    """Implemented by metrics, access log, flight recorder and tracing."""

    def exchange_started(self, exchange: Exchange) -> None:
        """A request's head has been read and admitted."""
        ...

    def attempt_finished(self, exchange: Exchange, attempt: Attempt) -> None:
        """An attempt has its `outcome`; for the passed-on one that is at the end of the stream."""
        ...

    def exchange_finished(self, exchange: Exchange) -> None:
        """Exactly once per started exchange, at its very end."""
        ...

    def message_rejected(self, listener: str, kind: Rejection) -> None:
        """Bytes from a client broke a rule."""
        ...

    def connection_opened(self, listener: str) -> None:
        """A client connected."""
        ...

    def connection_closed(self, listener: str) -> None:
        """A client's connection is gone."""
        ...

    def handshake_finished(self, listener: str, result: Handshake) -> None:
        """A client's TLS handshake has ended; its connection, if it became one, is told of by `connection_opened`."""
        ...

    def tunnel_started(self, exchange: Exchange) -> None:
        """The exchange became a tunnel."""
        ...

    def config_applied(self, snapshot: Snapshot) -> None:
        """A new configuration is active; label sets of what it no longer has may go."""
        ...

    def upstream_connected(self, upstream: str, result: str, seconds: float) -> None:
        """A connection attempt ended: `result` is `success` or a reason."""
        ...
