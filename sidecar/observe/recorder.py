"""Recorder: the last failures and the slowest requests with every attempt, for `GET /recent` and `GET /why`.

Always on, bounded, without secrets. What is kept is copied out of the Exchange at its end, and only of the interesting
ones: holding on to an Exchange would keep its head (up to 32 KiB, credentials included) and its endpoints alive.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from heapq import heappush, heapreplace
from itertools import count, islice
from typing import Any, Final, NamedTuple

from sidecar.model.exchange import Attempt, Exchange
from sidecar.model.reason import Clock
from sidecar.model.snapshot import Snapshot
from sidecar.observe.base import SilentObserver, TrafficKey, status_of, traffic_key
from sidecar.observe.cited import Cited, Setting, Source
from sidecar.observe.text import printable, shortened, utc

FAILURES: Final = 256
SLOWEST: Final = 64
WINDOW_SECONDS: Final = 150.0
"""The slowest are chosen anew after this long; the choice before is still shown, so `/recent` looks back on 2.5 to 5 minutes."""
MAX_ATTEMPTS: Final = 16
MAX_PATH: Final = 512
MAX_NAME: Final = 256
MAX_DETAIL: Final = 1024
DEADLINE: Final = b"x-request-timeout-ms"
MAX_FOUND: Final = 16
"""Records of one request id that are told: a caller may send the same id again and again."""


class Try(NamedTuple):
    """What is kept of an attempt; times as in Attempt."""

    number: int
    endpoint: str
    endpoint_state: str
    """When the exchange ended."""
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
    trace_id: str
    deadline: bytes
    """What the caller's deadline header said, when the `request` clock fired."""
    source: str
    revision: str
    settings: tuple[Setting, ...]
    attempts: tuple[Try, ...]


class Recorder(SilentObserver):
    """Keeps the last 256 failed, retried or replayed exchanges and the 64 slowest of each window.

    `active` is the configuration that serves now. `config_applied` comes while it is still the one before.
    """

    def __init__(self, *, active: Callable[[], Source | None] = lambda: None, wall: Callable[[], float] = time.time) -> None:
        self._active = active
        self._cited: Cited | None = None
        self._cited_before: Cited | None = None
        """Of the configuration before, which requests in flight at a reload still belong to."""
        self._wall = wall
        self._failures: deque[Record] = deque(maxlen=FAILURES)
        self._slow: list[tuple[float, int, Record]] = []
        """A heap, the fastest of the slow ones first; the number breaks ties."""
        self._slow_before: list[tuple[float, int, Record]] = []
        self._window_ends = 0.0
        self._floor = -1.0
        """Durations up to this are not among the slowest."""
        self._numbers = count()

    def config_applied(self, snapshot: Snapshot) -> None:
        """Remembers the configuration that goes for what is in flight under it."""
        source = self._active()
        if source is not None and source.snapshot is not snapshot:
            self._cited_before = self._citing(source.snapshot.revision)
            self._cited = None

    def exchange_finished(self, exchange: Exchange) -> None:
        """Keeps what is worth keeping."""
        record = None
        if (
            exchange.reason is not None
            or len(exchange.attempts) > 1
            or exchange.status >= 500
            or exchange.replays
            or exchange.retries_skipped
        ):
            record = self._record(exchange)
            self._failures.append(record)
        elif exchange.ended_at >= self._window_ends:
            self._turn_window(exchange.ended_at)
        if exchange.ended_at - exchange.started_at > self._floor and not exchange.tunnel:
            self._keep_slow(exchange, record)

    def recent(self) -> dict[str, Any]:
        """What `GET /recent` shows: `failures` newest first, `slowest` slowest first; times in milliseconds."""
        slowest = sorted((*self._slow, *self._slow_before), key=lambda entry: entry[0], reverse=True)[:SLOWEST]
        return {
            "failures": [_document(record) for record in reversed(self._failures)],
            "slowest": [_document(record) for _, _, record in slowest],
        }

    def find(self, request_id: str) -> list[dict[str, Any]]:
        """What `GET /why` shows of this request, the newest first: one request may pass a sidecar twice, in and out."""
        wanted = shortened(request_id.encode("utf-8", "replace"), MAX_NAME)
        kept = [record for record in reversed(self._failures) if record.request_id == wanted]
        slow = [record for _, _, record in (*self._slow, *self._slow_before) if record.request_id == wanted]
        kept += [record for record in slow if record not in kept]
        return [_document(record) for record in sorted(kept, key=lambda record: record.ended_wall, reverse=True)[:MAX_FOUND]]

    def last(self, limit: int = 1) -> list[dict[str, Any]]:
        """The newest failures, the newest first."""
        return [_document(record) for record in islice(reversed(self._failures), limit)]

    def _citing(self, revision: str) -> Cited | None:
        """The settings of the configuration with this revision, None when it is too long ago."""
        cited = self._cited
        if cited is None or cited.source.snapshot.revision != revision:
            source = self._active()
            if source is not None and source.snapshot.revision == revision:
                cited = self._cited = Cited(source)
        for known in (cited, self._cited_before):
            if known is not None and known.source.snapshot.revision == revision:
                return known
        return None

    def _keep_slow(self, exchange: Exchange, record: Record | None) -> None:
        """`record`: it has failed, too, and is told once."""
        entry = (exchange.ended_at - exchange.started_at, next(self._numbers), record or self._record(exchange))
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
        head, clock, reason, trace = exchange.head, exchange.clock, exchange.reason, exchange.trace
        cited = self._citing(exchange.revision)
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
            trace_id="" if trace is None else trace.trace_id,
            deadline=_deadline(exchange) if clock is Clock.REQUEST else b"",
            source="" if cited is None else cited.source.name,
            revision=exchange.revision,
            settings=() if cited is None else cited.by(exchange),
            attempts=tuple(map(_try, exchange.attempts[-MAX_ATTEMPTS:])),
        )


def _deadline(exchange: Exchange) -> bytes:
    return next((shortened(value, MAX_NAME) for _, name, value in exchange.head.fields if name == DEADLINE), b"")


def _try(attempt: Attempt) -> Try:
    endpoint = attempt.endpoint
    return Try(
        attempt.number,
        "" if endpoint is None else endpoint.label,
        "" if endpoint is None else endpoint.state.value,
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
        "traceId": record.trace_id or None,
        "callerDeadlineMs": _text(record.deadline) or None,
        "source": record.source or None,
        "revision": record.revision,
        "settings": [{"path": one.path, "value": printable(one.value), "origin": one.origin} for one in record.settings],
        "attempts": [_try_document(attempt, record.started_at) for attempt in record.attempts],
    }


def _try_document(attempt: Try, since: float) -> dict[str, Any]:
    def after(at: float) -> float | None:
        """Milliseconds since the exchange began; None: has not happened."""
        return _milliseconds(at - since) if at else None

    return {
        "number": attempt.number,
        "endpoint": attempt.endpoint or None,
        "endpointState": attempt.endpoint_state or None,
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
