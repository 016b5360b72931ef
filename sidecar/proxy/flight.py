"""Flight: what the stages of one exchange share while it runs. The record of it is `flight.exchange`."""

from __future__ import annotations

from sidecar.errors import PeerGone, ProxyError, UpstreamError
from sidecar.http1.server_connection import ServerConnection
from sidecar.model.exchange import Exchange
from sidecar.model.head import Field
from sidecar.model.outbound import OutboundRequest
from sidecar.model.reason import Clock, Phase, Reason
from sidecar.model.snapshot import Timeouts
from sidecar.policy.deadline import Deadlines
from sidecar.policy.router import Rule
from sidecar.proxy.body import OutgoingBody
from sidecar.proxy.plan import ListenerPlan, PeerPlan, RoutePlan
from sidecar.upstream.base import UpstreamRuntime

_NO_TIMEOUTS = Timeouts()
_ATTEMPT_CLOCKS = {
    Clock.CONNECT: Reason.CONNECTION_TIMEOUT,
    Clock.QUEUE: Reason.CONNECTION_LIMIT_REACHED,
    Clock.RESPONSE_HEADER: Reason.HTTP_RESPONSE_TIMEOUT,
    Clock.BACKEND_REQUEST: Reason.HTTP_RESPONSE_TIMEOUT,
    Clock.UPGRADE_HANDSHAKE: Reason.HTTP_UPGRADE_FAILED,
}
"""Clocks of one attempt and their reasons (product.md 3.9 Clocks, Queue)."""


class Flight:
    """Mutable, one per exchange, gone when it is over."""

    __slots__ = (
        "body",
        "chunked",
        "committed",
        "connection",
        "cut_by",
        "deadlines",
        "delivered",
        "exchange",
        "fields",
        "fired",
        "keep_alive",
        "known",
        "nominated",
        "peer",
        "plan",
        "request",
        "rule",
        "started",
        "task",
        "upstream",
    )

    def __init__(
        self,
        exchange: Exchange,
        connection: ServerConnection,
        plan: ListenerPlan,
        peer: PeerPlan,
        fields: list[Field],
        known: dict[bytes, bytes],
    ) -> None:
        self.exchange = exchange
        self.connection = connection
        self.plan = plan
        self.peer = peer
        self.known = known
        """Request fields that we write or believe ourselves, taken out of `fields`: lower-case name -> joined value."""
        self.fields = fields
        """The client's end-to-end fields."""
        self.deadlines = Deadlines(_NO_TIMEOUTS)
        self.task = connection.task
        self.fired: Clock | None = None
        self.cut_by: ProxyError | None = None
        self.rule: Rule[RoutePlan] | None = None
        self.upstream: UpstreamRuntime | None = None
        self.request: OutboundRequest | None = None
        self.body: OutgoingBody | None = None
        self.started = False
        """A byte of a response, interim ones included, has gone to the client: no retry any more."""
        self.committed = False
        """The final response's head has gone to the client: an error can only cut the connection."""
        self.chunked = False
        """The response's body goes to the client in chunks."""
        self.delivered = False
        """All of a response of known length has been handed to the client's socket, and the upstream has not said yet that it is all."""
        self.nominated: tuple[bytes, ...] = ()
        """Names in the response's `Connection`, which its trailers lose too."""
        self.keep_alive = exchange.head.keep_alive

    def interrupt(self, clock: Clock) -> None:
        """A clock fired: whatever this exchange waits for is cancelled, and `interruption` says why."""
        if self.fired is None:
            self.fired = clock
            self.task.cancel()

    def cut(self, error: ProxyError) -> None:
        """The process cannot afford this exchange any longer: it ends with `error`."""
        if self.fired is None and self.cut_by is None:
            self.cut_by = error
            self.task.cancel()

    def interruption(self) -> ProxyError | PeerGone | None:
        """Why our task has been cancelled, in terms of HTTP; None when it really is to stop.

        Takes the cancellation back, so that the exchange can go on to its reply.
        """
        clock = self.fired
        if self.connection.gone:
            error: ProxyError | PeerGone = PeerGone("the client closed its connection")
        elif self.cut_by is not None:
            error = self.cut_by
        elif clock is not None:
            error = self._timed_out(clock)
        else:
            return None
        self.fired = self.cut_by = None
        while self.task.uncancel():
            pass
        return error

    def _writing(self) -> bool:
        """What stands still is a peer that takes nothing: the client, or the upstream while it should take the body."""
        if self.connection.drained is not None:
            return True
        sending = self.body is not None and not self.body.awaited and self.exchange.attempts[-1].sent_at == 0.0
        return sending and self.exchange.attempts[-1].phase in (Phase.SEND, Phase.BODY)

    def _timed_out(self, clock: Clock) -> ProxyError:
        deadlines = self.deadlines
        if clock is Clock.REQUEST:
            return ProxyError(Reason.REQUEST_TIMEOUT, clock=clock)
        if clock is Clock.BODY_IDLE:
            return ProxyError(Reason.REQUEST_BODY_TIMEOUT, clock=clock, reusable=False)
        if clock in (Clock.STREAM_IDLE, Clock.TUNNEL_IDLE):
            direction = "write" if self._writing() else "read"
            return ProxyError(Reason.STREAM_IDLE_TIMEOUT, clock=clock, direction=direction, reusable=False)
        deadlines.disarm_phase()
        deadlines.attempt_at = float("inf")
        phase = self.exchange.attempts[-1].phase if self.exchange.attempts else Phase.POOL
        retry_after = 1 if clock is Clock.QUEUE else None
        status = 504 if clock is Clock.UPGRADE_HANDSHAKE else None
        return UpstreamError(_ATTEMPT_CLOCKS[clock], clock=clock, phase=phase, retry_after=retry_after, status=status)
