"""Every clock and every field of `retry`, given by a route or by `defaults`, has the effect that the reference says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from document_kit import (
    OUTBOUND,
    SHORT,
    Chain,
    Gate,
    document,
    live,
    playing,
    problems_of,
    proves,
    reason_of,
    route_to,
    says,
    silent,
    under,
)
from support import Connection, RawClient, Script, ScriptedUpstream, in_turn, response
from support.ports import closed_port

from sidecar.config.load import Loaded, load
from sidecar.errors import RefusedStream
from sidecar.model.reason import Phase, Reason
from sidecar.model.snapshot import Timeouts
from sidecar.upstream.native import NativeTransport

PLACES = ("routes[]", "defaults")
CLOCKS = ("request", "backendRequest", "responseHeader", "streamIdle", "tunnelIdle", "upgradeHandshake", "queue")
OFF = dict.fromkeys(CLOCKS, "0s")


def at(place: str, field: str, value: Any) -> dict[str, Any]:
    """The parts of a document that say `field: value` in a route, or in `defaults`."""
    return {"route": {field: value}} if place == "routes[]" else {"defaults": {field: value}}


def both(field: str, *names: str) -> tuple[str, ...]:
    return tuple(path for place in PLACES for path in under(f"{place}.{field}", *names))


in_both_places = pytest.mark.parametrize("place", PLACES)


# Clocks: each alone, with all others off, is the one that fires


def only(place: str, clock: str, value: str = SHORT) -> dict[str, Any]:
    return at(place, "timeouts", {**OFF, clock: value})


@proves(*both("timeouts", "request", "backendRequest", "responseHeader"))
@pytest.mark.parametrize(
    ("clock", "said"),
    [
        ("request", "504 request_timeout request"),
        ("backendRequest", "504 http_response_timeout backendRequest"),
        ("responseHeader", "504 http_response_timeout responseHeader"),
    ],
)
@in_both_places
@live
async def test_a_silent_upstream_is_given_up_by_the_clock_that_runs(place: str, clock: str, said: str) -> None:
    async with playing(silent, **only(place, clock)) as (_, _, client):
        assert reason_of(await client.request()) == said


@proves(*both("timeouts", "streamIdle"))
@in_both_places
@live
async def test_stream_idle_ends_what_stands_still_and_not_what_moves(place: str) -> None:
    async def trickle(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        await connection.send(b"12345678", piece=1, pause=0.1)
        await connection.read_until_close()

    async with playing(trickle, **only(place, "streamIdle", "700ms")) as (chain, _, client):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.read_until(b"\r\n\r\n")
        assert await client.read_exactly(8) == b"12345678"
        with pytest.raises(ConnectionResetError):
            await client.read_until_close()
        exchange = await chain.seen.last()
        assert (exchange.reason, exchange.clock) == ("stream_idle_timeout", "streamIdle")


@asynccontextmanager
async def tunnel(timeouts: dict[str, Any]) -> AsyncIterator[tuple[Chain, RawClient]]:
    """An open CONNECT through a Forward listener."""

    async def echo(connection: Connection) -> None:
        while data := await connection.read_some():
            await connection.send(data)

    async with ScriptedUpstream(echo) as fake:
        doc = document(fake.port, **timeouts)
        doc["listeners"] = [OUTBOUND]
        async with Chain(doc) as chain, await chain.client("outbound") as client:
            await client.send(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n")
            assert (await client.read_response(to="CONNECT")).status == 200
            yield chain, client


@proves(*both("timeouts", "tunnelIdle"))
@in_both_places
@live
async def test_tunnel_idle_ends_a_tunnel_in_which_nothing_moves(place: str) -> None:
    async with tunnel(only(place, "tunnelIdle", "700ms")) as (chain, client):
        for _ in range(8):  # longer than the clock in total
            await asyncio.sleep(0.1)
            await client.send(b"x")
            assert await client.read_exactly(1) == b"x"
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await client.read_exactly(1)
        assert (await chain.seen.last()).clock == "tunnelIdle"


@live
async def test_no_other_clock_runs_in_a_tunnel() -> None:
    timeouts = dict.fromkeys(("request", "backendRequest", "responseHeader", "streamIdle"), SHORT)
    async with tunnel(at("routes[]", "timeouts", timeouts)) as (_, client):
        await client.read_nothing(0.3)
        await client.send(b"x")
        assert await client.read_exactly(1) == b"x"


@proves(*both("timeouts", "upgradeHandshake"))
@in_both_places
@live
async def test_upgrade_handshake_bounds_the_wait_for_101(place: str) -> None:
    upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n"
    async with playing(silent, **only(place, "upgradeHandshake")) as (_, _, client):
        assert reason_of(await client.request(headers=upgrade)) == "504 http_upgrade_failed upgradeHandshake"
    async with playing(silent, **only(place, "upgradeHandshake")) as (_, _, client):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.read_nothing(0.3)


@proves(*both("timeouts", "queue"))
@in_both_places
@live
async def test_queue_bounds_the_wait_for_a_connection(place: str) -> None:
    gate = Gate()
    parts = only(place, "queue")
    parts.setdefault("route", {})["retry"] = None
    async with ScriptedUpstream(gate) as fake, Chain(document(fake.port, up={"connectionPool": {"maxConnections": 1}}, **parts)) as chain:
        first = asyncio.create_task(chain.ask())
        await gate.holds()
        assert reason_of(await chain.ask()) == "503 connection_limit_reached queue"
        gate.open()
        assert reason_of(await first) == "late"


@live
async def test_clocks_that_are_off_do_not_fire() -> None:
    gate = Gate()
    async with playing(gate, **at("routes[]", "timeouts", OFF)) as (_, _, client):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.read_nothing(0.3)
        gate.open()
        assert (await client.read_response()).body == b"late"


def timeouts_of(own: dict[str, str] | None, defaults: dict[str, str] | None) -> Timeouts:
    loaded = load(json.dumps(document(1, route={"timeouts": own or {}}, defaults={"timeouts": defaults or {}})).encode())
    assert isinstance(loaded, Loaded)
    return loaded.snapshot.routes[0].timeouts


def test_clocks_merge_key_by_key_route_before_defaults_before_what_is_built_in() -> None:
    assert timeouts_of(None, None) == Timeouts()
    merged = timeouts_of({"request": "7s", "streamIdle": "0s"}, {"request": "9s", "queue": "2s"})
    assert merged == Timeouts(request=7.0, stream_idle=0.0, queue=2.0)


@live
async def test_a_route_may_switch_a_default_clock_off() -> None:
    gate = Gate()
    async with playing(gate, route={"timeouts": {"request": "0s"}}, defaults={"timeouts": {"request": SHORT}}) as (_, _, client):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.read_nothing(0.3)
        gate.open()
        assert (await client.read_response()).body == b"late"


@live
async def test_destinations_without_a_route_have_the_clocks_of_defaults() -> None:
    async with ScriptedUpstream(silent) as fake:
        doc = document(1, route={"hostnames": ["nobody.example"]}, defaults={"timeouts": {"responseHeader": SHORT}})
        doc["listeners"] = [{**OUTBOUND, "allow": ["127.0.0.1:*"]}]
        async with Chain(doc) as chain:
            reply = await chain.ask(fake.url + "/", host="127.0.0.1", listener="outbound")
            assert reason_of(reply) == "504 http_response_timeout responseHeader"


def test_a_backend_request_that_could_never_fire_is_refused() -> None:
    doc = document(1, route={"timeouts": {"backendRequest": "2s"}}, defaults={"timeouts": {"request": "1s"}})
    assert "routes[0].timeouts.backendRequest: backendRequest (2s) is longer than request (1s)" in problems_of(doc)[0]


# Retries

RETRY = ("attempts", "codes[]", "backoff", "maxBackoff", "maxBufferedBody")
AT_ONCE = {"backoff": "0s", "maxBackoff": "0s"}


async def outcome(script: Script, parts: dict[str, Any], **request: Any) -> tuple[str, int]:
    """What the client gets, and after how many tries."""
    async with playing(script, **parts) as (chain, _, client):
        said = reason_of(await client.request(**request))
        return said, len((await chain.seen.last()).attempts)


def failing(times: int, status: str = "503 No") -> Script:
    """Says `status` so many times, then `well`."""
    count = 0

    async def play(connection: Connection) -> None:
        nonlocal count
        while True:
            await connection.read_request()
            count += 1
            await connection.send(response(status, b"unwell") if count <= times else response(body=b"well"))

    return play


@proves(*both("retry", "attempts"))
@in_both_places
@live
async def test_attempts_is_the_number_of_retries(place: str) -> None:
    for attempts, expected in ((0, ("unwell", 1)), (1, ("unwell", 2)), (2, ("well", 3)), (5, ("well", 3))):
        assert await outcome(failing(2), at(place, "retry", {"attempts": attempts, **AT_ONCE})) == expected


@proves(*both("retry", "codes[]"))
@in_both_places
@live
async def test_only_listed_codes_are_retried(place: str) -> None:
    for codes, expected in (([418], ("well", 2)), ([503, 418], ("well", 2)), ([503], ("unwell", 1)), ([], ("unwell", 1))):
        assert await outcome(failing(1, "418 Tea"), at(place, "retry", {"codes": codes, **AT_ONCE})) == expected


@proves(*both("retry", "backoff", "maxBackoff"))
@pytest.mark.parametrize(("backoff", "most"), [("1ms", "2ms"), ("50ms", "50ms"), ("20ms", "30ms")])
@in_both_places
@live
async def test_a_retry_waits_at_least_backoff_and_at_most_max_backoff(place: str, backoff: str, most: str) -> None:
    parts = at(place, "retry", {"attempts": 5, "backoff": backoff, "maxBackoff": most})
    async with playing(failing(5), **parts) as (chain, _, client):
        assert reason_of(await client.request()) == "well"
        delays = [attempt.delay for attempt in (await chain.seen.last()).attempts[1:]]
        low, high = (float(text.removesuffix("ms")) / 1000 for text in (backoff, most))
        assert len(delays) == 5
        assert all(low <= delay <= high for delay in delays), delays


def resetting(times: int = 1) -> Script:
    """Reads a request and resets, so many times, then answers."""

    async def play(connection: Connection) -> None:
        await connection.read_request()
        connection.reset()

    return in_turn(*[play] * times, says("well"))


@proves(*both("retry", "conditions[]=Reset"))
@in_both_places
@live
async def test_a_reset_is_retried_under_its_condition(place: str) -> None:
    for conditions, expected in (
        (["Reset"], ("well", 2)),
        (["ConnectFailure", "Timeout", "RefusedStream"], ("502 connection_terminated", 1)),
    ):
        assert await outcome(resetting(), at(place, "retry", {"conditions": conditions, **AT_ONCE})) == expected


@proves(*both("retry", "conditions[]=Timeout"))
@in_both_places
@live
async def test_a_timeout_is_retried_under_its_condition(place: str) -> None:
    clocks = {"timeouts": {"responseHeader": SHORT}}
    for conditions, expected in ((["Timeout"], ("well", 2)), (["Reset"], ("504 http_response_timeout responseHeader", 1))):
        parts = at(place, "retry", {"conditions": conditions, **AT_ONCE})
        parts = {**parts, "route": {**parts.get("route", {}), **clocks}}
        assert await outcome(in_turn(silent, says("well")), parts) == expected


@proves(*both("retry", "conditions[]=ConnectFailure"))
@in_both_places
@live
async def test_a_failed_connect_is_retried_under_its_condition_whatever_the_method(place: str) -> None:
    with closed_port() as port:
        for conditions, tries in ((["ConnectFailure"], 3), (["Reset", "Timeout"], 1)):
            async with Chain(document(port, **at(place, "retry", {"conditions": conditions, **AT_ONCE}))) as chain:
                assert reason_of(await chain.ask(method="POST")) == "502 connection_refused"
                assert len((await chain.seen.last()).attempts) == tries


@proves(*both("retry", "conditions[]=RefusedStream"))
@in_both_places
@live
async def test_a_refused_stream_is_retried_under_its_condition(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only HTTP/2 refuses streams, so here the transport itself does."""
    send = NativeTransport.send
    for conditions, expected in ((["RefusedStream"], ("well", 2)), (["ConnectFailure", "Reset"], ("502 connection_terminated", 1))):
        refused: list[str] = []

        async def refuse_once(self: NativeTransport, *request: Any, refused: list[str] = refused) -> Any:
            if not refused:
                refused.append("once")
                raise RefusedStream(Reason.CONNECTION_TERMINATED, "refused", phase=Phase.SEND)
            return await send(self, *request)

        monkeypatch.setattr(NativeTransport, "send", refuse_once)
        assert await outcome(says("well"), at(place, "retry", {"conditions": conditions, **AT_ONCE}), method="POST") == expected


@proves(*both("retry", "methods=Idempotent", "methods=All"))
@in_both_places
@live
async def test_requests_that_are_not_idempotent_are_only_repeated_when_told_so(place: str) -> None:
    for methods, expected in (("Idempotent", ("unwell", 1)), ("All", ("well", 2))):
        parts = at(place, "retry", {"methods": methods, **AT_ONCE})
        assert await outcome(failing(1), parts, method="POST", body=b"a") == expected
        assert await outcome(failing(1), parts, method="PUT", body=b"a") == ("well", 2)
    assert await outcome(failing(1), at(place, "retry", AT_ONCE), method="POST", headers="Idempotency-Key: 1\r\n") == ("well", 2)


@proves(*both("retry", "maxBufferedBody"))
@in_both_places
@live
async def test_bodies_above_max_buffered_body_are_not_repeated(place: str) -> None:
    parts = at(place, "retry", {"maxBufferedBody": 1000, **AT_ONCE})
    assert await outcome(failing(1), parts, method="PUT", body=b"a" * 1000) == ("well", 2)
    assert await outcome(failing(1), parts, method="PUT", body=b"a" * 1001) == ("unwell", 1)
    parts = at(place, "retry", {"maxBufferedBody": "1Mi", **AT_ONCE})
    assert await outcome(failing(1), parts, method="PUT", body=b"a" * 500_000) == ("well", 2)


@live
async def test_a_routes_retry_replaces_the_default_one_whole_and_null_means_none() -> None:
    defaults = {"retry": {"attempts": 1, "codes": [418], **AT_ONCE}}
    for own, expected in (({}, ("well", 2)), ({"retry": dict(AT_ONCE)}, ("unwell", 1)), ({"retry": None}, ("unwell", 1))):
        assert await outcome(failing(1, "418 Tea"), {"route": own, "defaults": defaults}) == expected
    async with ScriptedUpstream(failing(2)) as fake:  # what the route's own stanza leaves out is the built-in value, not the default's
        async with Chain(document(fake.port, route={"retry": dict(AT_ONCE)}, defaults=defaults)) as chain:
            assert reason_of(await chain.ask()) == "well"


@live
async def test_one_route_may_retry_and_its_neighbour_not() -> None:
    async with ScriptedUpstream(failing(1)) as fake:
        routes = [
            {**route_to("app", matches=[{"path": {"value": "/yes"}}], retry=AT_ONCE), "name": "yes"},
            {**route_to("app", matches=[{"path": {"value": "/no"}}]), "name": "no"},
        ]
        async with Chain(document(fake.port, routes=routes)) as chain:
            assert reason_of(await chain.ask("/no")) == "unwell"
            assert reason_of(await chain.ask("/yes")) == "well"


@pytest.mark.parametrize(
    ("retry", "said"),
    [
        ({"backoff": "1s"}, "backoff: backoff (1s) is longer than maxBackoff (250ms)"),
        ({"maxBufferedBody": "17Mi"}, "maxBufferedBody: 17Mi is more than the whole process keeps"),
        ({"codes": [503, 503]}, "codes: the same entry is given twice"),
        ({"codes": [200]}, "codes[0]: "),
        ({"attempts": 101}, "attempts: "),
    ],
)
@in_both_places
def test_retries_that_make_no_sense_are_refused(place: str, retry: dict[str, Any], said: str) -> None:
    (problem,) = problems_of(document(1, **at(place, "retry", retry)))
    assert f"{place.replace('[]', '[0]')}.retry.{said}" in problem
