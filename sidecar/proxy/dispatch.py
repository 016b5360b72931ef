"""Stage dispatch: attempts at endpoints until one answers, the policy says no, or time is up (product.md 3.2 and 3.3)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from random import random
from time import monotonic
from typing import Final

from sidecar.errors import PeerGone, ProxyError, StaleConnection, UpstreamError
from sidecar.model.endpoint import Endpoint
from sidecar.model.exchange import Attempt
from sidecar.model.head import ResponseHead
from sidecar.model.snapshot import Balancing
from sidecar.observe.observer import Observer
from sidecar.policy.balancer import hash_key
from sidecar.policy.deadline import NEVER
from sidecar.policy.deadline_header import NAME, render_timeout
from sidecar.policy.retry import NO, STALE, RetryState, Verdict, affordable, backoff, idempotent, retry_after
from sidecar.proxy.flight import Flight
from sidecar.proxy.respond import interim
from sidecar.proxy.tunnel import connect
from sidecar.upstream.transport import InboundResponse

RETRY_AFTER_MAX: Final = 10.0
"""Seconds that `Retry-After` may make us wait when no `request` clock says how much time there is."""


class Dispatch:
    """The attempts of one exchange. Only made when a request is really sent on."""

    __slots__ = ("_delay", "_key", "_policy", "_tried", "_tries", "flight", "observer")

    def __init__(self, flight: Flight, observer: Observer) -> None:
        exchange = flight.exchange
        head = exchange.head
        self.flight = flight
        self.observer = observer
        self._policy = exchange.route.retry if exchange.route is not None else None
        self._tried: list[Endpoint] = []
        self._tries = 0
        self._delay = 0.0
        assert flight.upstream is not None
        balancer = flight.upstream.config.load_balancer
        self._key = hash_key(balancer, head, exchange.client) if balancer.policy is Balancing.CONSISTENT_HASH else b""

    async def run(self) -> InboundResponse:
        """The response to pass on. Raises the ProxyError of the last try; PeerGone when the client has left."""
        flight = self.flight
        upstream = flight.upstream
        assert upstream is not None
        upstream.budget.request(monotonic())
        while True:
            attempt = self._begin()
            try:
                response = await self._send(attempt)
            except asyncio.CancelledError as cancelled:
                error = self._interruption(attempt, cancelled)
                if not self._again(attempt, error):
                    raise error from None
            except ProxyError as error:
                if not self._again(attempt, error):
                    raise
            except PeerGone:
                self._end(attempt, "client_closed", failed=False)
                raise
            else:
                attempt.status = response.head.status
                verdict = self._on_status(response)
                if not verdict.retry:
                    return response
                self._end(attempt, verdict.reason, failed=True)
                response.abort()
            flight.deadlines.between_attempts(monotonic() + self._delay)
            if self._delay:
                await asyncio.sleep(self._delay)
            if flight.body is not None:
                flight.body.rewind()

    # -- may there be another

    def _rules(self) -> RetryState:
        """Made when something has failed: most exchanges never ask."""
        head = self.flight.exchange.head
        has_key = not idempotent(head.method) and any(lower == b"idempotency-key" for _, lower, _ in head.fields)
        return RetryState(self._policy, head.method, has_key)

    def _again(self, attempt: Attempt, error: ProxyError) -> bool:
        """End `attempt`; True when another one follows."""
        verdict = self._on_error(error)
        outcome = STALE if verdict.reason == STALE else error.reason.value
        self._end(attempt, outcome, failed=isinstance(error, UpstreamError))
        return verdict.retry

    def _on_error(self, error: ProxyError) -> Verdict:
        flight = self.flight
        exchange = flight.exchange
        replayable = flight.body is None or flight.body.replayable
        rules = self._rules()
        if isinstance(error, StaleConnection):
            verdict = rules.on_stale(replays=exchange.replays, body_replayable=replayable, response_started=flight.started)
            exchange.retries_skipped = verdict.skipped or exchange.retries_skipped
            if verdict.retry:
                exchange.replays += 1
                self._delay = 0.0
                return verdict
        verdict = rules.on_error(error, tries=self._tries - exchange.replays, body_replayable=replayable, response_started=flight.started)
        return self._afford(verdict, self._backoff())

    def _on_status(self, response: InboundResponse) -> Verdict:
        flight = self.flight
        if self._policy is None or response.head.status not in self._policy.codes:
            return NO
        replayable = flight.body is None or flight.body.replayable
        tries = self._tries - flight.exchange.replays
        verdict = self._rules().on_status(response.head.status, tries=tries, body_replayable=replayable, response_started=flight.started)
        asked = next((value for _, lower, value in response.head.fields if lower == b"retry-after"), None)
        wait = retry_after(asked, time.time()) if asked is not None else None
        return self._afford(verdict, max(self._backoff(), wait or 0.0), RETRY_AFTER_MAX)

    def _backoff(self) -> float:
        """Without a stanza the one replay of a request that never left goes at once."""
        if self._policy is None:
            return 0.0
        return backoff(self._policy, self._tries - self.flight.exchange.replays, random)

    def _afford(self, verdict: Verdict, delay: float, at_most: float = NEVER) -> Verdict:
        flight = self.flight
        upstream = flight.upstream
        assert upstream is not None
        now = monotonic()
        left = (
            min(flight.deadlines.request_at - now, at_most) if flight.deadlines.request_at == NEVER else flight.deadlines.request_at - now
        )
        verdict = affordable(verdict, delay=delay, time_left=left, spend=lambda: upstream.budget.try_spend(now))
        if verdict.skipped:
            flight.exchange.retries_skipped = verdict.skipped
        self._delay = delay
        return verdict

    # -- one try

    def _begin(self) -> Attempt:
        attempts = self.flight.exchange.attempts
        attempt = Attempt(len(attempts) + 1, monotonic())
        attempt.delay = self._delay
        attempts.append(attempt)
        self._tries += 1
        return attempt

    def _send(self, attempt: Attempt) -> Awaitable[InboundResponse]:
        """What one attempt waits for: the response's head, or a connection for CONNECT."""
        flight = self.flight
        upstream, request, deadlines = flight.upstream, flight.request, flight.deadlines
        assert upstream is not None
        assert request is not None
        now = attempt.started_at
        seconds = deadlines.timeouts.backend_request
        deadlines.attempt_at = now + seconds if seconds else NEVER
        if deadlines.request_at < NEVER:
            request.attempt_own = [(NAME, render_timeout(deadlines.request_at - now))]
        attempt.endpoint = endpoint = upstream.pick(now, self._key, self._tried)
        self._tried.append(endpoint)
        if request.method == b"CONNECT":
            return connect(upstream.transport, endpoint, attempt, deadlines)
        return upstream.transport.send(endpoint, request, attempt, deadlines, self._interim)

    def _interruption(self, attempt: Attempt, cancelled: asyncio.CancelledError) -> ProxyError:
        """The clock that cut the attempt short. Raises PeerGone when the client did, `cancelled` when we are to stop."""
        interruption = self.flight.interruption()
        if isinstance(interruption, ProxyError):
            attempt.clock = interruption.clock
            return interruption
        self._end(attempt, "draining" if interruption is None else "client_closed", failed=False)
        raise cancelled if interruption is None else interruption

    def _interim(self, head: ResponseHead) -> None:
        if head.status == 100 and self.flight.body is not None:
            self.flight.body.continued()
        interim(self.flight, head)

    def _end(self, attempt: Attempt, outcome: str, *, failed: bool) -> None:
        end_attempt(self.flight, attempt, outcome, failed=failed)
        self.observer.attempt_finished(self.flight.exchange, attempt)


def end_attempt(flight: Flight, attempt: Attempt, outcome: str, *, failed: bool) -> None:
    """Balancer and endpoint learn what became of `attempt`: at the end of the stream, not at its head."""
    now = monotonic()
    attempt.outcome, attempt.ended_at = outcome, now
    endpoint = attempt.endpoint
    if endpoint is None:
        return
    assert flight.upstream is not None
    flight.upstream.finished(endpoint, (attempt.headers_at or now) - attempt.started_at, now, failed)
