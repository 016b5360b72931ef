"""Every field of an upstream has the effect that the reference says."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from document_kit import SHORT, Chain, Gate, document, live, playing, problems_of, proves, reason_of, says
from kube.kube_store import Store
from kube.slice_objects import endpoint_slice
from support import Connection, RawClient, ScriptedUpstream, response
from support.ports import closed_port, free_port
from upstream.upstream_fakes import DnsServer, black_hole

from sidecar.kube.endpoint_slices import EndpointSlices
from sidecar.kube.hub import Hub
from sidecar.kube.objects import ENDPOINT_SLICES
from sidecar.upstream.cares import CaresClient
from sidecar.upstream.resolver import Resolver

POOL = "upstreams[].connectionPool"
BALANCER = "upstreams[].loadBalancer"


@asynccontextmanager
async def spread(count: int, *, weights: tuple[int, ...] = (), **balancer: Any) -> AsyncIterator[tuple[Chain, list[ScriptedUpstream]]]:
    """A chain in front of so many targets, which answer with their own number."""
    async with contextlib.AsyncExitStack() as stack:
        fakes = [await stack.enter_async_context(ScriptedUpstream(says(str(number)))) for number in range(count)]
        targets = [{"url": fake.url, "weight": weight} for fake, weight in zip(fakes, weights or (1,) * count, strict=True)]
        up = {"targets": targets, **({"loadBalancer": balancer} if balancer else {})}
        yield await stack.enter_async_context(Chain(document(up=up))), fakes


async def answers(chain: Chain, count: int, **request: Any) -> list[str]:
    async with await chain.client() as client:
        return [reason_of(await client.request(**request)) for _ in range(count)]


# Where they are


@proves("upstreams[].name")
@live
async def test_the_name_of_the_upstream_is_in_what_we_say_about_it() -> None:
    with closed_port() as refusing:
        doc = document(refusing, up={"name": "orders"}, route={"backendRefs": [{"name": "orders"}]})
        async with Chain(doc) as chain:
            assert 'details="upstream=orders attempt=2/2"' in ((await chain.ask()).get("proxy-status") or "")


@proves("upstreams[].targets[].url")
@live
async def test_targets_are_addresses_names_and_unix_sockets(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    async with ScriptedUpstream(says("tcp")) as tcp, ScriptedUpstream(says("unix"), unix_path=str(path)) as unix:
        for url, said in ((tcp.url, "tcp"), (f"http://localhost:{tcp.port}", "tcp"), (unix.url, "unix")):
            async with Chain(document(url)) as chain:
                assert reason_of(await chain.ask()) == said
    async with ScriptedUpstream(says("six"), host="::1") as six, Chain(document(f"http://[::1]:{six.port}")) as chain:
        assert reason_of(await chain.ask()) == "six"


@proves("upstreams[].targets[].weight")
@live
async def test_targets_get_requests_in_proportion_to_their_weights() -> None:
    async with spread(3, weights=(3, 1, 0), policy="RoundRobin") as (chain, _):
        assert Counter(await answers(chain, 8)) == {"0": 6, "1": 2}


def test_weights_that_are_all_zero_are_refused() -> None:
    doc = document(up={"targets": [{"url": "http://127.0.0.1:1", "weight": 0}]})
    assert "upstreams[0].targets: every weight is 0" in problems_of(doc)[0]


@proves("upstreams[].dns.host", "upstreams[].dns.port")
@live
async def test_a_name_is_followed_by_its_ttl_and_the_last_answer_stays_when_the_server_fails() -> None:
    async with DnsServer() as dns:
        port = free_port()
        async with (
            ScriptedUpstream(says("two"), host="127.0.0.2", port=port),
            ScriptedUpstream(says("three"), host="127.0.0.3", port=port),
        ):
            dns.records["app.example"] = [("127.0.0.2", 1)]
            doc = document(up={"targets": None, "dns": {"host": "app.example", "port": port}})
            resolver = Resolver(CaresClient([dns.address], timeout=5.0, tries=1).query)
            async with Chain(doc, resolver=resolver) as chain, await chain.client() as client:
                assert reason_of(await client.request()) == "two"
                dns.records["app.example"] = [("127.0.0.3", 1)]
                while reason_of(await client.request()) != "three":
                    await asyncio.sleep(0.05)
                dns.records["app.example"] = 2  # SERVFAIL
                asked = dns.questions("app.example")
                while dns.questions("app.example") == asked:
                    await asyncio.sleep(0.05)
                await asyncio.sleep(0.1)
                assert reason_of(await client.request()) == "three"


@proves("upstreams[].service.name", "upstreams[].service.namespace", "upstreams[].service.port")
@live
async def test_a_kubernetes_service_is_followed_by_its_endpoint_slices() -> None:
    store = Store(namespace="own")
    hub = Hub(store.connect)
    async with ScriptedUpstream(says("orders")) as orders, ScriptedUpstream(says("billing")) as billing:
        for namespace, service, up in (("own", "orders", orders), ("shop", "billing", billing)):
            ports = [{"name": "http", "port": up.port}, {"name": "other", "port": 1}]
            await store.put(ENDPOINT_SLICES, endpoint_slice("127.0.0.1", service=service, name=f"{service}-1", ports=ports), namespace)
        cases: tuple[tuple[Any, str], ...] = (
            ({"name": "orders", "port": "http"}, "orders"),
            ({"name": "orders", "port": orders.port}, "orders"),
            ({"name": "orders", "port": "http", "namespace": "own"}, "orders"),
            ({"name": "billing", "port": "http", "namespace": "shop"}, "billing"),
            ({"name": "billing", "port": "http"}, "503 destination_unavailable"),
            ({"name": "orders", "port": "other"}, "502 connection_refused"),
        )
        for service, said in cases:
            doc = document(up={"targets": None, "service": service})
            async with Chain(doc, follow_service=EndpointSlices(hub).follow) as chain:
                assert reason_of(await chain.ask()) == said, service
    await hub.aclose()


@pytest.mark.parametrize(
    ("service", "problem"),
    [
        ({"name": "Orders", "port": 80}, 'name: "Orders" is not the name of a Kubernetes object'),
        ({"name": "orders.shop", "port": 80}, "name: "),
        ({"name": "orders", "namespace": "a/b", "port": 80}, "namespace: "),
        ({"name": "orders", "port": 0}, "port: 0 is not a port (write 1 to 65535, or the port's name)"),
        ({"name": "orders", "port": "80"}, 'port: "80" is a text (write 80 without quotes'),
        ({"name": "orders", "port": "HTTP"}, "port: "),
        ({"name": "orders"}, "port"),
    ],
)
def test_names_and_ports_that_no_service_can_have_are_refused(service: dict[str, Any], problem: str) -> None:
    (found,) = problems_of(document(up={"targets": None, "service": service}))
    assert f"upstreams[0].service.{problem}" in found


@live
async def test_a_name_that_was_never_resolved_is_told_apart_from_a_dead_upstream() -> None:
    async with DnsServer() as dns:
        doc = document(up={"targets": None, "dns": {"host": "nobody.example", "port": 80}})
        async with Chain(doc, resolver=Resolver(CaresClient([dns.address]).query)) as chain:
            assert reason_of(await chain.ask()) == "502 dns_error"


@proves("upstreams[].connectTimeout")
@live
async def test_connect_timeout_covers_the_connect_and_the_look_up_of_a_name() -> None:
    with black_hole("127.0.0.1") as port:
        async with Chain(document(port, up={"connectTimeout": SHORT}, route={"retry": None})) as chain:
            assert reason_of(await chain.ask()) == "504 connection_timeout connect"
    async with DnsServer() as dns:
        dns.silent = True
        doc = document("http://app.example:80", up={"connectTimeout": SHORT})
        async with Chain(doc, resolver=Resolver(CaresClient([dns.address]).query)) as chain:
            assert reason_of(await chain.ask()) == "504 connection_timeout connect"


# Pool


@proves(f"{POOL}.maxConnections")
@live
async def test_above_max_connections_requests_wait_for_one() -> None:
    gate = Gate()
    async with ScriptedUpstream(gate) as fake, Chain(document(fake.port, up={"connectionPool": {"maxConnections": 1}})) as chain:
        asking = [asyncio.create_task(chain.ask()) for _ in range(3)]
        await gate.holds()
        await asyncio.sleep(0.1)
        assert gate.waiting == 1
        gate.open()
        assert [reason_of(reply) for reply in await asyncio.gather(*asking)] == ["late"] * 3
        assert len(fake.connections) == 1


@proves(f"{POOL}.maxPendingRequests")
@live
async def test_above_max_pending_requests_they_are_refused() -> None:
    gate = Gate()
    pool = {"maxConnections": 1, "maxPendingRequests": 1}
    async with ScriptedUpstream(gate) as fake, Chain(document(fake.port, up={"connectionPool": pool})) as chain:
        asking = [asyncio.create_task(chain.ask())]
        await gate.holds()
        asking.append(asyncio.create_task(chain.ask()))
        while chain.registry.statuses()[0].pending < 1:
            await asyncio.sleep(0.01)
        refused = await chain.ask()
        assert (reason_of(refused), refused.get("retry-after")) == ("503 overloaded", "1")
        gate.open()
        assert [reason_of(reply) for reply in await asyncio.gather(*asking)] == ["late"] * 2


@proves(f"{POOL}.maxRequests")
@live
async def test_above_max_requests_they_are_refused_at_once() -> None:
    gate = Gate()
    async with ScriptedUpstream(gate) as fake, Chain(document(fake.port, up={"connectionPool": {"maxRequests": 2}})) as chain:
        asking = [asyncio.create_task(chain.ask()) for _ in range(2)]
        await gate.holds(2)
        assert reason_of(await chain.ask()) == "503 overloaded"
        gate.open()
        assert [reason_of(reply) for reply in await asyncio.gather(*asking)] == ["late"] * 2
        assert reason_of(await chain.ask()) == "late"


async def connections_after(pool: dict[str, Any], pause: float, *, headers: str = "", requests: int = 2) -> int:
    """How many connections so many requests take, `pause` seconds apart."""
    async with playing(says("hi", headers=headers), up={"connectionPool": pool}) as (_, fake, client):
        for number in range(requests):
            await asyncio.sleep(pause if number else 0)
            assert (await client.request()).body == b"hi"
        return len(fake.connections)


@proves(*(f"{POOL}.{field}" for field in ("idleTimeout", "learnKeepAlive", "maxConnectionAge", "maxRequestsPerConnection")))
@live
async def test_connections_are_kept_as_long_as_the_pool_is_told() -> None:
    patience = "Keep-Alive: timeout=1\r\n"
    expected = [
        (connections_after({"idleTimeout": SHORT}, 0.25), 2),
        (connections_after({"idleTimeout": "4s"}, 0.25), 1),
        (connections_after({"idleTimeout": "0s"}, 0.25), 1),
        (connections_after({"learnKeepAlive": True, "idleTimeout": "0s"}, 0.9, headers=patience), 2),
        (connections_after({"learnKeepAlive": False, "idleTimeout": "0s"}, 0.9, headers=patience), 1),
        (connections_after({"maxConnectionAge": SHORT, "idleTimeout": "0s"}, 0.15, requests=4), 4),
        (connections_after({"maxConnectionAge": "0s", "idleTimeout": "0s"}, 0.15, requests=4), 1),
        (connections_after({"maxRequestsPerConnection": 2}, 0, requests=5), 3),
        (connections_after({"maxRequestsPerConnection": 0}, 0, requests=5), 1),
    ]
    assert list(await asyncio.gather(*(counting for counting, _ in expected))) == [count for _, count in expected]


# Balancing


@proves(f"{BALANCER}.policy=RoundRobin")
@live
async def test_round_robin_takes_turns() -> None:
    async with spread(3, policy="RoundRobin") as (chain, _):
        first = await answers(chain, 6)
        assert len(set(first[:3])) == 3
        assert first[:3] == first[3:]


async def beside_a_busy_one(policy: str) -> list[str]:
    """Where 40 requests go while one of two targets is busy: `busy` answers last."""
    gate = Gate("busy")
    async with ScriptedUpstream(gate) as busy, ScriptedUpstream(says("free")) as free:
        doc = document(busy.port, free.port, up={"loadBalancer": {"policy": policy}})
        async with Chain(doc) as chain:
            holding = []
            while not gate.waiting:  # until the first one is caught there
                holding.append(asyncio.create_task(chain.ask()))
                await asyncio.sleep(0.01)
            asking = [asyncio.create_task(chain.ask()) for _ in range(40)]
            await asyncio.sleep(0.2)
            gate.open()
            await asyncio.gather(*holding)
            return [reason_of(reply) for reply in await asyncio.gather(*asking)]


@proves(f"{BALANCER}.policy=LeastRequest")
@live
async def test_least_request_leaves_a_busy_target_alone() -> None:
    gate = Gate("busy")
    async with ScriptedUpstream(gate) as busy, ScriptedUpstream(says("free")) as free, Chain(document(busy.port, free.port)) as chain:
        holding: list[asyncio.Task[Any]] = []
        while not gate.waiting:
            holding.append(asyncio.create_task(chain.ask()))
            await asyncio.sleep(0.01)
        assert Counter(await answers(chain, 40)) == {"free": 40}
        gate.open()
        await asyncio.gather(*holding)


@proves(f"{BALANCER}.policy=Random")
@live
async def test_random_looks_neither_at_turns_nor_at_who_is_busy() -> None:
    assert set(await beside_a_busy_one("Random")) == {"busy", "free"}
    async with spread(2, policy="Random") as (chain, _):
        went = await answers(chain, 64)
        assert set(went) == {"0", "1"}
        assert any(one == other for one, other in itertools.pairwise(went))


@proves(f"{BALANCER}.policy=PeakEWMA")
@live
async def test_peak_ewma_prefers_the_faster_target() -> None:
    async def slow(connection: Connection) -> None:
        while True:
            await connection.read_request()
            await asyncio.sleep(1.0)  # slower than a busy machine makes the other one
            await connection.send(response(body=b"slow"))

    async with ScriptedUpstream(slow) as one, ScriptedUpstream(says("fast")) as two:
        async with Chain(document(one.port, two.port, up={"loadBalancer": {"policy": "PeakEWMA"}})) as chain:
            tried: set[str] = set()
            async with await chain.client() as client:
                while tried != {"slow", "fast"}:
                    tried.add(reason_of(await client.request()))
            assert Counter(await answers(chain, 30)) == {"fast": 30}


async def from_address(chain: Chain, host: str) -> str:
    streams = await asyncio.open_connection("127.0.0.1", chain.port(), local_addr=(host, 0))
    async with RawClient(*streams) as client:
        return reason_of(await client.request())


@proves(f"{BALANCER}.policy=ConsistentHash", f"{BALANCER}.hashOn.name")
@pytest.mark.parametrize(
    ("hash_on", "request_of"),
    [
        pytest.param(
            {"type": "Header", "name": "X-User"}, lambda key: {"headers": f"x-user: {key}\r\nCookie: who={key[::-1]}\r\n"}, id="Header"
        ),
        pytest.param({"type": "Cookie", "name": "who"}, lambda key: {"headers": f"Cookie: a=b; who={key}\r\n"}, id="Cookie"),
        pytest.param({"type": "QueryParam", "name": "Who"}, lambda key: {"target": f"/x?a=b&Who={key}"}, id="QueryParam"),
        pytest.param({"type": "Path"}, lambda key: {"target": f"/{key}"}, id="Path"),
    ],
)
@proves(*(f"{BALANCER}.hashOn.type={kind}" for kind in ("Header", "Cookie", "QueryParam", "Path")))
@live
async def test_consistent_hash_sends_the_same_key_to_the_same_target(hash_on: dict[str, Any], request_of: Any) -> None:
    async with spread(3, policy="ConsistentHash", hashOn=hash_on) as (chain, _):
        owners = {key: set(await answers(chain, 4, **request_of(key))) for key in map("user-{}".format, range(24))}
        assert all(len(owner) == 1 for owner in owners.values())
        assert len(set.union(*owners.values())) > 1
        nameless = await answers(chain, 64, headers=f"x-nonce: {hash_on}\r\n")
        assert len(set(nameless)) == (1 if hash_on["type"] == "Path" else 3)  # without the key: at random


@proves(f"{BALANCER}.hashOn.type=SourceIP")
@live
async def test_consistent_hash_by_source_address() -> None:
    async with spread(3, policy="ConsistentHash", hashOn={"type": "SourceIP"}) as (chain, _):
        owners = {host: {await from_address(chain, host) for _ in range(3)} for host in map("127.0.0.{}".format, range(2, 26))}
        assert all(len(owner) == 1 for owner in owners.values())
        assert len(set.union(*owners.values())) > 1


def test_what_to_hash_belongs_to_consistent_hash_alone() -> None:
    def problem(**balancer: Any) -> str:
        return problems_of(document(1, up={"loadBalancer": balancer}))[0]

    assert "loadBalancer: ConsistentHash needs to know what to hash" in problem(policy="ConsistentHash")
    assert "hashOn: hashOn is for the policy ConsistentHash" in problem(hashOn={"type": "Path"})
    assert "hashOn: Cookie needs a name" in problem(policy="ConsistentHash", hashOn={"type": "Cookie"})


# Retry budget


async def tries(budget: dict[str, Any], *, requests: int = 1, pause: float = 0.0, slow: float = 0.0) -> list[int]:
    """How many tries each request makes at an upstream that always says 503."""

    async def unwell(connection: Connection) -> None:
        while True:
            await connection.read_request()
            await asyncio.sleep(slow)
            await connection.send(response("503 No"))

    retry = {"attempts": 2, "backoff": "0s", "maxBackoff": "0s"}
    async with playing(unwell, up={"retryBudget": budget}, route={"retry": retry}) as (chain, _, client):
        for number in range(requests):
            await asyncio.sleep(pause if number else 0)
            assert (await client.request()).status == 503
        await chain.seen.last(requests)
        assert all(one.retries_skipped in ("", "budget") for one in chain.seen.finished)
        return [len(exchange.attempts) for exchange in chain.seen.finished]


def budget(percent: int, count: int, *, interval: str = "1h", rate_interval: str = "1h") -> dict[str, Any]:
    return {"percent": percent, "interval": interval, "minRetryRate": {"count": count, "interval": rate_interval}}


BUDGET = "upstreams[].retryBudget"


@proves(f"{BUDGET}.percent")
@live
async def test_percent_allows_retries_in_proportion_to_requests() -> None:
    assert await tries(budget(0, 0), requests=2) == [1, 1]
    assert await tries(budget(100, 0), requests=2) == [2, 2]
    assert await tries(budget(50, 0), requests=4) == [1, 2, 1, 2]


@proves(f"{BUDGET}.minRetryRate.count")
@live
async def test_the_min_retry_rate_comes_on_top() -> None:
    assert await tries(budget(0, 3), requests=3) == [3, 2, 1]


@proves(f"{BUDGET}.minRetryRate.interval")
@live
async def test_the_min_retry_rate_begins_anew_after_its_interval() -> None:
    short, long = (tries(budget(0, 2, rate_interval=interval), requests=2, pause=0.5) for interval in ("200ms", "1h"))
    assert list(await asyncio.gather(short, long)) == [[3, 3], [3, 1]]


@proves(f"{BUDGET}.interval")
@live
async def test_percent_is_of_the_requests_in_the_interval() -> None:
    short, long = (tries(budget(100, 0, interval=interval), slow=0.3) for interval in ("100ms", "1h"))
    assert list(await asyncio.gather(short, long)) == [[1], [2]]


def test_a_budget_without_an_interval_is_refused() -> None:
    assert "retryBudget.interval: an interval cannot be 0s" in problems_of(document(1, up={"retryBudget": budget(1, 1, interval="0s")}))[0]
