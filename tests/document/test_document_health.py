"""Every field by which the document asks for an upstream's health to be judged has the effect that the reference says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from document_kit import Chain, Document, document, live, playing, problems_of, proves, reason_of, says, silent
from support import Connection, Script, ScriptedUpstream, response
from support.ports import closed_port

from sidecar.model.status import HealthStatus, UpstreamStatus

OUTLIER = "upstreams[].outlierDetection"
BREAKER = "upstreams[].circuitBreaker"
CHECK = "upstreams[].healthCheck"
LONG_PENALTY = {"minPenalty": "300s", "maxPenalty": "300s"}
BAD = says("bad", status="500 Internal Server Error")


class Moody:
    """A script whose answers are good or bad as it is told; counts the requests for each target."""

    def __init__(self, *, well: bool = True) -> None:
        self.well = well
        self.asked: dict[str, int] = {}

    async def __call__(self, connection: Connection) -> None:
        while True:
            request = await connection.read_request()
            target = request.start.split(b" ")[1].decode()
            self.asked[target] = self.asked.get(target, 0) + 1
            await connection.send(response("200 OK" if self.well else "503 Service Unavailable", b"x"))


@asynccontextmanager
async def before(*scripts: Script, policy: str = "RoundRobin", **up: Any) -> AsyncIterator[Chain]:
    """A chain in front of an endpoint for each script."""
    async with contextlib.AsyncExitStack() as stack:
        fakes = [await stack.enter_async_context(ScriptedUpstream(script)) for script in scripts]
        doc = document(*(fake.port for fake in fakes), up={"loadBalancer": {"policy": policy}, **up})
        yield await stack.enter_async_context(Chain(doc))


def status(chain: Chain) -> UpstreamStatus:
    return chain.registry.statuses()[0]


def health(chain: Chain) -> HealthStatus:
    found = status(chain).health
    assert found is not None
    return found


def states(chain: Chain) -> list[str]:
    return [endpoint.state for endpoint in status(chain).endpoints]


async def until_states(chain: Chain, *wanted: str) -> None:
    while states(chain) != list(wanted):
        await asyncio.sleep(0.01)


async def ask(chain: Chain, count: int) -> list[str]:
    async with await chain.client() as client:
        return [reason_of(await client.request()) for _ in range(count)]


# Outlier detection


@proves(f"{OUTLIER}.consecutiveFailures", f"{OUTLIER}.minPenalty", f"{OUTLIER}.maxPenalty")
@live
async def test_an_endpoint_that_fails_so_often_in_a_row_gets_no_more_requests() -> None:
    async with before(BAD, says("good"), outlierDetection={"consecutiveFailures": 2, "successRate": None, **LONG_PENALTY}) as chain:
        answers = await ask(chain, 20)
        assert answers.count("bad") == 2
        assert sorted(states(chain)) == ["ejected", "healthy"]
        assert health(chain).ejections == {"consecutive_failures": 1, "success_rate": 0}


@live
async def test_a_refused_connection_counts_like_a_5xx() -> None:
    up = {"loadBalancer": {"policy": "RoundRobin"}, "outlierDetection": {"consecutiveFailures": 2, **LONG_PENALTY}}
    with closed_port() as port:
        async with ScriptedUpstream(says("good")) as good, Chain(document(good.port, port, up=up)) as chain:
            assert set(await ask(chain, 10)) == {"good"}  # a failed connect is repeated elsewhere
            assert states(chain) == ["healthy", "ejected"]


@live
async def test_when_its_penalty_is_over_it_gets_requests_again() -> None:
    mood = Moody(well=False)
    up = {"consecutiveFailures": 1, "minPenalty": "50ms", "maxPenalty": "60ms"}
    async with before(mood, says("good"), outlierDetection=up) as chain:
        while "ejected" not in states(chain):
            await ask(chain, 1)
        mood.well = True
        await until_states(chain, "healthy", "healthy")
        assert set(await ask(chain, 4)) == {"x", "good"}


@proves(f"{OUTLIER}.maxEjectionPercent")
@live
async def test_no_more_than_the_share_are_ejected_and_never_the_last() -> None:
    up = {"consecutiveFailures": 1, **LONG_PENALTY}
    for percent, count, away in ((50, 4, 2), (100, 2, 1), (0, 3, 0)):
        async with before(*(BAD,) * count, outlierDetection={**up, "maxEjectionPercent": percent}) as chain:
            assert await ask(chain, 12) == ["bad"] * 12
            assert states(chain).count("ejected") == away


@proves(f"{OUTLIER}.successRate.threshold", f"{OUTLIER}.successRate.window", f"{OUTLIER}.successRate.minRequests")
@live
async def test_an_endpoint_below_the_success_rate_is_ejected_although_it_never_fails_often_in_a_row() -> None:
    def every_other() -> Script:
        async def play(connection: Connection) -> None:
            while True:
                for line in ("200 OK", "500 Internal Server Error"):
                    await connection.read_request()
                    await connection.send(response(line, b"mixed"))

        return play

    rate = {"threshold": 0.8, "window": "300s", "minRequests": 6}
    async with before(every_other(), says("good"), outlierDetection={"successRate": rate, **LONG_PENALTY}) as chain:
        await ask(chain, 10)
        assert states(chain) == ["healthy", "healthy"]
        await ask(chain, 10)
        assert states(chain) == ["ejected", "healthy"]
        assert health(chain).ejections == {"consecutive_failures": 0, "success_rate": 1}


@live
async def test_a_client_that_leaves_is_no_failure_of_the_endpoint() -> None:
    up = {"outlierDetection": {"consecutiveFailures": 1, **LONG_PENALTY}, "circuitBreaker": {"consecutiveFailures": 1}}
    async with playing(silent, up=up) as (chain, fake, client):
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while not fake.requests:
            await asyncio.sleep(0.01)
        await client.close()
        await chain.seen.last()
        assert (states(chain), health(chain).circuit) == (["healthy"], "closed")


# Circuit breaker


@proves(f"{BREAKER}.consecutiveFailures", f"{BREAKER}.openFor")
@live
async def test_after_so_many_failures_requests_are_refused_at_once_with_503_circuit_open() -> None:
    mood = Moody(well=False)
    async with before(mood, circuitBreaker={"consecutiveFailures": 3, "openFor": "300s"}) as chain:
        assert await ask(chain, 5) == ["x", "x", "x", "503 circuit_open", "503 circuit_open"]
        assert mood.asked == {"/": 3}
        reply = await chain.ask()
        assert 290 <= int(reply.get("retry-after") or "0") <= 300
        assert 'error=circuit_open; details="upstream=app attempt=1/2"' in (reply.get("proxy-status") or "")
        assert (health(chain).circuit, health(chain).circuit_opened) == ("open", 1)


@proves(f"{BREAKER}.halfOpenRequests")
@live
async def test_trials_close_it_again_when_all_of_them_succeed() -> None:
    mood = Moody(well=False)
    async with before(mood, circuitBreaker={"consecutiveFailures": 1, "openFor": "50ms", "halfOpenRequests": 2}) as chain:
        assert await ask(chain, 1) == ["x"]
        mood.well = True
        good = 0
        while health(chain).circuit != "closed":
            good += (await ask(chain, 1)).count("x")
        assert good == 2


@live
async def test_a_refusal_of_the_breaker_is_not_retried() -> None:
    retry = {"retry": {"attempts": 3, "backoff": "1ms"}}
    async with (
        ScriptedUpstream(BAD) as fake,
        Chain(document(fake.port, up={"circuitBreaker": {"consecutiveFailures": 1}}, route=retry)) as chain,
    ):
        assert await ask(chain, 2) == ["bad", "503 circuit_open"]
        assert [attempt.outcome for attempt in chain.seen.attempts][-1] == "circuit_open"
        assert len(chain.seen.finished[-1].attempts) == 1


# Health checks


@proves(f"{CHECK}.path", f"{CHECK}.interval", f"{CHECK}.unhealthyThreshold", f"{CHECK}.healthyThreshold")
@live
async def test_an_endpoint_that_fails_its_checks_gets_no_requests_until_it_passes_them() -> None:
    mood = Moody(well=False)
    check = {"path": "/live?deep=1", "interval": "10ms", "unhealthyThreshold": 2, "healthyThreshold": 2}
    async with before(mood, says("good"), healthCheck=check) as chain:
        await until_states(chain, "unhealthy", "healthy")
        assert set(await ask(chain, 6)) == {"good"}
        assert set(mood.asked) <= {"/live?deep=1", "/"}
        assert mood.asked["/live?deep=1"] >= 2
        mood.well = True
        await until_states(chain, "healthy", "healthy")
        assert health(chain).checks["failure"] >= 2
        assert health(chain).checks["success"] >= 2


@proves(f"{CHECK}.timeout")
@live
async def test_a_check_without_an_answer_in_time_has_failed() -> None:
    async with before(silent, says("good"), healthCheck={"interval": "10ms", "timeout": "20ms", "unhealthyThreshold": 1}) as chain:
        await until_states(chain, "unhealthy", "healthy")


@live
async def test_when_no_endpoint_is_healthy_requests_get_503_destination_unavailable_and_the_status_says_why() -> None:
    async with before(BAD, BAD, healthCheck={"interval": "10ms", "unhealthyThreshold": 1}) as chain:
        await until_states(chain, "unhealthy", "unhealthy")
        assert await ask(chain, 1) == ["503 destination_unavailable"]
        assert status(chain).problem == "none of 2 endpoints is healthy (2 unhealthy)"


@live
async def test_checks_go_over_connections_that_are_kept() -> None:
    async with ScriptedUpstream(says("good")) as fake, Chain(document(fake.port, up={"healthCheck": {"interval": "10ms"}})) as chain:
        while health(chain).checks["success"] < 5:
            await asyncio.sleep(0.01)
        assert len({id(request) for request in fake.requests}) >= 5
        assert chain.seen.connects == [("app", "success")]


@live
async def test_a_check_says_who_asks() -> None:
    async with ScriptedUpstream(says("good")) as fake, Chain(document(fake.port, up={"healthCheck": {"interval": "10ms"}})):
        while not fake.requests:
            await asyncio.sleep(0.01)
        fields = {name.lower(): value for name, value in fake.requests[0].fields}
        assert fields[b"host"] == f"127.0.0.1:{fake.port}".encode()
        assert fields[b"user-agent"].startswith(b"outrider/")


# Reload


@live
async def test_a_reload_that_asks_for_nothing_of_the_kind_any_more_brings_every_endpoint_back() -> None:
    async with ScriptedUpstream(BAD) as fake:
        plain = document(fake.port)
        async with Chain(document(fake.port, up={"healthCheck": {"interval": "10ms", "unhealthyThreshold": 1}})) as chain:
            await until_states(chain, "unhealthy")
            await chain.registry.reconcile(snapshot_of(plain))
            assert states(chain) == ["healthy"]
            assert status(chain).health is None


@live
async def test_a_reload_that_changes_something_else_keeps_what_was_learned() -> None:
    async with ScriptedUpstream(BAD) as fake:

        def doc(connect_timeout: str) -> Document:
            up = {"circuitBreaker": {"consecutiveFailures": 1, "openFor": "300s"}, "connectTimeout": connect_timeout}
            return document(fake.port, up=up)

        async with Chain(doc("1s")) as chain:
            await ask(chain, 1)
            await chain.registry.reconcile(snapshot_of(doc("2s")))
            assert health(chain).circuit == "open"


def snapshot_of(doc: Document) -> Any:
    return Chain(doc).snapshot


# What is refused


@pytest.mark.parametrize(
    ("up", "problem"),
    [
        ({"outlierDetection": {"minPenalty": "0s"}}, "upstreams[0].outlierDetection.minPenalty: this duration cannot be 0s"),
        ({"outlierDetection": {"maxPenalty": "500ms"}}, "upstreams[0].outlierDetection.maxPenalty: 500ms is shorter than minPenalty, 1s"),
        ({"outlierDetection": {"successRate": {"window": "0s"}}}, "upstreams[0].outlierDetection.successRate.window: this duration"),
        ({"circuitBreaker": {"openFor": "0s"}}, "upstreams[0].circuitBreaker.openFor: this duration cannot be 0s"),
        ({"healthCheck": {"path": "healthz"}}, "upstreams[0].healthCheck.path: "),
        ({"healthCheck": {"path": "/a b"}}, "upstreams[0].healthCheck.path: "),
        ({"healthCheck": {"path": "/a?x=\u00e9"}}, "upstreams[0].healthCheck.path: "),
        ({"healthCheck": {"interval": "0s"}}, "upstreams[0].healthCheck.interval: this duration cannot be 0s"),
        ({"healthCheck": {"timeout": "0s"}}, "upstreams[0].healthCheck.timeout: this duration cannot be 0s"),
    ],
)
def test_what_could_not_work_is_refused(up: Document, problem: str) -> None:
    found = problems_of(document(up=up))
    assert len(found) == 1
    assert problem in found[0]
