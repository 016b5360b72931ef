"""Recorder: the last failures and the slowest requests with every attempt, for `GET /recent`. Bounded, without secrets.

What is kept is copied out of the Exchange at its end, and only of the interesting ones: holding on to an Exchange would
keep its head (up to 32 KiB, credentials included) and its endpoints alive.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from heapq import heappush, heapreplace
from itertools import count
from typing import Any, Final, NamedTuple

from sidecar.model.exchange import Attempt, Exchange
from sidecar.observe.base import SilentObserver, TrafficKey, status_of, traffic_key
from sidecar.observe.text import printable, shortened, utc

FAILURES: Final = 256
SLOWEST: Final = 64
WINDOW_SECONDS: Final = 150.0
"""The slowest are chosen anew after this long; the choice before is still shown, so `/recent` looks back on 2.5 to 5 minutes."""
MAX_ATTEMPTS: Final = 16
MAX_PATH: Final = 512
MAX_NAME: Final = 256
MAX_DETAIL: Final = 1024


class Try(NamedTuple):
    """What is kept of an attempt; times as in Attempt."""

    number: int
    endpoint: str
    phase: str
    reused: bool
    delay: float
    started_at: float
    connected_at: float
    sent_at: float
    headers_at: float
    ended_at: float
    status: int
    outcome: str
    clock: str | None


class Record(NamedTuple):
    """What is kept of an exchange."""

    request_id: bytes
    names: TrafficKey
    method: bytes
    authority: bytes
    path: bytes
    client: str
    status: int
    reason: str | None
    clock: str | None
    detail: str
    started_at: float
    duration: float
    ended_wall: float
    bytes_in: int
    bytes_out: int
    replays: int
    retries_skipped: str
    tunnel: str
    revision: str
    attempts: tuple[Try, ...]


class Recorder(SilentObserver):
    """Keeps the last 256 failed, retried or replayed exchanges and the 64 slowest of each window."""

    def __init__(self, *, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._failures: deque[Record] = deque(maxlen=FAILURES)
        self._slow: list[tuple[float, int, Record]] = []
        """A heap, the fastest of the slow ones first; the number breaks ties."""
        self._slow_before: list[tuple[float, int, Record]] = []
        self._window_ends = 0.0
        self._floor = -1.0
        """Durations up to this are not among the slowest."""
        self._numbers = count()

    def exchange_finished(self, exchange: Exchange) -> None:
        """Keeps what is worth keeping."""
        if (
            exchange.reason is not None
            or len(exchange.attempts) > 1
            or exchange.status >= 500
            or exchange.replays
            or exchange.retries_skipped
        ):
            self._failures.append(self._record(exchange))
        elif exchange.ended_at >= self._window_ends:
            self._turn_window(exchange.ended_at)
        if exchange.ended_at - exchange.started_at > self._floor and not exchange.tunnel:
            self._keep_slow(exchange)

    def recent(self) -> dict[str, Any]:
        """What `GET /recent` shows: `failures` newest first, `slowest` slowest first; times in milliseconds."""
        slowest = sorted((*self._slow, *self._slow_before), key=lambda entry: entry[0], reverse=True)[:SLOWEST]
        return {
            "failures": [_document(record) for record in reversed(self._failures)],
            "slowest": [_document(record) for _, _, record in slowest],
        }

    def _keep_slow(self, exchange: Exchange) -> None:
        entry = (exchange.ended_at - exchange.started_at, next(self._numbers), self._record(exchange))
        if len(self._slow) < SLOWEST:
            heappush(self._slow, entry)
        else:
            heapreplace(self._slow, entry)
        if len(self._slow) == SLOWEST:
            self._floor = self._slow[0][0]

    def _turn_window(self, now: float) -> None:
        # After a long silence the window before is as old as the one that ends, and goes with it.
        self._slow_before = self._slow if now < self._window_ends + WINDOW_SECONDS else []
        self._slow = []
        self._floor = -1.0
        self._window_ends = now + WINDOW_SECONDS

    def _record(self, exchange: Exchange) -> Record:
        head, clock, reason = exchange.head, exchange.clock, exchange.reason
        return Record(
            request_id=shortened(exchange.request_id, MAX_NAME),
            names=traffic_key(exchange),
            method=shortened(head.method, MAX_NAME),
            authority=shortened(head.host, MAX_NAME),
            path=shortened(head.path.partition(b"?")[0], MAX_PATH),
            client=exchange.client,
            status=status_of(exchange),
            reason=None if reason is None else reason.value,
            clock=None if clock is None else clock.value,
            detail=exchange.detail[:MAX_DETAIL],
            started_at=exchange.started_at,
            duration=exchange.ended_at - exchange.started_at,
            ended_wall=self._wall(),
            bytes_in=exchange.bytes_in,
            bytes_out=exchange.bytes_out,
            replays=exchange.replays,
            retries_skipped=exchange.retries_skipped,
            tunnel=exchange.tunnel,
            revision=exchange.revision,
            attempts=tuple(map(_try, exchange.attempts[-MAX_ATTEMPTS:])),
        )


def _try(attempt: Attempt) -> Try:
    return Try(
        attempt.number,
        "" if attempt.endpoint is None else attempt.endpoint.label,
        attempt.phase.value,
        attempt.reused,
        attempt.delay,
        attempt.started_at,
        attempt.connected_at,
        attempt.sent_at,
        attempt.headers_at,
        attempt.ended_at,
        attempt.status,
        attempt.outcome,
        None if attempt.clock is None else attempt.clock.value,
    )


def _document(record: Record) -> dict[str, Any]:
    listener, route, upstream = record.names
    return {
        "requestId": _text(record.request_id),
        "time": utc(record.ended_wall - record.duration),
        "listener": listener,
        "route": route,
        "upstream": upstream,
        "method": _text(record.method),
        "authority": _text(record.authority),
        "path": _text(record.path),
        "client": record.client,
        "status": record.status,
        "reason": record.reason,
        "clock": record.clock,
        "detail": printable(record.detail),
        "durationMs": _milliseconds(record.duration),
        "bytesIn": record.bytes_in,
        "bytesOut": record.bytes_out,
        "replays": record.replays,
        "retriesSkipped": record.retries_skipped or None,
        "tunnel": record.tunnel or None,
        "revision": record.revision,
        "attempts": [_try_document(attempt, record.started_at) for attempt in record.attempts],
    }


def _try_document(attempt: Try, since: float) -> dict[str, Any]:
    def after(at: float) -> float | None:
        """Milliseconds since the exchange began; None: has not happened."""
        return _milliseconds(at - since) if at else None

    return {
        "number": attempt.number,
        "endpoint": attempt.endpoint or None,
        "phase": attempt.phase,
        "reused": attempt.reused,
        "delayMs": _milliseconds(attempt.delay),
        "startedMs": after(attempt.started_at),
        "connectedMs": after(attempt.connected_at),
        "sentMs": after(attempt.sent_at),
        "headersMs": after(attempt.headers_at),
        "endedMs": after(attempt.ended_at),
        "status": attempt.status or None,
        "outcome": attempt.outcome,
        "clock": attempt.clock,
    }


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _text(value: bytes) -> str:
    return printable(value.decode("utf-8", "backslashreplace"))
