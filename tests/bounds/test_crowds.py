"""Crowds of clients that behave badly: the clocks cut them, the honest are served meanwhile, and everything is given back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop
from bounds_kit import KIB, MIB, PATIENCE, Crowd, ask, chain, descriptors, metrics, rss, until
from support import Connection, RawClient, ScriptedUpstream, Sidecar, response
from support.engine import Engine, upstream

from sidecar.model.snapshot import Timeouts

SHORT = "500ms"
GET = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass
class Slow:
    """`words` of each client, and which metric says how each of them ended."""

    name: str
    words: bytes
    series: str
    listener: dict[str, Any] = field(default_factory=dict)
    timeouts: dict[str, str] = field(default_factory=dict)


def ended_by(method: str, code: int, reason: str, route: str = "all", upstream: str = "app") -> str:
    return f'outrider_requests_total{{listener="inbound",route="{route}",upstream="{upstream}",method="{method}",code="{code}",reason="{reason}"}}'


SLOW = [
    Slow(
        "heads",
        b"GET / HTTP/1.1\r\nHost: a\r\nx: ",
        ended_by("_OTHER", 408, "request_header_timeout", "", ""),
        listener={"headerTimeout": SHORT},
    ),
    Slow(
        "bodies",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nx",
        ended_by("POST", 408, "request_body_timeout"),
        listener={"bodyIdleTimeout": SHORT},
    ),
    Slow("readers", GET % (b"/bytes/%d" % (8 * MIB)), ended_by("GET", 200, "stream_idle_timeout"), timeouts={"streamIdle": SHORT}),
    Slow("upstream", GET % b"/never", ended_by("GET", 504, "http_response_timeout"), timeouts={"responseHeader": SHORT}),
]


@pytest.mark.parametrize("slow", SLOW, ids=lambda slow: slow.name)
def test_the_slow_are_ended_by_their_clock_and_the_honest_are_served_meanwhile(slow: Slow) -> None:
    count = 40 if slow.name == "readers" else 150

    async def main() -> None:
        routes = [
            {"name": "all", "backendRefs": [{"name": "app"}], "timeouts": slow.timeouts},
            {"name": "honest", "matches": [{"path": {"value": "/honest"}}], "backendRefs": [{"name": "app"}]},
        ]
        async with chain(listener=slow.listener, routes=routes) as (sidecar, _):
            assert await ask(sidecar.port(), "/honest") == (200, b"ok")
            before = descriptors(sidecar.pid)
            async with Crowd(sidecar.port(), receive_buffer=4096) as crowd:
                await crowd.join(count, slow.words)
                assert await ask(sidecar.port(), "/honest") == (200, b"ok")
                await settles(sidecar, slow.series, count)
            await until(lambda: descriptors(sidecar.pid) <= before + 5, "descriptors are given back")

    uvloop.run(main())


async def settles(sidecar: Sidecar, series: str, count: float) -> None:
    """Until the metric is `count`."""
    found: dict[str, float] = {}
    async with asyncio.timeout(PATIENCE):
        while found.get(series) != count:
            found = await metrics(sidecar)
            assert found.get(series, 0.0) <= count, found.get(series)
            await asyncio.sleep(0.1)


def test_a_thousand_idle_connections_cost_little_and_give_it_back() -> None:
    count = 1000

    async def main() -> None:
        async with chain() as (sidecar, _):
            for _ in range(20):
                await ask(sidecar.port())
            before, opened = rss(sidecar.pid), descriptors(sidecar.pid)
            async with Crowd(sidecar.port()) as crowd:
                await crowd.join(count, GET % b"/")
                await until(lambda: descriptors(sidecar.pid) >= opened + count - 5, "all are there")
                grown = rss(sidecar.pid) - before
                assert grown / count < 16 * KIB, grown
                assert crowd.ended() == 0
                assert await ask(sidecar.port()) == (200, b"ok")
            await until(lambda: descriptors(sidecar.pid) <= opened + 5, "descriptors are given back")

    uvloop.run(main())


def test_churn_leaves_neither_descriptors_nor_memory_behind() -> None:
    async def main() -> None:
        async with chain() as (sidecar, _):

            async def churn(rounds: int) -> None:
                for _ in range(rounds):
                    async with await RawClient.open(sidecar.port(), timeout=PATIENCE) as client:
                        assert (await client.request(headers="Connection: close\r\n")).status == 200

            await asyncio.gather(*(churn(30) for _ in range(8)))
            before, opened = rss(sidecar.pid), descriptors(sidecar.pid)
            await asyncio.gather(*(churn(120) for _ in range(8)))
            await until(lambda: descriptors(sidecar.pid) <= opened + 8, "descriptors are given back")
            assert rss(sidecar.pid) - before < 4 * MIB

    uvloop.run(main())


def test_heads_above_the_limit_are_refused_and_what_they_cost_is_bounded() -> None:
    count = 200

    async def main() -> None:
        async with chain() as (sidecar, server):
            await ask(sidecar.port())
            before, asked = rss(sidecar.pid), len(server.requests)
            async with Crowd(sidecar.port()) as crowd:
                await crowd.join(
                    count, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"x%d: %b\r\n" % (number, b"y" * 2000) for number in range(40))
                )
                await settles(sidecar, ended_by("_OTHER", 431, "header_section_too_large", "", ""), count)
                assert rss(sidecar.pid) - before < count * 160 * KIB
                assert len(server.requests) == asked, "nothing of them has gone on"

    uvloop.run(main())


def test_pipelined_requests_whose_answers_nobody_reads_are_bounded_and_not_lost() -> None:
    clients, each = 20, 1000

    async def main() -> None:
        async with chain() as (sidecar, _):
            await ask(sidecar.port())
            before = rss(sidecar.pid)
            opened = [await RawClient.open(sidecar.port(), timeout=PATIENCE) for _ in range(clients)]
            for client in opened:
                client._writer.transport.pause_reading()
                client._writer.write(GET % b"/bytes/4000" * each)
            await asyncio.sleep(1.0)
            assert await ask(sidecar.port()) == (200, b"ok")
            assert rss(sidecar.pid) - before < clients * 256 * KIB
            opened[0]._writer.transport.resume_reading()
            for _ in range(each):
                assert len((await opened[0].read_response()).body) == 4000
            for client in opened:
                await client.close()

    uvloop.run(main())


def test_an_upstream_that_answers_before_it_is_asked_answers_one_request_at_most() -> None:
    """What it says belongs to the connection on which it says it, so to the one request there; nobody else ever gets it."""

    async def eager(connection: Connection) -> None:
        await connection.send(response(body=b"stale %d" % connection.number))
        await connection.read_until_close()

    async def main() -> None:
        timeouts = Timeouts(response_header=0.5)
        async with ScriptedUpstream(eager) as server, Engine(upstream(server.port), route={"timeouts": timeouts}) as engine:
            async with await RawClient.open(engine.port(), timeout=PATIENCE) as client:
                answers = [await client.request(f"/{number}") for number in range(6)]
            assert {answer.status for answer in answers} <= {200, 502, 504}
            given = [answer.body for answer in answers if answer.status == 200]
            assert len(given) == len(set(given)) <= len(server.connections)

    uvloop.run(main())
