"""RequestMirror: copies of requests to another upstream, whose answers nobody sees (Gateway API HTTPRequestMirrorFilter).

A copy leaves when its original has been answered, so it never competes with it, and only if all of the request's body is at hand:
what is kept for a replay anyway. Copies are not retried, not part of a trace, and counted by what became of them. What their
upstream does, however slow, endless or hostile, costs a bounded part of our memory and time and is seen by nobody.
"""

from __future__ import annotations

import asyncio
from functools import partial
from random import random
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar.errors import OutriderError, ProxyError
from sidecar.model.exchange import Attempt
from sidecar.model.head import Field, ResponseHead
from sidecar.model.outbound import OutboundRequest
from sidecar.model.snapshot import Balancing, Timeouts
from sidecar.policy.balancer import hash_key
from sidecar.policy.deadline import Deadlines
from sidecar.proxy.body import KEPT_MAX
from sidecar.tasks import cancel_and_wait, create_task
from sidecar.upstream.health import judged

if TYPE_CHECKING:
    from sidecar.proxy.flight import Flight
    from sidecar.upstream.base import UpstreamRuntime

COPIES_MAX: Final = 128
"""Copies on their way at a time; further ones are not made, nor such whose bodies together would be more than `KEPT_MAX`."""
SECONDS: Final = 30.0
"""Longest life of a copy, answer included."""
ANSWER_MAX: Final = 1024 * 1024
"""Bytes of an answer that are read, so that its connection can be used again; after more it is closed."""
ANSWERED: Final = "success"
NO_BODY: Final = "body"
"""No copy: the request's body was too long to be kept."""
BUSY: Final = "busy"
"""No copy: too many are on their way."""
TIMED_OUT: Final = "timeout"
_NO_CLOCKS: Final = Timeouts(response_header=0.0, stream_idle=0.0, queue=0.0)


class CopiedBody:
    """A request body that is all here; a BodySource."""

    def __init__(self, length: int, pieces: list[bytes]) -> None:
        self.length = length
        self.trailers: list[Field] = []
        self._pieces = pieces[::-1]
        self.size = sum(map(len, pieces))

    def ready(self) -> bool:
        """See BodySource."""
        return True

    async def read(self) -> bytes:
        """See BodySource."""
        return self._pieces.pop() if self._pieces else b""


class Mirrors:
    """Owns the copies that are on their way."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._held = 0
        """Bytes of the bodies of copies that are on their way."""

    def send(self, flight: Flight, room: int = COPIES_MAX) -> None:
        """The exchange of `flight` is over: copy its request to wherever its route says, unless it was a tunnel.

        `room`: copies for which there is memory; nobody waits for them, so they are the first to be given up.
        """
        request, rule = flight.request, flight.rule
        if request is None or rule is None or request.upgrade or request.method == b"CONNECT":
            return
        for upstream, share in rule.payload.mirrors:
            if share < 1 and random() >= share:
                continue
            if len(self._running) >= min(COPIES_MAX, room):
                upstream.count_copy(BUSY)
            elif (copy := _copied(flight, request)) is None:
                upstream.count_copy(NO_BODY)
            elif self._held + (size := 0 if copy.body is None else copy.body.size) > KEPT_MAX:
                upstream.count_copy(BUSY)
            else:
                balancer = upstream.config.load_balancer
                hashed = balancer.policy is Balancing.CONSISTENT_HASH
                key = hash_key(balancer, flight.exchange.head, flight.exchange.client) if hashed else b""
                task = create_task(_send(upstream, copy.request, key), name="mirror")
                self._running.add(task)
                self._held += size
                task.add_done_callback(partial(self._ended, size))

    def _ended(self, size: int, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._held -= size

    async def aclose(self) -> None:
        """End what is on its way."""
        await cancel_and_wait(set(self._running))


class Copy(NamedTuple):
    """A request on its way once more, and its body by its own type."""

    request: OutboundRequest
    body: CopiedBody | None


def _copied(flight: Flight, request: OutboundRequest) -> Copy | None:
    """None: not all of the body is here."""
    body: CopiedBody | None = None
    if flight.body is not None:
        pieces = flight.body.whole()
        if pieces is None:
            return None
        body = CopiedBody(request.length, pieces)
        body.trailers = flight.body.trailers
    return Copy(OutboundRequest(request.method, request.target, request.fields, request.own, request.length, body), body)


async def _send(upstream: UpstreamRuntime, request: OutboundRequest, key: bytes) -> None:
    attempt = Attempt(1, monotonic())
    failed = True
    try:
        async with asyncio.timeout(SECONDS):
            attempt.endpoint = upstream.pick(attempt.started_at, key, ())
            await _exchange(upstream, request, attempt)
        attempt.outcome, failed = ANSWERED, False
    except TimeoutError:
        failed = not attempt.status  # an answer that goes on for longer is none the worse for it
        attempt.outcome = TIMED_OUT if failed else ANSWERED
    except OutriderError as error:
        attempt.outcome = error.reason.value if isinstance(error, ProxyError) else TIMED_OUT
    finally:
        now = monotonic()
        upstream.count_copy(attempt.outcome or TIMED_OUT)
        if (endpoint := attempt.endpoint) is not None:
            upstream.finished(endpoint, (attempt.headers_at or now) - attempt.started_at, now, failed)
            if upstream.health is not None:
                upstream.health.learn(endpoint, now, judged(attempt, failed=failed) if attempt.outcome else None)


async def _exchange(upstream: UpstreamRuntime, request: OutboundRequest, attempt: Attempt) -> None:
    """Send, and read the answer to its end unless that is too far away."""
    assert attempt.endpoint is not None
    response = await upstream.transport.send(attempt.endpoint, request, attempt, Deadlines(_NO_CLOCKS), _ignore)
    attempt.status = response.head.status
    size = 0
    try:
        while (piece := await response.body.read()) and size <= ANSWER_MAX:
            size += len(piece)
            await asyncio.sleep(0)  # who sends without a pause must not keep the loop from others
    except BaseException:
        response.abort()
        raise
    if size > ANSWER_MAX:
        response.abort()
    else:
        response.release()


def _ignore(_head: ResponseHead) -> None:
    """An interim answer to a copy."""
