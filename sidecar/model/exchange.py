"""Exchange and Attempt: the only per-request state. Written by the pipeline, read by observers.

Mutable and slotted, because they are made for every request (a frozen instance costs four times as much).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Protocol

from sidecar.model.endpoint import Endpoint
from sidecar.model.head import RequestHead
from sidecar.model.reason import Clock, Phase, Reason
from sidecar.model.snapshot import Listener, Route, Upstream
from sidecar.model.tls import Secured


class State(IntEnum):
    """Where an exchange is; the permitted moves are the table in `proxy/states.py`."""

    RECEIVED = 0
    ROUTED = 1
    SENDING = 2
    RESPONDING = 3
    DONE = 4
    REPLIED = 5
    ABORTED = 6


# Bound once, here and wherever every request asks: a member is found through its class's metaclass, at 0.1 us each time.
_RECEIVED: Final = State.RECEIVED
_POOL: Final = Phase.POOL


class Attempt:
    """One try at one endpoint. Times are of the monotonic clock, 0.0 = has not happened."""

    __slots__ = (
        "clock",
        "connected_at",
        "delay",
        "ended_at",
        "endpoint",
        "headers_at",
        "number",
        "outcome",
        "phase",
        "reused",
        "secured",
        "sent_at",
        "span_id",
        "started_at",
        "status",
    )

    def __init__(self, number: int, started_at: float) -> None:
        self.number = number
        self.started_at = started_at
        self.endpoint: Endpoint | None = None
        self.phase = _POOL
        self.reused = False
        """The connection came from the pool."""
        self.secured: Secured | None = None
        """The TLS of the connection; None: there was none yet, or it is in the clear."""
        self.connected_at = 0.0
        self.sent_at = 0.0
        """The whole request had been written."""
        self.headers_at = 0.0
        """The final response's head had come."""
        self.ended_at = 0.0
        self.status = 0
        self.outcome = ""
        """`success`, a reason, or `status_<code>` when that code caused a retry."""
        self.clock: Clock | None = None
        self.delay = 0.0
        """Seconds of back-off before this attempt."""
        self.span_id = 0
        """Of its CLIENT span; 0 while tracing is off."""


class Trace(Protocol):
    """The trace that an exchange is part of (observe/tracing/context.py makes them)."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits, lower case."""
        ...

    @property
    def span_id(self) -> str:
        """16 hexadecimal digits, lower case: of the SERVER span."""
        ...

    @property
    def sampled(self) -> bool:
        """Whether spans are recorded."""
        ...

    def outgoing(self, attempt: Attempt, target: bytes) -> list[tuple[bytes, bytes]]:
        """The (name, value) lines that tell the upstream of `attempt`; `target` is what is asked of it."""
        ...


class Exchange:
    """One request and what became of it, from its head to the last byte (or the end of its tunnel)."""

    __slots__ = (
        "attempts",
        "bytes_in",
        "bytes_out",
        "client",
        "clock",
        "detail",
        "ended_at",
        "head",
        "identity",
        "listener",
        "messages_in",
        "messages_out",
        "peer_trusted",
        "reason",
        "replays",
        "request_id",
        "retries_skipped",
        "revision",
        "route",
        "secured",
        "started_at",
        "state",
        "status",
        "trace",
        "tunnel",
        "upstream",
    )

    def __init__(self, listener: Listener, head: RequestHead, client: str, started_at: float) -> None:
        self.listener = listener
        self.head = head
        self.client = client
        """The peer's address without its port; "unix" for a unix socket."""
        self.started_at = started_at
        self.ended_at = 0.0
        self.state = _RECEIVED
        self.peer_trusted = True
        self.route: Route | None = None
        self.upstream: Upstream | None = None
        self.attempts: list[Attempt] = []
        self.replays = 0
        """Replays of stale keep-alive connections, outside `attempts`."""
        self.retries_skipped: str = ""
        """Why a retry that the policy wanted was not made: budget body method started time."""
        self.status = 0
        self.reason: Reason | None = None
        """None: the upstream answered."""
        self.clock: Clock | None = None
        self.detail = ""
        """For our own log: what happened, in words, internal addresses included."""
        self.identity = ""
        """Of the client by its verified certificate; "" when it showed none."""
        self.secured: Secured | None = None
        """The TLS of the client's connection; known only where the exchange is traced."""
        self.request_id = b""
        self.trace: Trace | None = None
        """None: not traced, the caller's trace fields travel on as they came."""
        self.bytes_in = 0
        self.bytes_out = 0
        self.messages_in = 0
        self.messages_out = 0
        """WebSocket messages from and to the client; counted only where spans are recorded."""
        self.tunnel = ""
        """"websocket", "upgrade" or "connect" when the exchange became a tunnel."""
        self.revision = ""
