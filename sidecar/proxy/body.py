"""The request body on its way out: counted, timed, and kept for a replay while it is small enough."""

from __future__ import annotations

from time import monotonic
from typing import Final

from sidecar.http1.body import RequestBody
from sidecar.http1.connection import Connection
from sidecar.http1.relay import BulkBody, relay_bulk
from sidecar.model.exchange import Exchange
from sidecar.model.head import Field
from sidecar.model.reason import Clock
from sidecar.policy.deadline import NEVER, Deadlines
from sidecar.protocol.hop_by_hop import trailers_allowed

KEPT_MAX: Final = 16 * 1024 * 1024
"""Bytes that all replay buffers of the process may hold (product.md 3.3); beyond it bodies are streamed unkept."""
_SMALL: Final = 4096
"""Pieces below this are joined when they are kept: an object for every two bytes would take thirty times as much."""


class Kept:
    """How much of `KEPT_MAX` is in use."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0


class OutgoingBody(BulkBody):
    """Implements BodySource over the client's body, which can be read again while it is `replayable`."""

    __slots__ = (
        "_deadlines",
        "_exchange",
        "_expecting",
        "_idle",
        "_keep",
        "_keeping",
        "_kept",
        "_pieces",
        "_replay",
        "_source",
        "_store",
        "length",
        "trailers",
    )

    def __init__(self, source: RequestBody, exchange: Exchange, deadlines: Deadlines, keep: int, store: Kept) -> None:
        self._source = source
        self.length = source.length
        self.trailers: list[Field] = []
        self._exchange = exchange
        self._deadlines = deadlines
        self._expecting = exchange.head.expect_continue
        """The client waits for the upstream's word: what it does not send is for the upstream to answer."""
        self._idle = exchange.listener.body_idle_timeout
        self._keep = keep
        self._kept = 0
        self._store = store
        self._pieces: list[bytes] = []
        self._replay: list[bytes] = []
        self._keeping = keep > 0 and source.length <= keep
        """A body that is known to be too long is never kept."""

    @property
    def done(self) -> bool:
        """Nothing more will come from the client."""
        return self._source.done

    @property
    def replayable(self) -> bool:
        """Every byte that has been read is still here; so it is while none has been read."""
        return self._keeping or self._exchange.bytes_in == 0

    @property
    def awaited(self) -> bool:
        """We wait for bytes of the client: it is not the upstream that stands still."""
        connection = self._source.connection
        return connection.waiter is not None or (connection.sink is not None and connection.sink.awaiting)

    def ready(self) -> bool:
        """Whether `read` would not wait."""
        return bool(self._replay) or self._source.ready()

    async def read(self) -> bytes:
        """The next piece: kept ones first after `rewind`. Raises what the client's body raises."""
        if self._replay:
            return self._replay.pop(0)
        source = self._source
        deadlines = self._deadlines
        if source.ready():
            piece = await source.read()
        else:
            if self._expecting:
                deadlines.arm_phase(Clock.RESPONSE_HEADER, monotonic(), deadlines.timeouts.response_header)
            elif self._idle:
                deadlines.body_at = monotonic() + self._idle
            try:
                piece = await source.read()
            finally:
                deadlines.body_at = NEVER
        if self._expecting:
            self.continued()
            deadlines.body_at = NEVER
        if not piece:
            self.trailers = trailers_allowed(source.trailers, self._exchange.head.connection_tokens)
        else:
            self._exchange.bytes_in += len(piece)
            deadlines.moved_at = monotonic()
            if self._keeping:
                self._remember(piece)
        return piece

    def continued(self) -> None:
        """The client no longer waits for 100 (Expect: 100-continue): from now on its silence is its own."""
        if self._expecting:
            self._expecting = False
            self._deadlines.disarm_phase()
            self._deadlines.body_at = monotonic() + self._idle if self._idle else NEVER

    def _remember(self, piece: bytes) -> None:
        size = len(piece)
        if self._kept + size > self._keep or self._store.size + size > KEPT_MAX:
            self.forget()
            return
        pieces = self._pieces
        if pieces and len(pieces[-1]) < _SMALL:
            pieces[-1] += piece
        else:
            pieces.append(piece)
        self._kept += size
        self._store.size += size

    def rewind(self) -> None:
        """The next `read` starts at the first byte again. Only while `replayable`."""
        self._replay = list(self._pieces)

    def whole(self) -> list[bytes] | None:
        """All of the body, when it has come, broke no rule, and is still here."""
        return self._pieces if self._keeping and self._source.done and self._source.error is None else None

    def forget(self) -> None:
        """No replay is possible, or none will be needed: give the memory back."""
        self._store.size -= self._kept
        self._kept = 0
        self._pieces = []
        self._keeping = False

    def bulk_left(self) -> int:
        """See BulkBody. Nothing is handed over that might have to be replayed; a known length has been compared with the limit before."""
        if self._keeping or self._replay:
            return 0
        return self._source.bulk_left()

    async def relay_to(self, destination: Connection) -> None:
        """Hand the rest over; a client that stops sending is noticed by `bodyIdleTimeout`."""
        deadlines = self._deadlines
        try:
            self._moved(0, destination)
            await relay_bulk(self._source, destination, lambda size: self._moved(size, destination))
        finally:
            deadlines.body_at = NEVER

    def _moved(self, size: int, destination: Connection) -> None:
        now = monotonic()
        self._exchange.bytes_in += size
        self._deadlines.moved_at = now
        # While the upstream is the slow one, the client is not to blame.
        self._deadlines.body_at = now + self._idle if self._idle and destination.drained is None else NEVER
