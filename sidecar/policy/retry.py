"""Whether a failed try may be repeated (product.md 3.3 and 3.9). Decides only; the dispatcher sleeps, sends and counts.

The rules by letter: (a) nothing of the request has left us: every method, once even without a stanza; (b) bytes have
left: idempotent methods, `Idempotency-Key`, or `methods: All`; (c) by status for listed codes, same method rule;
(d) never after a response byte reached the client; (e) a reused connection that died without a response byte: one
replay for idempotent requests outside `attempts`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from sidecar.errors import ProxyError, RefusedStream
from sidecar.model.reason import Clock, Phase, Reason
from sidecar.model.snapshot import Condition, RetryMethods, RetryPolicy

IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE", b"QUERY"})
"""RFC 9110 section 9.2.2; QUERY is safe, hence idempotent."""

STALE: Final = "stale_connection"
"""Label of a replay by rule (e)."""

_TRIES_WITHOUT_STANZA: Final = 2

_NEVER: Final = frozenset(
    {
        Reason.DESTINATION_NOT_FOUND,
        Reason.DESTINATION_UNAVAILABLE,
        Reason.DESTINATION_IP_PROHIBITED,
        Reason.PROXY_CONFIGURATION_ERROR,
        Reason.PROXY_INTERNAL_ERROR,
        Reason.PROXY_LOOP_DETECTED,
        Reason.OVERLOADED,
        Reason.CIRCUIT_OPEN,
        Reason.RATE_LIMITED,
        Reason.DRAINING,
    }
)
"""Our own refusals: another try would get the same answer, and shedding load must not wait."""

_RESET: Final = frozenset(
    {
        Reason.CONNECTION_TERMINATED,
        Reason.CONNECTION_READ_TIMEOUT,
        Reason.CONNECTION_WRITE_TIMEOUT,
        Reason.HTTP_RESPONSE_INCOMPLETE,
        Reason.TLS_ALERT_RECEIVED,
    }
)
"""The connection broke after bytes had left. A malformed response is not among them: it would come again."""


_NOT_THE_UPSTREAMS: Final = frozenset({Clock.REQUEST, Clock.HEADER, Clock.BODY_IDLE})
"""Clocks of the whole transaction and of the client."""


class Verdict(NamedTuple):
    """What to do about a failed try."""

    retry: bool
    reason: str = ""
    """Label of `retries_total`: a reason, `status_<code>` or `stale_connection`. Set whenever a retry was wanted."""
    skipped: str = ""
    """Why a wanted retry is not made: budget body method started time. "" when it is made or was not wanted."""


NO: Final = Verdict(retry=False)


def idempotent(method: bytes) -> bool:
    """Whether sending twice has the effect of sending once (RFC 9110 section 9.2.2)."""
    return method in IDEMPOTENT


class RetryState:
    """The rules for one exchange. `tries` counts the tries made so far, the failed one included, stale replays not."""

    __slots__ = ("_policy", "_repeatable", "_stale_repeatable", "max_tries")

    def __init__(self, policy: RetryPolicy | None, method: bytes, has_idempotency_key: bool) -> None:  # noqa: FBT001 - one fact of the request
        self._policy = policy
        self._stale_repeatable = has_idempotency_key or method in IDEMPOTENT
        self._repeatable = self._stale_repeatable or (policy is not None and policy.methods is RetryMethods.ALL)
        self.max_tries = _TRIES_WITHOUT_STANZA if policy is None else 1 + policy.attempts
        """1 + `attempts`; 2 without a stanza, whose second is for failures by rule (a) only."""

    def on_error(self, error: ProxyError, *, tries: int, body_replayable: bool, response_started: bool) -> Verdict:
        """A try ended with `error`.

        Never for what is not the upstream's doing: the client's own faults, the `request` clock, our refusals. A pool
        timeout (`clock=queue`) is repeated for every method, as product.md 3.3 (a) says; a full queue is not, because
        a 503 that sheds load must come at once.
        """
        condition = _condition(error)
        if condition is None or tries >= self.max_tries:
            return NO
        unsent = condition is Condition.CONNECT_FAILURE or condition is Condition.REFUSED_STREAM
        if not unsent if self._policy is None else condition not in self._policy.conditions:
            return NO
        return self._settle(error.reason.value, free=unsent, body_replayable=body_replayable, response_started=response_started)

    def on_status(self, status: int, *, tries: int, body_replayable: bool, response_started: bool = False) -> Verdict:
        """The upstream answered with `status`, of which the client has seen nothing yet (rule c)."""
        if self._policy is None or status not in self._policy.codes or tries >= self.max_tries:
            return NO
        return self._settle(f"status_{status}", free=False, body_replayable=body_replayable, response_started=response_started)

    def on_stale(self, *, replays: int, body_replayable: bool, response_started: bool = False) -> Verdict:
        """A reused connection died with zero response bytes (rule e). `replays`: those made so far.

        When this says no, the failure is one like any other: ask `on_error`.
        """
        if replays or not self._stale_repeatable or response_started:
            return NO
        return Verdict(retry=True, reason=STALE) if body_replayable else Verdict(retry=False, reason=STALE, skipped="body")

    def _settle(self, reason: str, *, free: bool, body_replayable: bool, response_started: bool) -> Verdict:
        """A retry is wanted and there are tries left: may it be made? `free`: whatever the method."""
        if response_started:
            skipped = "started"
        elif not free and not self._repeatable:
            skipped = "method"
        elif not body_replayable:
            skipped = "body"
        else:
            return Verdict(retry=True, reason=reason)
        return Verdict(retry=False, reason=reason, skipped=skipped)


def _condition(error: ProxyError) -> Condition | None:
    """Under which condition of the stanza a failure falls, None: under none."""
    if error.phase is None or error.reason in _NEVER or error.clock in _NOT_THE_UPSTREAMS:
        return None
    if isinstance(error, RefusedStream):
        return Condition.REFUSED_STREAM
    if error.phase is Phase.POOL or error.phase is Phase.CONNECT:
        return Condition.CONNECT_FAILURE  # also when backendRequest fires: nothing has been sent
    if error.clock is Clock.RESPONSE_HEADER or error.clock is Clock.BACKEND_REQUEST:
        return Condition.TIMEOUT if error.phase is not Phase.BODY else None
    return Condition.RESET if error.clock is None and error.reason in _RESET else None


def affordable(verdict: Verdict, *, delay: float, time_left: float, spend: Callable[[], bool]) -> Verdict:
    """`verdict`, unless its retry no longer fits: the clocks leave no time after `delay`, or the budget is spent.

    `spend` is asked last, so that nothing is taken out of the budget for a retry that is not made.
    """
    if not verdict.retry:
        return verdict
    if delay >= time_left:
        return Verdict(retry=False, reason=verdict.reason, skipped="time")
    return verdict if spend() else Verdict(retry=False, reason=verdict.reason, skipped="budget")


def backoff(policy: RetryPolicy, n: int, random: Callable[[], float]) -> float:
    """Seconds before the `n`-th retry (from 1): backoff + uniform(0, min(backoff * 2^n, maxBackoff) - backoff)."""
    base = policy.backoff
    spread = min(base * 2.0 ** min(n, 64), policy.max_backoff) - base
    return base + random() * spread if spread > 0 else base
