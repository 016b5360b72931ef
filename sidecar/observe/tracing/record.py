"""What the export thread gets of an exchange that is over: the facts that spans are made of, and no more.

Whole exchanges would keep up to 32 KiB of head each for as long as a collector is away.
"""

from __future__ import annotations

from time import time_ns
from typing import Final, NamedTuple

from sidecar.model.exchange import Attempt, Exchange, State
from sidecar.model.reason import Clock, Reason
from sidecar.model.snapshot import Listener, Route, Upstream
from sidecar.model.tls import Secured
from sidecar.observe.tracing.context import ExchangeTrace

MAX_TARGET: Final = 4096
MAX_FIELD: Final = 1024
"""Bytes that are kept of a request-target and of a field; longer ones are cut."""


class Record(NamedTuple):
    """Of one sampled exchange. `ended_ns`: Unix time of the moment `ended_at` of the monotonic clock."""

    trace: ExchangeTrace
    listener: Listener
    route: Route | None
    upstream: Upstream | None
    attempts: list[Attempt]
    method: bytes
    scheme: bytes
    host: bytes
    target: bytes
    sent_target: bytes
    minor: int
    client: str
    user_agent: bytes
    forwarded_for: bytes
    """X-Forwarded-For of a believed peer."""
    request_id: bytes
    started_at: float
    ended_at: float
    ended_ns: int
    status: int
    reason: Reason | None
    clock: Clock | None
    aborted: bool
    replays: int
    retries_skipped: str
    tunnel: str
    bytes_in: int
    bytes_out: int
    messages_in: int
    messages_out: int
    secured: Secured | None = None
    """The TLS of the client's connection."""

    @property
    def spans(self) -> int:
        """How many it makes."""
        return 1 + len(self.attempts)


def record(exchange: Exchange, trace: ExchangeTrace) -> Record:
    """The record of a finished exchange; nothing of it changes any more."""
    head = exchange.head
    agent = forwarded = b""
    for _, name, value in head.fields:
        if name == b"user-agent":
            agent = value[:MAX_FIELD]
        elif name == b"x-forwarded-for" and exchange.peer_trusted:
            forwarded = forwarded or value[:MAX_FIELD]
    return Record(
        trace,
        exchange.listener,
        exchange.route,
        exchange.upstream,
        exchange.attempts,
        head.method[:MAX_FIELD],
        head.scheme or (b"" if exchange.secured is None else b"https"),
        head.host[:MAX_FIELD],
        head.path[:MAX_TARGET],
        trace.target[:MAX_TARGET],
        head.minor,
        exchange.client,
        agent,
        forwarded,
        exchange.request_id,
        exchange.started_at,
        exchange.ended_at,
        time_ns(),
        exchange.status,
        exchange.reason,
        exchange.clock,
        exchange.state is State.ABORTED,
        exchange.replays,
        exchange.retries_skipped,
        exchange.tunnel,
        exchange.bytes_in,
        exchange.bytes_out,
        exchange.messages_in,
        exchange.messages_out,
        exchange.secured,
    )
