"""What every observer shares: a default that does nothing, the names of an exchange, its status."""

from __future__ import annotations

from sidecar.errors import STATUS_OF
from sidecar.model.compiler import mypyc_attr
from sidecar.model.exchange import Attempt, Exchange
from sidecar.model.reason import Rejection
from sidecar.model.snapshot import Snapshot
from sidecar.model.tls import Handshake

TrafficKey = tuple[str, str, str]
"""(listener, route, upstream), "" where none was chosen."""


@mypyc_attr(allow_interpreted_subclasses=True)  # tracing and metrics_export are never compiled
class SilentObserver:
    """An Observer that does nothing. Fanout leaves out the calls that a subclass does not override."""

    def exchange_started(self, exchange: Exchange) -> None:
        """See Observer."""

    def attempt_finished(self, exchange: Exchange, attempt: Attempt) -> None:
        """See Observer."""

    def exchange_finished(self, exchange: Exchange) -> None:
        """See Observer."""

    def message_rejected(self, listener: str, kind: Rejection) -> None:
        """See Observer."""

    def connection_opened(self, listener: str) -> None:
        """See Observer."""

    def connection_closed(self, listener: str) -> None:
        """See Observer."""

    def handshake_finished(self, listener: str, result: Handshake) -> None:
        """See Observer."""

    def tunnel_started(self, exchange: Exchange) -> None:
        """See Observer."""

    def config_applied(self, snapshot: Snapshot) -> None:
        """See Observer."""

    def upstream_connected(self, upstream: str, result: str, seconds: float) -> None:
        """See Observer."""


def traffic_key(exchange: Exchange) -> TrafficKey:
    """The three names by which an exchange is counted and logged."""
    route, upstream = exchange.route, exchange.upstream
    return (
        exchange.listener.name,
        "" if route is None else route.name,
        "" if upstream is None else upstream.name,
    )


def status_of(exchange: Exchange) -> int:
    """The status that the client got, or would have got: an aborted exchange is shown by its reason (499, 504, ...)."""
    if exchange.status or exchange.reason is None:
        return exchange.status
    return STATUS_OF[exchange.reason]


def response_seconds(attempt: Attempt) -> float | None:
    """From the request sent to the response's head; 0.0 when the response came first, None when one did not happen."""
    came, sent = attempt.headers_at, attempt.sent_at
    if not came:
        return None
    return came - sent if 0.0 < sent < came else 0.0
