"""The registry and the native transport: whole exchanges with scripted upstreams, reloads, forward destinations."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest
import uvloop
from msgspec.structs import replace
from support import Connection, ScriptedUpstream, answer, in_turn, response
from support.ports import closed_port
from upstream_fakes import DnsServer, RecordingObserver, attempt, deadlines, get, no_interim, until

from sidecar.errors import ProxyError, StaleConnection, UpstreamError
from sidecar.model.endpoint import Endpoint, EndpointState
from sidecar.model.reason import Clock, Phase, Reason
from sidecar.model.snapshot import AllowEntry, DnsName, LoadBalancer, PoolLimits, RetryBudget, Snapshot, Target, Upstream
from sidecar.upstream import forward
from sidecar.upstream.base import UpstreamRuntime
from sidecar.upstream.cares import CaresClient, Record
from sidecar.upstream.endpoints import DnsEndpoints
from sidecar.upstream.registry import Registry
from sidecar.upstream.resolver import Resolver

NOTHING: list[Endpoint] = []
LOOPBACK = (AllowEntry(host=None, network=ip_network("127.0.0.0/8"), ports=None),)


def static(*ports: int, name: str = "app", **settings) -> Upstream:
    return Upstream(name=name, targets=tuple(Target(host="127.0.0.1", port=port) for port in ports), **settings)


def snapshot(*upstreams: Upstream) -> Snapshot:
    return Snapshot(revision="1", hash="", listeners=(), upstreams={upstream.name: upstream for upstream in upstreams}, routes=())


async def exchange(upstream: UpstreamRuntime, *, status: int = 200) -> Endpoint:
    """A whole GET; returns the endpoint that it went to."""
    now = asyncio.get_running_loop().time()
    endpoint = upstream.pick(now, b"", NOTHING)
    failed = True
    try:
        reply = await upstream.transport.send(endpoint, get(), attempt(), deadlines(), no_interim)
        while await reply.body.read():
            pass
        reply.release()
        assert reply.head.status == status
        failed = False
    finally:
        upstream.finished(endpoint, 0.001, now, failed)
    return endpoint


@contextlib.asynccontextmanager
async def registry(*upstreams: Upstream, resolver: Resolver | None = None) -> AsyncIterator[Registry]:
    registry = Registry(RecordingObserver(), resolver)
    await registry.reconcile(snapshot(*upstreams))
    try:
        yield registry
    finally:
        await registry.aclose()


async def names(_host: str) -> list[Record]:
    return [("127.0.0.1", 60)]


def test_requests_reuse_one_connection_and_connects_are_observed() -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"hi"))) as upstream, registry(static(upstream.port)) as r:
            for _ in range(3):
                await exchange(r.get("app"))
            assert len(upstream.connections) == 1
            assert r._observer.connects == [("app", "success")]
            (status,) = r.statuses()
            assert (status.connections_idle, status.connections_active, status.source, status.problem) == (1, 0, "static", "")
            assert [(e.address, e.active, e.requests, e.failures) for e in status.endpoints] == [(f"127.0.0.1:{upstream.port}", 0, 3, 0)]

    uvloop.run(main())


def test_an_attempt_says_whether_its_connection_was_reused_and_when_it_was_there() -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response())) as upstream, registry(static(upstream.port)) as r:
            app = r.get("app")
            for reused in (False, True):
                endpoint, one = app.pick(0.0, b"", NOTHING), attempt()
                (await app.transport.send(endpoint, get(), one, deadlines(), no_interim)).release()
                app.finished(endpoint, 0.0, 0.0, failed=False)
                assert one.reused is reused
                assert one.connected_at >= one.started_at

    uvloop.run(main())


def test_a_refused_connect_is_an_error_of_phase_connect_and_leaves_nothing_counted() -> None:
    async def main() -> None:
        with closed_port() as port:
            async with registry(static(port)) as r:
                with pytest.raises(UpstreamError) as caught:
                    await exchange(r.get("app"))
                assert (caught.value.reason, caught.value.phase) == (Reason.CONNECTION_REFUSED, Phase.CONNECT)
                assert r._observer.connects == [("app", "connection_refused")]
                (status,) = r.statuses()
                assert (status.endpoints[0].active, status.endpoints[0].failures) == (0, 1)
                assert r.get("app").quiet

    uvloop.run(main())


def test_the_connect_clock_runs_from_the_lookup_to_the_connection() -> None:
    async def main() -> None:
        clocks = deadlines()
        started = asyncio.get_running_loop().time()

        async def query(_host: str) -> list[Record]:
            assert clocks.phase_clock is Clock.CONNECT
            assert clocks.phase_at == pytest.approx(started + 7.0, abs=0.5)
            return [("127.0.0.1", 60)]

        async with ScriptedUpstream(answer(response())) as upstream:
            config = Upstream(name="app", targets=(Target(host="a.test", port=upstream.port),), connect_timeout=7.0)
            async with registry(config, resolver=Resolver(query)) as r:
                app = r.get("app")
                reply = await app.transport.send(app.endpoints[0], get(), attempt(), clocks, no_interim)
                assert clocks.fired(started + 3600) is None
                reply.release()

    uvloop.run(main())


def test_a_tunnel_has_a_connection_of_its_own_outside_the_pool() -> None:
    async def main() -> None:
        async def echo(connection: Connection) -> None:
            await connection.send((await connection.read_some()).upper())

        async with ScriptedUpstream(echo) as upstream, registry(static(upstream.port)) as r:
            app = r.get("app")
            tunnel = await app.transport.connect(app.endpoints[0], attempt(), deadlines())
            await tunnel.write(b"abc")
            assert await tunnel.read() == b"ABC"
            assert await tunnel.read() == b""
            assert app.transport.pool.open == 0
            tunnel.abort()
            await asyncio.sleep(0.01)

    uvloop.run(main())


def test_after_a_stale_connection_the_replay_gets_a_fresh_one() -> None:
    async def main() -> None:
        async def one_then_close(connection: Connection) -> None:
            await connection.read_request()
            await connection.send(response())
            await connection.read_request()

        async with ScriptedUpstream(in_turn(one_then_close, answer(response()))) as upstream, registry(static(upstream.port)) as r:
            await exchange(r.get("app"))
            with pytest.raises(StaleConnection):
                await exchange(r.get("app"))
            await exchange(r.get("app"))
            assert len(upstream.connections) == 2

    uvloop.run(main())


def test_what_a_response_says_in_keep_alive_is_the_limit_for_idle_connections() -> None:
    async def main() -> None:
        async with (
            ScriptedUpstream(answer(response(headers="Keep-Alive: timeout=2, max=99\r\n"))) as upstream,
            registry(static(upstream.port)) as r,
        ):
            await exchange(r.get("app"))
            assert r.statuses()[0].learned_idle_timeout == 2
            assert r.get("app").transport.pool._idle_limit == pytest.approx(1.6)

    uvloop.run(main())


def test_without_endpoints_a_pick_is_503_destination_unavailable_and_with_unresolved_names_says_dns() -> None:
    async def main() -> None:
        async with DnsServer() as dns:
            resolver = Resolver(CaresClient([dns.address], timeout=5, tries=1).query)
            dns_upstream = Upstream(name="named", dns=DnsName(host="unknown.test", port=80))
            async with registry(Upstream(name="app"), dns_upstream, resolver=resolver) as r:
                for name, reason, status in (("app", Reason.DESTINATION_UNAVAILABLE, 503), ("named", Reason.DNS_ERROR, 502)):
                    with pytest.raises(UpstreamError) as caught:
                        r.get(name).pick(0.0, b"", NOTHING)
                    assert (caught.value.reason, caught.value.status, caught.value.phase) == (reason, status, Phase.POOL)

    uvloop.run(main())


def test_an_unknown_upstream_is_500_destination_not_found() -> None:
    async def main() -> None:
        async with registry() as r:
            with pytest.raises(UpstreamError) as caught:
                r.get("nobody")
            assert (caught.value.reason, caught.value.status) == (Reason.DESTINATION_NOT_FOUND, 500)

    uvloop.run(main())


def test_new_names_are_resolved_before_the_snapshot_is_active_but_a_dead_dns_delays_it_only_a_moment(monkeypatch) -> None:
    monkeypatch.setattr(DnsEndpoints, "first_look", 0.05)

    async def main() -> None:
        async with DnsServer() as dns:
            dns.records["a.test"] = [("127.0.0.1", 60)]
            resolver = Resolver(CaresClient([dns.address], timeout=5, tries=1).query)
            first, second = (Upstream(name=name, dns=DnsName(host=f"{name}.test", port=80)) for name in ("a", "b"))
            async with registry(first, resolver=resolver) as r:
                assert [endpoint.host for endpoint in r.get("a").endpoints] == ["127.0.0.1"]
                dns.silent = True
                await r.reconcile(snapshot(first, second))
                assert r.statuses()[1].problem == "b.test: not resolved yet"

    uvloop.run(main())


def test_a_reload_leaves_an_unchanged_upstream_alone_and_its_connection_open() -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response())) as upstream, registry(static(upstream.port)) as r:
            app = r.get("app")
            before = (app, app.endpoints, app.budget, app.balancer, app.transport)
            await exchange(app)
            await r.reconcile(snapshot(static(upstream.port), static(1, name="other")))
            app = r.get("app")
            assert before == (app, app.endpoints, app.budget, app.balancer, app.transport)
            await exchange(app)
            assert len(upstream.connections) == 1

    uvloop.run(main())


def test_a_reload_that_changes_limits_keeps_connections_and_takes_the_limits_on() -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response())) as upstream, registry(static(upstream.port)) as r:
            app, endpoint = r.get("app"), await exchange(r.get("app"))
            budget, balancer = app.budget, app.balancer
            changed = static(upstream.port, pool=PoolLimits(max_requests=7), retry_budget=RetryBudget(percent=1.0), connect_timeout=1.0)
            await r.reconcile(snapshot(changed))
            assert await exchange(r.get("app")) is endpoint
            assert len(upstream.connections) == 1
            assert app.config is changed
            assert app.transport.pool._max_requests == 7
            assert app.budget is not budget
            assert app.balancer is balancer

    uvloop.run(main())


def test_a_reload_that_changes_targets_keeps_the_common_ones_and_drains_the_rest() -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response())) as kept, ScriptedUpstream(answer(response())) as gone:
            async with registry(static(kept.port, gone.port, load_balancer=LoadBalancer(policy="RoundRobin"))) as r:
                app = r.get("app")
                stays, leaves = app.endpoints
                for _ in range(2):
                    await exchange(app)
                busy = await app.transport.send(leaves, get(), attempt(), deadlines(), no_interim)
                leaves.active += 1
                await r.reconcile(snapshot(static(kept.port)))
                assert app.endpoints == (stays,)
                assert leaves.state is EndpointState.DRAINING
                assert [(e.address, e.state) for e in r.statuses()[0].endpoints][1:] == [(leaves.label, "draining")]
                assert await busy.body.read() == b""
                busy.release()
                app.finished(leaves, 0.0, 0.0, failed=False)
                await gone.connections[0].ended.wait()
                assert len(r.statuses()[0].endpoints) == 1
                await exchange(app)
                assert len(kept.connections) == 1

    uvloop.run(main())


def test_a_removed_upstream_serves_exchanges_of_the_old_snapshot_and_then_closes() -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response())) as upstream, registry(static(upstream.port)) as r:
            app = r.get("app")
            await exchange(app)
            await r.reconcile(snapshot())
            assert r.statuses() == []
            assert r.get("app") is app
            await exchange(app)
            for connection in upstream.connections:
                await connection.ended.wait()
            await until(lambda: app.quiet)
            await r.reconcile(snapshot())
            with pytest.raises(UpstreamError):
                r.get("app")

    uvloop.run(main())


def test_a_change_from_targets_to_a_name_keeps_endpoints_of_the_same_address() -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response())) as upstream, registry(static(upstream.port), resolver=Resolver(names)) as r:
            endpoint = await exchange(r.get("app"))
            await r.reconcile(snapshot(Upstream(name="app", dns=DnsName(host="a.test", port=upstream.port))))
            assert r.get("app").endpoints == (endpoint,)
            assert endpoint.state is EndpointState.HEALTHY
            await exchange(r.get("app"))
            assert len(upstream.connections) == 1
            assert r.statuses()[0].source == "dns"

    uvloop.run(main())


def test_reloads_at_the_same_time_end_with_the_last_one() -> None:
    async def main() -> None:
        async with registry(static(1)) as r:
            await asyncio.gather(*(r.reconcile(snapshot(static(port))) for port in range(2, 9)))
            assert [endpoint.port for endpoint in r.get("app").endpoints] == [8]

    uvloop.run(main())


def test_the_budget_is_that_of_the_upstream() -> None:
    async def main() -> None:
        async with registry(static(1, retry_budget=RetryBudget(percent=0.0, min_retries=1, min_interval=60.0))) as r:
            now = asyncio.get_running_loop().time()
            assert r.statuses()[0].budget_available == 1
            assert [r.get("app").budget.try_spend(now) for _ in range(2)] == [True, False]

    uvloop.run(main())


def test_an_allowed_destination_is_reached_and_its_connection_reused() -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response())) as upstream, registry(resolver=Resolver(names)) as r:
            for host in ("A.test", "a.test"):
                destination = await r.forward(host, upstream.port, LOOPBACK)
                assert destination.config.name == "forward"
                await exchange(destination)
            assert len(upstream.connections) == 1
            assert r._observer.connects == [("forward", "success")]

    uvloop.run(main())


@pytest.mark.parametrize(
    ("allow", "addresses", "reason"),
    [
        ((), ["127.0.0.1"], Reason.HTTP_REQUEST_DENIED),
        ((AllowEntry(host="b.test", network=None, ports=None),), ["1.1.1.1"], Reason.HTTP_REQUEST_DENIED),
        ((AllowEntry(host="a.test", network=None, ports=frozenset({443})),), ["1.1.1.1"], Reason.HTTP_REQUEST_DENIED),
        ((AllowEntry(host="a.test", network=None, ports=None),), ["1.1.1.1", "127.0.0.1"], Reason.DESTINATION_IP_PROHIBITED),
        ((AllowEntry(host=None, network=ip_network("1.1.1.0/24"), ports=None),), ["1.1.1.1", "2.2.2.2"], Reason.HTTP_REQUEST_DENIED),
    ],
)
def test_a_destination_whose_name_or_any_of_whose_addresses_is_not_allowed_is_403(allow, addresses: list[str], reason: Reason) -> None:
    async def main() -> None:
        async def query(_host: str) -> list[Record]:
            return [(address, 60) for address in addresses]

        async with registry(resolver=Resolver(query)) as r:
            with pytest.raises(ProxyError) as caught:
                await r.forward("a.test", 80, allow)
            assert (caught.value.reason, caught.value.status) == (reason, 403)

    uvloop.run(main())


def test_the_address_that_is_connected_to_is_the_one_that_was_checked() -> None:
    async def main() -> None:
        answers = [[("127.0.0.1", 60)], [("127.0.0.66", 60)]]

        async def rebinding(_host: str) -> list[Record]:
            return answers.pop(0)

        async with ScriptedUpstream(answer(response())) as upstream, registry(resolver=Resolver(rebinding)) as r:
            destination = await r.forward("a.test", upstream.port, LOOPBACK)
            r._resolver.forget("a.test")
            await exchange(destination)
            assert len(answers) == 1

    uvloop.run(main())


def test_a_destination_is_checked_anew_when_the_allow_list_changes_or_its_answer_is_old() -> None:
    async def main() -> None:
        async with registry(resolver=Resolver(names)) as r:
            first = await r.forward("a.test", 80, LOOPBACK)
            with pytest.raises(ProxyError):
                await r.forward("a.test", 80, (AllowEntry(host="a.test", network=None, ports=None),))
            assert await r.forward("a.test", 80, tuple(LOOPBACK)) is first
            wider = (*LOOPBACK, AllowEntry(host="b.test", network=None, ports=None))
            assert await r.forward("a.test", 80, wider) is not first

            async def moved(_host: str) -> list[Record]:
                return [("10.0.0.1", 60)]

            r._resolver._query = moved
            assert r._forward is not None
            r._forward._connect_failed(r._forward._destinations["a.test", 80].endpoint)
            with pytest.raises(ProxyError):
                await r.forward("a.test", 80, wider)

    uvloop.run(main())


def test_remembered_destinations_are_bounded_and_the_least_used_goes_first(monkeypatch) -> None:
    monkeypatch.setattr(forward, "DESTINATIONS_MAX", 2)

    async def main() -> None:
        async with ScriptedUpstream(answer(response())) as upstream, registry(resolver=Resolver(names)) as r:
            first = await r.forward("a.test", upstream.port, LOOPBACK)
            await exchange(first)
            for host in ("b.test", "c.test"):
                await r.forward(host, upstream.port, LOOPBACK)
            await upstream.connections[0].ended.wait()
            assert await r.forward("a.test", upstream.port, LOOPBACK) is not first
            await exchange(first)

    uvloop.run(main())


def test_a_destination_that_cannot_be_looked_up_in_time_is_504_dns_timeout_of_the_connect_clock(monkeypatch) -> None:
    monkeypatch.setattr(forward, "CONFIG", replace(forward.CONFIG, connect_timeout=0.02))

    async def main() -> None:
        async def forever(_host: str) -> list[Record]:
            await asyncio.Event().wait()
            raise AssertionError

        async with registry(resolver=Resolver(forever)) as r:
            with pytest.raises(UpstreamError) as caught:
                await r.forward("a.test", 80, LOOPBACK)
            assert (caught.value.reason, caught.value.status, caught.value.clock) == (Reason.DNS_TIMEOUT, 504, Clock.CONNECT)

    uvloop.run(main())
