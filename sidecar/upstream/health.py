"""The health of one upstream's endpoints: outlier detection, circuit breaker and active checks, joined and acted upon.

What decides is pure (policy/outlier.py, breaker.py, health_check.py). Here the verdicts become endpoint states, timers, checks
and log lines. One endpoint can be out for two reasons at once; it gets traffic again when none is left.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Iterable
from time import monotonic
from typing import Final

from sidecar import __version__
from sidecar.errors import OutriderError, UpstreamError
from sidecar.model.endpoint import Endpoint, EndpointState
from sidecar.model.exchange import Attempt
from sidecar.model.head import ResponseHead
from sidecar.model.health import HealthCheck
from sidecar.model.outbound import OutboundRequest
from sidecar.model.reason import Phase, Reason
from sidecar.model.snapshot import Timeouts, Upstream
from sidecar.model.status import HealthStatus
from sidecar.policy.breaker import Circuit, CircuitBreaker
from sidecar.policy.deadline import Deadlines
from sidecar.policy.health_check import CheckRecord, passes
from sidecar.policy.outlier import CONSECUTIVE, SUCCESS_RATE, OutlierDetector
from sidecar.policy.retry import STALE
from sidecar.tasks import cancel_and_wait, create_task
from sidecar.upstream.transport import Transport

log = logging.getLogger("outrider")

_JITTER: Final = 0.1
"""Share by which the time between two checks varies, so that checks of many sidecars do not come in step."""
_SOON: Final = 1.0
"""The first check of an endpoint comes within this, or within one interval."""
_BODY_MAX: Final = 64 * 1024
"""Of an answer to a check so much is read, so that its connection can be kept; a longer one is cut."""
_OURS: Final = frozenset({STALE, Reason.CONNECTION_LIMIT_REACHED.value})
"""Outcomes of failed attempts that say nothing of an endpoint: a keep-alive race, and our own want of descriptors."""
_USER_AGENT: Final = f"outrider/{__version__} (health check)".encode()


def judged(attempt: Attempt, *, failed: bool) -> bool | None:
    """Whether an attempt speaks against its endpoint. None: it says nothing (the client left, or our own limits refused it)."""
    if failed:
        return None if attempt.phase is Phase.POOL or attempt.outcome in _OURS else True
    return attempt.status >= 500 if attempt.status else None


class UpstreamHealth:
    """Owned by its upstream, which calls `adopt` with each new set of endpoints, and `aclose` in the end."""

    def __init__(self, config: Upstream, transport: Transport) -> None:
        self._name = config.name
        self._host = check_host(config)
        self._transport = transport
        self._detector = None if config.outlier_detection is None else OutlierDetector(config.outlier_detection)
        self._breaker = None if config.circuit_breaker is None else CircuitBreaker(config.circuit_breaker)
        self._check = config.health_check
        self._endpoints: tuple[Endpoint, ...] = ()
        self._ejected: dict[Endpoint, asyncio.TimerHandle] = {}
        self._checks: dict[Endpoint, asyncio.Task[None]] = {}
        self._unhealthy: set[Endpoint] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._ejections = {CONSECUTIVE: 0, SUCCESS_RATE: 0}
        self._results = {"success": 0, "failure": 0}

    # -- endpoints come and go

    def adopt(self, endpoints: tuple[Endpoint, ...]) -> None:
        """These are the upstream's endpoints now."""
        before, self._endpoints = self._endpoints, endpoints
        stay = set(endpoints)
        for endpoint in before:
            if endpoint not in stay:
                self._forget(endpoint)
        if self._check is not None:
            for endpoint in endpoints:
                if endpoint not in self._checks:
                    self._checks[endpoint] = create_task(self._watch(endpoint, self._check), name=f"check {endpoint.label}")

    def _forget(self, endpoint: Endpoint) -> None:
        if (timer := self._ejected.pop(endpoint, None)) is not None:
            timer.cancel()
        if (task := self._checks.pop(endpoint, None)) is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        self._unhealthy.discard(endpoint)
        if self._detector is not None:
            self._detector.forget(endpoint)

    async def aclose(self) -> None:
        """End timers and checks; every endpoint is as healthy as if it had never been watched."""
        endpoints, self._endpoints = self._endpoints, ()
        for endpoint in endpoints:
            self._forget(endpoint)
            self._settle(endpoint)
        await cancel_and_wait(set(self._ending))

    # -- what requests tell

    def admit(self, now: float) -> None:
        """A request is about to go to an endpoint. Raises UpstreamError CIRCUIT_OPEN."""
        if self._breaker is not None and (wait := self._breaker.admit(now)):
            raise UpstreamError(Reason.CIRCUIT_OPEN, f"the circuit breaker is {self._breaker.state}", phase=Phase.POOL, retry_after=wait)

    def learn(self, endpoint: Endpoint, now: float, failed: bool | None) -> None:  # noqa: FBT001  # called per request
        """A request that was admitted has ended on `endpoint`. `failed`: see `judged`."""
        if failed is None:
            if self._breaker is not None:
                self._breaker.unlearned()
            return
        if self._breaker is not None and self._breaker.learn(now, failed=failed):
            self._say_circuit(self._breaker.state)
        if self._detector is None or endpoint in self._ejected or endpoint.state is EndpointState.DRAINING:
            return
        why = self._detector.learn(endpoint, now, failed=failed)
        if why and self._detector.may_eject(away=self._away(), total=len(self._endpoints)):
            self._eject(endpoint, now, why, self._detector)

    def _away(self) -> int:
        return len(self._ejected.keys() | self._unhealthy)

    def _eject(self, endpoint: Endpoint, now: float, why: str, detector: OutlierDetector) -> None:
        seconds = detector.eject(endpoint, now, random.random)
        self._ejected[endpoint] = asyncio.get_running_loop().call_later(seconds, self._restore, endpoint)
        self._ejections[why] += 1
        self._settle(endpoint)
        self._say(
            "endpoint_ejected", f"{endpoint.label} gets no traffic for {seconds:.1f} s", endpoint, logging.WARNING, why=why, seconds=seconds
        )

    def _restore(self, endpoint: Endpoint) -> None:
        del self._ejected[endpoint]
        if self._detector is not None:
            self._detector.restore(endpoint, monotonic())
        self._settle(endpoint)
        self._say("endpoint_restored", f"{endpoint.label} gets traffic again, on probation", endpoint, why="penalty_over")

    def _settle(self, endpoint: Endpoint) -> None:
        """The state follows from what is known; one that leaves the upstream keeps its own."""
        if endpoint.state is not EndpointState.DRAINING:
            endpoint.state = (
                EndpointState.UNHEALTHY
                if endpoint in self._unhealthy
                else EndpointState.EJECTED
                if endpoint in self._ejected
                else EndpointState.HEALTHY
            )

    # -- what checks tell

    async def _watch(self, endpoint: Endpoint, check: HealthCheck) -> None:
        record = CheckRecord(check)
        await asyncio.sleep(min(_SOON, check.interval) * random.random())
        while True:
            passed, detail = await self._ask(endpoint, check)
            self._results["success" if passed else "failure"] += 1
            if record.learn(passed=passed):
                self._turn(endpoint, healthy=record.healthy, detail=detail)
            await asyncio.sleep(check.interval * (1 + _JITTER * (2 * random.random() - 1)))

    def _turn(self, endpoint: Endpoint, *, healthy: bool, detail: str) -> None:
        if healthy:
            self._unhealthy.discard(endpoint)
            self._say("endpoint_restored", f"{endpoint.label} passes its health checks again", endpoint, why="health_check")
        else:
            self._unhealthy.add(endpoint)
            self._say("endpoint_unhealthy", f"{endpoint.label} fails its health checks: {detail}", endpoint, logging.WARNING)
        self._settle(endpoint)

    async def _ask(self, endpoint: Endpoint, check: HealthCheck) -> tuple[bool, str]:
        """One check: whether it passed, else why not."""
        try:
            async with asyncio.timeout(check.timeout):
                status = await self._get(endpoint, check.path)
        except TimeoutError:
            return False, f"no answer within {check.timeout:g} s"
        except OutriderError as error:
            return False, str(error)
        return passes(status), f"status {status}"

    async def _get(self, endpoint: Endpoint, path: bytes) -> int:
        """A request like any other, over the upstream's own connections: what it tells is true of those."""
        host = self._host or endpoint.label.encode()
        fields = [(b"Host", b"host", host), (b"User-Agent", b"user-agent", _USER_AGENT), (b"Accept", b"accept", b"*/*")]
        request = OutboundRequest(b"GET", path, fields, [], 0, None)
        response = await self._transport.send(endpoint, request, Attempt(1, monotonic()), Deadlines(_NO_CLOCKS), _ignore)
        try:
            size = 0
            while size <= _BODY_MAX and (piece := await response.body.read()):
                size += len(piece)
        except BaseException:
            response.abort()
            raise
        if size > _BODY_MAX:
            response.abort()
        else:
            response.release()
        return response.head.status

    # -- what is told

    def status(self) -> HealthStatus:
        """For metrics and the admin surface."""
        breaker = self._breaker
        return HealthStatus(
            circuit="" if breaker is None else breaker.state.value,
            circuit_opened=0 if breaker is None else breaker.opened,
            ejections=dict(self._ejections) if self._detector is not None else {},
            checks=dict(self._results) if self._check is not None else {},
        )

    def _say_circuit(self, state: Circuit) -> None:
        if state is Circuit.OPEN:
            self._log("circuit_opened", f"upstream {self._name} fails: requests are refused for a while", logging.WARNING)
        else:
            self._log("circuit_closed", f"upstream {self._name} answers again", logging.INFO)

    def _say(self, name: str, message: str, endpoint: Endpoint, level: int = logging.INFO, **fields: object) -> None:
        self._log(name, f"upstream {self._name}: {message}", level, endpoint=endpoint.label, **fields)

    def _log(self, name: str, message: str, level: int, **fields: object) -> None:
        log.log(level, "%s", message, extra={"event": name, "fields": {"upstream": self._name, **fields}})


_NO_CLOCKS: Final = Timeouts(response_header=0.0, stream_idle=0.0, queue=0.0)
"""A check has one time-out around all of it."""


def check_host(config: Upstream) -> bytes:
    """`Host` of a check: the name by which the upstream is known; b"": the endpoint's own address."""
    if config.dns is None:
        return b""
    usual = config.dns.port == (80 if config.tls is None else 443)
    return (config.dns.host if usual else f"{config.dns.host}:{config.dns.port}").encode()


def _ignore(_head: ResponseHead) -> None:
    """An interim response to a check."""


def all_away(endpoints: Collection[Endpoint]) -> str:
    """Why none of the endpoints may be used, in words; "" when there are none."""
    return "" if not endpoints else f"none of {len(endpoints)} endpoints is healthy ({_counted(endpoint.state for endpoint in endpoints)})"


def _counted(states: Iterable[EndpointState]) -> str:
    counts: dict[str, int] = {}
    for state in states:
        counts[state.value] = counts.get(state.value, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in counts.items())
