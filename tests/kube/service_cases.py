"""A real sidecar, a real API server, real addresses: what a Service's EndpointSlices do to the traffic of clients that never stop.

Run by `test_service_process.py` in a network namespace of its own: EndpointSlices cannot hold loopback addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from support import Connection, RawClient, Script, ScriptedUpstream, Sidecar, response
from support.apiserver import ApiServer

T = TypeVar("T")
PORT = 8080
CLIENTS = 4
PAUSE = 0.005
"""Seconds between two requests of a client: traffic, not load."""
READ = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}


def document(**services: Any) -> dict[str, Any]:
    """An upstream and a route by path for each `name=service`."""
    return {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "SidecarConfig",
        "listeners": [{"name": "inbound", "port": 0, "bind": "127.0.0.1"}],
        "upstreams": [{"name": name, "service": service, "loadBalancer": {"policy": "RoundRobin"}} for name, service in services.items()],
        "routes": [{"name": name, "matches": [{"path": {"value": f"/{name}"}}], "backendRefs": [{"name": name}]} for name in services],
        "telemetry": {"accessLog": {"sample": 0, "always": ["Error", "Retried"]}},
    }


def endpoint(address: str, **conditions: bool) -> dict[str, Any]:
    """One endpoint; ready unless something else is said."""
    pod = {"kind": "Pod", "name": f"pod-{address[-1]}", "namespace": "default", "uid": f"uid-{address[-1]}"}
    return {"addresses": [address], "conditions": conditions or {"ready": True}, "targetRef": pod}


async def off_loop(call: Callable[..., T], *args: Any, **fields: Any) -> T:
    return await asyncio.to_thread(call, *args, **fields)


class Cluster:
    """What the endpoint controller would do, done by hand."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.server = server
        self.namespace = namespace

    async def put(self, name: str, *endpoints: str | dict[str, Any], family: str = "IPv4", port: int = PORT) -> None:
        """Create or replace a slice of the Service `orders`."""
        await off_loop(
            self.server.admin.apply,
            "EndpointSlice",
            self.namespace,
            name,
            metadata={"labels": {"kubernetes.io/service-name": "orders"}},
            addressType=family,
            ports=[{"name": "http", "port": port, "protocol": "TCP"}],
            endpoints=[endpoint(one) if isinstance(one, str) else one for one in endpoints],
        )

    async def delete(self, name: str) -> None:
        await off_loop(self.server.admin.delete, "EndpointSlice", self.namespace, name)


class Traffic:
    """Clients on keep-alive connections that ask again and again; every answer that is not 200 fails the test."""

    def __init__(self, port: int, path: str = "/orders") -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.over = False
        self._port, self._path = port, path

    async def run(self) -> None:
        try:
            async with await RawClient.open(self._port) as client:
                while not self.over:
                    reply = await client.request(self._path)
                    if reply.status != 200:
                        self.failures.append(f"{reply.status} {reply.body!r}")
                        return
                    self.answers[reply.body.decode()] += 1
                    await asyncio.sleep(PAUSE)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is a failure
            self.failures.append(repr(error))

    async def goes_to(self, *names: str, rounds: int = 5) -> None:
        """Wait until only these answer, and each of them does, `rounds` times over."""
        async with asyncio.timeout(30):
            while True:
                assert self.failures == []
                self.answers.clear()
                while sum(self.answers.values()) < 20 * rounds and not self.failures:
                    await asyncio.sleep(0.01)
                if set(self.answers) == set(names):
                    return


@asynccontextmanager
async def traffic(sidecar: Sidecar) -> AsyncIterator[Traffic]:
    """Traffic during the block, and no failure at its end."""
    it = Traffic(sidecar.port())
    clients = [asyncio.create_task(it.run()) for _ in range(CLIENTS)]
    try:
        yield it
    finally:
        it.over = True
        await asyncio.gather(*clients)
    assert it.failures == []


def says(text: str) -> Script:
    async def play(connection: Connection) -> None:
        while True:
            await connection.read_request()
            await connection.send(response(body=text.encode()))

    return play


@asynccontextmanager
async def pods(*addresses: str) -> AsyncIterator[None]:
    """Servers that answer with the last digit of their address."""
    async with contextlib.AsyncExitStack() as stack:
        for address in addresses:
            await stack.enter_async_context(ScriptedUpstream(says(address[-1]), host=address, port=PORT))
        yield


def sidecar_of(server: ApiServer, folder: Path, namespace: str, doc: dict[str, Any] | None = None, **kubeconfig: Any) -> Sidecar:
    path = server.kubeconfig(folder / "kubeconfig", namespace=namespace, **kubeconfig)
    return Sidecar(doc or document(orders={"name": "orders", "port": "http"}), flags=[f"--kubeconfig={path}"])


async def ask_admin(sidecar: Sidecar, path: str) -> Any:
    async with await RawClient.open(sidecar.admin_port) as client:
        return json.loads((await client.request(path, host="localhost")).body)


async def upstream(sidecar: Sidecar, name: str = "orders") -> Any:
    return next(one for one in await ask_admin(sidecar, "/upstreams") if one["name"] == name)


async def states(sidecar: Sidecar) -> dict[str, tuple[str, int]]:
    return {one["address"]: (one["state"], one["inFlight"]) for one in (await upstream(sidecar))["endpoints"]}


async def until_problem(sidecar: Sidecar, text: str, name: str = "orders") -> Any:
    async with asyncio.timeout(60):
        while text not in (found := await upstream(sidecar, name))["problem"] or (not text and found["problem"]):
            await asyncio.sleep(0.05)
    return found


def test_traffic_follows_every_change_of_the_slices_without_a_failure(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    async def main() -> None:
        cluster = Cluster(api_server, namespace)
        await cluster.put("orders-a", "10.99.0.1")
        async with pods("10.99.0.1", "10.99.0.2", "10.99.0.3"), sidecar_of(api_server, tmp_path, namespace) as sidecar:
            async with traffic(sidecar) as clients:
                await clients.goes_to("1")
                await cluster.put("orders-a", "10.99.0.1", "10.99.0.2")
                await clients.goes_to("1", "2")
                await cluster.put("orders-b", "10.99.0.2", "10.99.0.3")  # 2 is in both: it moves
                await clients.goes_to("1", "2", "3")
                await cluster.put("orders-a", endpoint("10.99.0.1", ready=False, serving=True, terminating=True))
                await clients.goes_to("2", "3")
                await cluster.put("orders-b", endpoint("10.99.0.2", ready=False), endpoint("10.99.0.3", ready=False))
                await clients.goes_to("1")  # better one that is going than none
                await cluster.put("orders-b", "10.99.0.3")
                await cluster.delete("orders-a")
                await clients.goes_to("3")
            found = await upstream(sidecar)
            assert (found["source"], found["problem"], [one["address"] for one in found["endpoints"]]) == (
                "service",
                "",
                [f"10.99.0.3:{PORT}"],
            )

    uvloop.run(main())


def test_a_request_that_is_under_way_ends_where_it_began_when_its_endpoint_leaves(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    async def main() -> None:
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def slow(connection: Connection) -> None:
            await connection.read_request()
            asked.set()
            await go_on.wait()
            await connection.send(response(body=b"late"))

        cluster = Cluster(api_server, namespace)
        await cluster.put("orders-a", "10.99.0.4")
        async with ScriptedUpstream(slow, host="10.99.0.4", port=PORT), pods("10.99.0.1"):
            async with sidecar_of(api_server, tmp_path, namespace) as sidecar, await RawClient.open(sidecar.port()) as client:
                request = asyncio.create_task(client.request("/orders"))
                await asked.wait()
                await cluster.put("orders-a", "10.99.0.1")
                async with asyncio.timeout(30):
                    while await states(sidecar) != {f"10.99.0.1:{PORT}": ("healthy", 0), f"10.99.0.4:{PORT}": ("draining", 1)}:
                        await asyncio.sleep(0.01)
                async with traffic(sidecar) as others:
                    await others.goes_to("1")
                    go_on.set()
                    reply = await request
                    assert (reply.status, reply.body) == (200, b"late")

    uvloop.run(main())


def test_without_endpoints_there_is_a_clear_503_and_both_log_and_admin_surface_say_what_is_missing(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    async def main() -> None:
        cluster = Cluster(api_server, namespace)
        async with pods("10.99.0.1"), sidecar_of(api_server, tmp_path, namespace) as sidecar:
            await until_problem(sidecar, "there are no EndpointSlices of it")
            async with await RawClient.open(sidecar.port()) as client:
                reply = await client.request("/orders")
                problem = json.loads(reply.body)
                assert (reply.status, problem["reason"]) == (503, "destination_unavailable")
                assert "EndpointSlices" not in reply.body.decode()  # our own affairs are no business of a client's
            said = (await sidecar.await_for("service_failed"))["message"]
            assert said.startswith("service orders:http: there are no EndpointSlices of it")
            await cluster.put("orders-a", "10.99.0.1")
            await sidecar.await_for("service_restored")
            async with traffic(sidecar) as clients:
                await clients.goes_to("1")
            await cluster.put("orders-a", "10.99.0.1", port=1)
            await until_problem(sidecar, "")
            await cluster.delete("orders-a")
            await cluster.put("fqdn", "orders.example", family="FQDN")
            await until_problem(sidecar, "hold host names, which are not followed")

    uvloop.run(main())


def test_while_the_api_server_is_away_traffic_goes_on_and_afterwards_changes_are_followed_again(
    own_api_server: ApiServer, tmp_path: Path
) -> None:
    async def main() -> None:
        namespace = own_api_server.admin.namespace("shop")
        cluster = Cluster(own_api_server, namespace)
        await cluster.put("orders-a", "10.99.0.1")
        async with pods("10.99.0.1", "10.99.0.2"), sidecar_of(own_api_server, tmp_path, namespace) as sidecar, traffic(sidecar) as clients:
            await clients.goes_to("1")
            await off_loop(own_api_server.kill)
            found = await until_problem(sidecar, "cannot be read")
            assert [one["address"] for one in found["endpoints"]] == [f"10.99.0.1:{PORT}"]
            await clients.goes_to("1", rounds=50)
            await off_loop(own_api_server.start)
            await cluster.put("orders-a", "10.99.0.2")
            await clients.goes_to("2")
            assert (await until_problem(sidecar, ""))["problem"] == ""

    uvloop.run(main())


def test_a_missing_right_is_named_and_when_it_is_given_the_endpoints_come(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    async def main() -> None:
        admin = api_server.admin
        await Cluster(api_server, namespace).put("orders-a", "10.99.0.1")
        admin.service_account(namespace, "pod")
        user = {"token": admin.token(namespace, "pod")}
        async with pods("10.99.0.1"), sidecar_of(api_server, tmp_path, namespace, user=user) as sidecar:
            rule = "{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]} in namespace " + namespace
            await until_problem(sidecar, rule)
            await off_loop(admin.allow, namespace, "pod", [READ])
            await sidecar.await_for("service_restored")
            async with traffic(sidecar) as clients:
                await clients.goes_to("1")

    uvloop.run(main())


def test_without_any_access_to_a_cluster_the_rest_of_the_document_works(tmp_path: Path) -> None:
    async def main() -> None:
        doc = document(orders={"name": "orders", "port": "http"})
        doc["upstreams"].append({"name": "app", "targets": [{"url": f"http://10.99.0.1:{PORT}"}]})
        doc["routes"].append({"name": "rest", "backendRefs": [{"name": "app"}]})
        env = {"HOME": str(tmp_path), "KUBECONFIG": "", "KUBERNETES_SERVICE_HOST": ""}
        async with pods("10.99.0.1"), Sidecar(doc, env=env) as sidecar, await RawClient.open(sidecar.port()) as client:
            assert (await client.request("/")).body == b"1"
            assert (await client.request("/orders")).status == 503
            found = await until_problem(sidecar, "kubeconfig")
            assert found["endpoints"] == []

    uvloop.run(main())


def test_a_pod_that_listens_on_one_family_only_is_reached_there(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    async def main() -> None:
        cluster = Cluster(api_server, namespace)
        await cluster.put("orders-4", "10.99.0.3")
        await cluster.put("orders-6", "fd99::3", family="IPv6")
        async with pods("fd99::3"), sidecar_of(api_server, tmp_path, namespace) as sidecar, traffic(sidecar) as clients:
            await clients.goes_to("3")
            assert [one["address"] for one in (await upstream(sidecar))["endpoints"]] == [f"10.99.0.3:{PORT}"]
            await cluster.delete("orders-4")
            await clients.goes_to("3")

    uvloop.run(main())


def test_an_edit_of_the_document_that_names_other_services_changes_what_is_watched(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    async def main() -> None:
        cluster = Cluster(api_server, namespace)
        await cluster.put("orders-a", "10.99.0.1")
        static = document()
        static["upstreams"] = [{"name": "orders", "targets": [{"url": f"http://10.99.0.2:{PORT}"}]}]
        followed = document(orders={"name": "orders", "port": PORT, "namespace": namespace})
        async with pods("10.99.0.1", "10.99.0.2"), sidecar_of(api_server, tmp_path, namespace, static) as sidecar:
            async with traffic(sidecar) as clients:
                await clients.goes_to("2")
                await sidecar.aapply(followed)
                await clients.goes_to("1")
                assert (await upstream(sidecar))["source"] == "service"
                await sidecar.aapply(static)
                await clients.goes_to("2")

    uvloop.run(main())
