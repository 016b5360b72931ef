"""Stage dispatch: attempts at endpoints until one answers, the policy says no, or time is up (product.md 3.2 and 3.3)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Collection
from functools import partial
from random import random
from time import monotonic
from typing import Final

from sidecar.errors import PeerGone, ProxyError, StaleConnection, UpstreamError
from sidecar.model.endpoint import Endpoint
from sidecar.model.exchange import Attempt
from sidecar.model.reason import Reason
from sidecar.model.snapshot import Balancing
from sidecar.observe.observer import Observer
from sidecar.policy.balancer import hash_key
from sidecar.policy.deadline import NEVER
from sidecar.policy.deadline_header import NAME, render_timeout
from sidecar.policy.retry import NO, STALE, RetryState, Verdict, affordable, backoff, idempotent
from sidecar.protocol.retry_after import retry_after
from sidecar.proxy.flight import Flight
from sidecar.proxy.respond import interim
from sidecar.proxy.tunnel import connect
from sidecar.upstream.health import judged
from sidecar.upstream.transport import InboundResponse

_CONSISTENT_HASH: Final = Balancing.CONSISTENT_HASH
RETRY_AFTER_MAX: Final = 10.0
"""Seconds that `Retry-After` may make us wait when no `request` clock says how much time there is."""


async def dispatch(flight: Flight, observer: Observer) -> InboundResponse:
    """The response to pass on. Raises the ProxyError of the last try; PeerGone when the client has left."""
    attempt = begin_attempt(flight)
    assert flight.upstream is not None
    flight.upstream.budget.request(attempt.started_at)
    outcome: InboundResponse | BaseException
    try:
        outcome = response = await send(flight, attempt, ())
        attempt.status = response.head.status
        policy = flight.exchange.route.retry if flight.exchange.route is not None else None
        if policy is None or response.head.status not in policy.codes:
            return response
    except (asyncio.CancelledError, ProxyError, PeerGone) as error:
        outcome = error
    return await Retries(flight, observer).go_on(attempt, outcome)


def begin_attempt(flight: Flight, delay: float = 0.0) -> Attempt:
    """The next attempt, entered in the exchange's list. `delay`: seconds of back-off before it."""
    attempts = flight.exchange.attempts
    attempt = Attempt(len(attempts) + 1, monotonic())
    attempt.delay = delay
    attempts.append(attempt)
    return attempt


def send(flight: Flight, attempt: Attempt, tried: Collection[Endpoint]) -> Awaitable[InboundResponse]:
    """What one attempt waits for: the response's head, or a connection for CONNECT. Raises UpstreamError: no endpoint."""
    upstream, request, deadlines = flight.upstream, flight.request, flight.deadlines
    assert upstream is not None
    assert request is not None
    now = attempt.started_at
    seconds = deadlines.timeouts.backend_request
    deadlines.attempt_at = now + seconds if seconds else NEVER
    if deadlines.request_at < NEVER:
        request.attempt_own = [(NAME, render_timeout(deadlines.request_at - now))]
    exchange = flight.exchange
    if exchange.trace is not None:
        mine = exchange.trace.outgoing(attempt, request.target)
        request.attempt_own = mine + request.attempt_own if deadlines.request_at < NEVER else mine
    balancer = upstream.config.load_balancer
    key = hash_key(balancer, exchange.head, exchange.client) if balancer.policy is _CONSISTENT_HASH else b""
    attempt.endpoint = endpoint = upstream.pick(now, key, tried)
    if request.method == b"CONNECT":
        return connect(upstream.transport, endpoint, attempt, deadlines)
    return upstream.transport.send(endpoint, request, attempt, deadlines, partial(interim, flight))


class Retries:
    """What happens after a first attempt that failed, or had a status for which the policy knows better."""

    __slots__ = ("_delay", "_policy", "_rules", "flight", "observer")

    def __init__(self, flight: Flight, observer: Observer) -> None:
        exchange = flight.exchange
        head = exchange.head
        self.flight = flight
        self.observer = observer
        self._policy = exchange.route.retry if exchange.route is not None else None
        self._delay = 0.0
        has_key = not idempotent(head.method) and any(lower == b"idempotency-key" for _, lower, _ in head.fields)
        self._rules = RetryState(self._policy, head.method, has_key)

    async def go_on(self, attempt: Attempt, outcome: InboundResponse | BaseException) -> InboundResponse:
        """End `attempt`, which had this outcome, and try again for as long as the rules allow. Raises as `dispatch`."""
        flight = self.flight
        attempts = flight.exchange.attempts
        while True:
            if isinstance(outcome, BaseException):
                self._end_failed(attempt, outcome)
            else:
                attempt.status = outcome.head.status
                verdict = self._on_status(outcome)
                if not verdict.retry:
                    return outcome
                self._end(attempt, verdict.reason, failed=True)
                outcome.abort()
            flight.deadlines.between_attempts(monotonic() + self._delay)
            if self._delay:
                await asyncio.sleep(self._delay)
            if flight.body is not None:
                flight.body.rewind()
            attempt = begin_attempt(flight, self._delay)
            try:
                outcome = await send(flight, attempt, [one.endpoint for one in attempts if one.endpoint is not None])
            except (asyncio.CancelledError, ProxyError, PeerGone) as error:
                outcome = error

    def _end_failed(self, attempt: Attempt, outcome: BaseException) -> None:
        """End an attempt that raised `outcome`; returns when another one may follow, else raises what ended it."""
        if isinstance(outcome, asyncio.CancelledError):
            error = self._interruption(attempt, outcome)
        elif isinstance(outcome, ProxyError):
            error = outcome
        else:
            self._end(attempt, "client_closed", failed=False)
            raise outcome
        verdict = self._on_error(error)
        self._end(attempt, STALE if verdict.reason == STALE else error.reason.value, failed=isinstance(error, UpstreamError))
        if not verdict.retry:
            raise error from None

    # -- may there be another

    def _tries(self) -> int:
        """Made so far; replays of stale connections are outside of them (product.md 3.3 e)."""
        exchange = self.flight.exchange
        return len(exchange.attempts) - exchange.replays

    def _untried(self) -> bool:
        """Whether there is an endpoint that no attempt has been made at."""
        upstream = self.flight.upstream
        assert upstream is not None
        tried = [attempt.endpoint for attempt in self.flight.exchange.attempts]
        return any(endpoint not in tried for endpoint in upstream.endpoints)

    def _on_error(self, error: ProxyError) -> Verdict:
        flight = self.flight
        exchange = flight.exchange
        replayable = flight.body is None or flight.body.replayable
        if isinstance(error, StaleConnection):
            verdict = self._rules.on_stale(replays=exchange.replays, body_replayable=replayable, response_started=flight.started)
            exchange.retries_skipped = verdict.skipped or exchange.retries_skipped
            if verdict.retry:
                exchange.replays += 1
                self._delay = 0.0
                return verdict
        if error.reason is Reason.TLS_CERTIFICATE_ERROR and not self._untried():  # the same certificate would be refused again
            return NO
        verdict = self._rules.on_error(error, tries=self._tries(), body_replayable=replayable, response_started=flight.started)
        return self._afford(verdict, self._backoff())

    def _on_status(self, response: InboundResponse) -> Verdict:
        flight = self.flight
        if self._policy is None or response.head.status not in self._policy.codes:
            return NO
        replayable = flight.body is None or flight.body.replayable
        verdict = self._rules.on_status(
            response.head.status, tries=self._tries(), body_replayable=replayable, response_started=flight.started
        )
        asked = next((value for _, lower, value in response.head.fields if lower == b"retry-after"), None)
        wait = retry_after(asked, time.time()) if asked is not None else None
        return self._afford(verdict, max(self._backoff(), wait or 0.0), RETRY_AFTER_MAX)

    def _backoff(self) -> float:
        """Without a stanza the one replay of a request that never left goes at once."""
        if self._policy is None:
            return 0.0
        return backoff(self._policy, self._tries(), random)

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

    def _interruption(self, attempt: Attempt, cancelled: asyncio.CancelledError) -> ProxyError:
        """The clock that cut the attempt short. Raises PeerGone when the client did, `cancelled` when we are to stop."""
        interruption = self.flight.interruption()
        if isinstance(interruption, ProxyError):
            attempt.clock = interruption.clock
            return interruption
        self._end(attempt, "draining" if interruption is None else "client_closed", failed=False)
        raise cancelled if interruption is None else interruption

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
    upstream = flight.upstream
    upstream.finished(endpoint, (attempt.headers_at or now) - attempt.started_at, now, failed)
    if upstream.health is not None:
        upstream.health.learn(endpoint, now, judged(attempt, failed=failed))
