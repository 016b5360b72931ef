"""`service:` upstreams: from EndpointSlices to the balancer."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import uvloop
from kube_store import Store
from msgspec.structs import replace
from slice_objects import endpoint, endpoint_slice
from support import ScriptedUpstream, response
from support.virtual_time import run_in_virtual_time
from upstream.upstream_fakes import RecordingObserver, attempt, deadlines, get, no_interim

from sidecar.errors import UpstreamError
from sidecar.kube.api import ApiError, KubeError, Unreachable
from sidecar.kube.endpoint_slices import GATHER_SECONDS, EndpointSlices
from sidecar.kube.hub import Hub
from sidecar.kube.objects import ENDPOINT_SLICES
from sidecar.kube.slice_rules import ANYWHERE, Place
from sidecar.model.endpoint import EndpointState
from sidecar.model.reason import Phase, Reason
from sidecar.model.snapshot import ServiceName, Snapshot, Target, Upstream
from sidecar.upstream.registry import Registry

ORDERS = ServiceName(name="orders", namespace="shop", port="http")
SELECTION = "endpointslices shop/(kubernetes.io/service-name=orders)"


def upstream(name: str = "app", service: ServiceName | None = ORDERS, **more) -> Upstream:
    return Upstream(name=name, service=service, **more)


def snapshot(*upstreams: Upstream) -> Snapshot:
    return Snapshot(revision="1", hash="", listeners=(), upstreams={one.name: one for one in upstreams}, routes=())


class Following:
    """A registry whose Services come from a store."""

    def __init__(self, store: Store, place: Place) -> None:
        self.hub = Hub(store.connect)
        self.registry = Registry(RecordingObserver(), follow_service=EndpointSlices(self.hub, place).follow)

    async def reconcile(self, *upstreams: Upstream) -> None:
        await self.registry.reconcile(snapshot(*upstreams))

    def status(self, name: str = "app"):
        return next(status for status in self.registry.statuses() if status.name == name)

    def hosts(self, name: str = "app") -> list[str]:
        return [one.address for one in self.status(name).endpoints if one.state != "draining"]

    async def until(self, *hosts: str, name: str = "app") -> None:
        async with asyncio.timeout(60):
            while self.hosts(name) != list(hosts):
                await asyncio.sleep(0.005)

    async def until_problem(self, text: str, name: str = "app") -> None:
        async with asyncio.timeout(60):
            while not (self.status(name).problem and text in self.status(name).problem):
                await asyncio.sleep(0.005)


@asynccontextmanager
async def following(store: Store, *upstreams: Upstream, place: Place = ANYWHERE):
    it = Following(store, place)
    await it.reconcile(*upstreams or (upstream(),))
    try:
        yield it
    finally:
        await it.registry.aclose()
        await it.hub.aclose()


async def watched(store: Store, count: int) -> None:
    """Wait until so many watches run."""
    async with asyncio.timeout(60):
        while store.watching[SELECTION] != count:
            await asyncio.sleep(0.005)


async def put(store: Store, *endpoints, **slice_) -> None:
    await store.put(ENDPOINT_SLICES, endpoint_slice(*endpoints, **slice_))


def test_the_endpoints_of_a_service_are_there_when_the_document_becomes_active_and_follow_every_change():
    async def main() -> None:
        store = Store()
        await put(store, "10.0.0.1", "10.0.0.2")
        async with following(store) as it:
            status = it.status()
            assert (status.source, status.problem) == ("service", "")
            assert it.hosts() == ["10.0.0.1:8080", "10.0.0.2:8080"]
            await put(store, "10.0.0.2", "10.0.0.3")
            await it.until("10.0.0.2:8080", "10.0.0.3:8080")
            await put(store, "10.0.0.4", name="orders-2")
            await it.until("10.0.0.2:8080", "10.0.0.3:8080", "10.0.0.4:8080")
            await store.delete(ENDPOINT_SLICES, "orders-1")
            await it.until("10.0.0.4:8080")

    uvloop.run(main())


def test_an_endpoint_that_stays_is_the_same_one_with_its_counters():
    async def main() -> None:
        store = Store()
        await put(store, "10.0.0.1", "10.0.0.2")
        async with following(store) as it:
            before = it.registry.get("app").endpoints
            await put(store, "10.0.0.2", "10.0.0.3")
            await it.until("10.0.0.2:8080", "10.0.0.3:8080")
            after = it.registry.get("app").endpoints
            assert after[0] is before[1]
            assert before[0].state is EndpointState.DRAINING

    uvloop.run(main())


def test_what_changes_nothing_for_requests_replaces_nothing():
    async def main() -> None:
        store = Store()
        await put(store, "10.0.0.1")
        async with following(store) as it:
            before = it.registry.get("app").endpoints
            await put(store, endpoint("10.0.0.1", ready=True, serving=True), endpoint("10.0.0.2", ready=False))
            await asyncio.sleep(0.05)
            assert it.registry.get("app").endpoints is before  # the balancer need not look anew

    run_in_virtual_time(main())


def test_a_request_on_an_endpoint_that_leaves_is_finished_there_and_no_other_goes_to_it():
    async def main() -> None:
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def slow(connection) -> None:
            await connection.read_request()
            asked.set()
            await go_on.wait()
            await connection.send(response(body=b"late"))

        store = Store()
        async with ScriptedUpstream(slow) as leaving:
            await put(store, "127.0.0.1", ports=[{"name": "http", "port": leaving.port}])
            async with following(store) as it:
                runtime = it.registry.get("app")
                now = asyncio.get_running_loop().time()
                taken = runtime.pick(now, b"", [])
                exchange = asyncio.create_task(runtime.transport.send(taken, get(), attempt(), deadlines(), no_interim))
                await asked.wait()
                await put(store, "10.0.0.9")
                await it.until("10.0.0.9:8080")
                assert [(one.address, one.state) for one in it.status().endpoints] == [
                    ("10.0.0.9:8080", "healthy"),
                    (f"127.0.0.1:{leaving.port}", "draining"),
                ]
                go_on.set()
                reply = await exchange
                assert (reply.head.status, await reply.body.read()) == (200, b"late")
                assert not await reply.body.read()
                reply.release()
                runtime.finished(taken, 0.1, now, failed=False)
                assert [one.address for one in it.status().endpoints] == ["10.0.0.9:8080"]
                assert it.status().connections_idle == 0  # its connection was not kept

    uvloop.run(main())


def test_a_burst_of_changes_is_merged_at_once_and_then_no_more_often_than_every_moment():
    async def main() -> None:
        store, seen = Store(), []
        await put(store, "10.0.0.1")
        async with following(store) as it:
            changed = it.registry.get("app")._set._changed
            it.registry.get("app")._set._changed = lambda: (seen.append(asyncio.get_running_loop().time()), changed())
            await asyncio.sleep(10)
            started = asyncio.get_running_loop().time()
            for number in range(100):
                await put(store, f"10.0.1.{number}")
                await asyncio.sleep(0.01)
            await it.until("10.0.1.99:8080")
            assert seen[0] - started <= 0.01
            assert len(seen) <= 1.0 / GATHER_SECONDS + 2
            assert all(later - earlier >= GATHER_SECONDS - 1e-6 for earlier, later in pairwise(seen))

    run_in_virtual_time(main())


def test_while_the_api_is_away_the_last_known_endpoints_stay_and_the_problem_says_so(caplog):
    async def main() -> None:
        store = Store()
        await put(store, "10.0.0.1")
        async with following(store) as it:
            await asyncio.sleep(5)
            await store.fail(Unreachable("connection refused"))
            await it.until_problem("connection refused")
            assert it.hosts() == ["10.0.0.1:8080"]
            await asyncio.sleep(3600)
            assert it.hosts() == ["10.0.0.1:8080"]
            await put(store, "10.0.0.2")
            store.mend()
            await it.until("10.0.0.2:8080")
            assert it.status().problem == ""

    caplog.set_level("INFO", "outrider")
    run_in_virtual_time(main())
    assert [(record.event, record.message.split(": ")[0]) for record in caplog.records] == [
        ("service_failed", "service shop/orders:http"),
        ("service_restored", "service shop/orders:http"),
    ]
    assert "keeping 1 endpoints" in caplog.records[0].message


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KubeError("no kubeconfig, and not in a cluster"), "no kubeconfig, and not in a cluster"),
        (
            ApiError("no", status=403, reason="Forbidden"),
            "{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]} in namespace shop",
        ),
    ],
)
def test_without_access_the_upstream_says_why_and_the_others_work(error, said):
    async def main() -> None:
        store = Store()
        if isinstance(error, ApiError):
            await store.fail(error)
        else:
            store.no_access = error
        static = Upstream(name="static", targets=(Target(host="127.0.0.1", port=1),))
        async with following(store, upstream(), static) as it:
            await it.until_problem(said)
            with pytest.raises(UpstreamError) as refused:
                it.registry.get("app").pick(0.0, b"", [])
            assert (refused.value.reason, refused.value.status, refused.value.phase) == (Reason.DESTINATION_UNAVAILABLE, 503, Phase.POOL)
            assert said in refused.value.detail
            assert it.registry.get("static").pick(0.0, b"", []).port == 1

    run_in_virtual_time(main())


def test_a_service_without_slices_is_a_clear_503_until_they_come(caplog):
    async def main() -> None:
        store = Store()
        async with following(store) as it:
            await it.until_problem("there are no EndpointSlices of it")
            with pytest.raises(UpstreamError) as refused:
                it.registry.get("app").pick(0.0, b"", [])
            assert (refused.value.reason, refused.value.status) == (Reason.DESTINATION_UNAVAILABLE, 503)
            await put(store, endpoint("10.0.0.1", ready=False))
            await it.until_problem("none of its endpoints is ready")
            await put(store, "10.0.0.1")
            await it.until("10.0.0.1:8080")
            await store.delete(ENDPOINT_SLICES, "orders-1")
            await it.until()
            assert "ExternalName" in it.status().problem

    caplog.set_level("INFO", "outrider")
    uvloop.run(main())
    assert [record.event for record in caplog.records] == ["service_failed", "service_failed", "service_restored", "service_failed"]


def test_two_upstreams_of_one_service_share_a_watch_and_each_has_its_port():
    async def main() -> None:
        store = Store()
        await put(store, "10.0.0.1", ports=[{"name": "http", "port": 80}, {"name": "metrics", "port": 9100}])
        metrics = replace(ORDERS, port="metrics")
        async with following(store, upstream(), upstream("other", metrics), upstream("third", replace(ORDERS, port=80))) as it:
            assert [it.hosts(name) for name in ("app", "other", "third")] == [["10.0.0.1:80"], ["10.0.0.1:9100"], ["10.0.0.1:80"]]
            assert store.asked["list", SELECTION] == 1
            await it.reconcile(upstream("other", metrics))
            assert store.watching[SELECTION] == 1

    uvloop.run(main())


def test_when_the_document_no_longer_names_the_service_its_watch_ends():
    async def main() -> None:
        store = Store()
        await put(store, "10.0.0.1")
        async with following(store) as it:
            await watched(store, 1)
            static = Upstream(name="app", targets=(Target(host="10.0.0.1", port=8080),))
            kept = it.registry.get("app").endpoints[0]
            await it.reconcile(static)
            await watched(store, 0)
            assert it.registry.get("app").endpoints == (kept,)  # the same address is the same endpoint, wherever it comes from
            await it.reconcile(upstream())
            await it.until("10.0.0.1:8080")
            await it.reconcile()
            await watched(store, 0)

    uvloop.run(main())


def test_another_port_of_the_same_service_keeps_the_watch():
    async def main() -> None:
        store = Store()
        await put(store, "10.0.0.1", ports=[{"name": "http", "port": 80}, {"name": "metrics", "port": 9100}])
        async with following(store) as it:
            await it.reconcile(upstream(service=replace(ORDERS, port=9100)))
            assert it.hosts() == ["10.0.0.1:9100"]
            assert store.asked["list", SELECTION] == 1

    uvloop.run(main())


def test_an_unchanged_service_is_not_touched_by_a_reload():
    async def main() -> None:
        store = Store()
        await put(store, "10.0.0.1")
        async with following(store) as it:
            before = it.registry.get("app").endpoints
            await it.reconcile(upstream(connect_timeout=1.0))
            assert it.registry.get("app").endpoints is before
            assert store.asked["list", SELECTION] == 1

    uvloop.run(main())


def test_hints_are_compared_with_the_place_that_we_were_told():
    async def main() -> None:
        store = Store()
        await put(store, endpoint("10.0.0.1", zones=["a"]), endpoint("10.0.0.2", zones=["b"]))
        async with following(store, place=Place(zone="b")) as it:
            assert it.hosts() == ["10.0.0.2:8080"]

    uvloop.run(main())


def test_an_endpoint_is_also_tried_at_its_pods_address_of_the_other_family():
    async def main() -> None:
        store = Store()
        await put(store, endpoint("10.0.0.1", pod="one"), "10.0.0.2", name="four")
        await put(store, endpoint("fd00::1", pod="one"), name="six", family="IPv6")
        async with following(store) as it:
            await it.until("10.0.0.1:8080", "10.0.0.2:8080")
            app = it.registry.get("app")
            assert [list(await app._addresses(one)) for one in app.endpoints] == [["10.0.0.1", "fd00::1"], ["10.0.0.2"]]

    uvloop.run(main())


def test_closing_while_changes_wait_to_be_merged_leaves_nothing_behind():
    async def main() -> None:
        store = Store()
        await put(store, "10.0.0.1")
        async with following(store):
            await watched(store, 1)
            for number in range(5):
                await put(store, f"10.0.0.{number}")
            await asyncio.sleep(0.01)

    uvloop.run(main())


def test_an_api_that_does_not_answer_delays_a_start_for_a_moment_only():
    async def main() -> None:
        class Silent(Store):
            async def list(self, selection, *, resource_version=""):
                await asyncio.Event().wait()

        started = asyncio.get_running_loop().time()
        async with following(Silent()) as it:
            assert asyncio.get_running_loop().time() - started <= 2.01
            assert it.status().problem == "service shop/orders:http: not looked up yet"

    run_in_virtual_time(main())
