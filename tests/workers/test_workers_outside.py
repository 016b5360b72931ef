"""What several processes have to do with the outside: the API server once, collectors as one or each for itself."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

from support import RawClient, ScriptedUpstream
from support.certificates import Pair, issue
from support.fake_kube import FOREVER, Answer, FakeKube, event, listing
from support.otlp import Collector
from support.otlp_metrics import Receiver
from support.tls import CA, LOCAL, client, write
from support.upstream import Connection
from workers_kit import IN, PATIENCE, admin, close, document, kill, metrics, of_workers, open_client, pids, says, status, total, until


def endpoint_slice(port: int, *addresses: str) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "orders-1", "namespace": "shop", "resourceVersion": "2", "labels": {"kubernetes.io/service-name": "orders"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }


def after(gate: asyncio.Event, one: dict[str, Any]) -> Answer:
    """A watch that tells of this event when the gate opens."""

    async def play(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        await gate.wait()
        line = json.dumps(one).encode() + b"\n"
        await connection.send(b"%x\r\n%s\r\n" % (len(line), line))
        await asyncio.sleep(FOREVER)

    return play


def test_a_service_is_watched_once_and_its_endpoints_reach_all_workers_also_one_that_comes_later(tmp_path: Path) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with ScriptedUpstream(says(b"one")) as one, ScriptedUpstream(says(b"two")) as two:
            watches = [after(gate, event("MODIFIED", endpoint_slice(two.port, "127.0.0.1")))]
            async with FakeKube([listing(1, endpoint_slice(one.port, "127.0.0.1"))], watches) as kube:
                config = kube.kubeconfig(tmp_path / "config", namespace="shop")
                text = document(1, upstreams=[{"name": "app", "service": {"name": "orders", "namespace": "shop", "port": "http"}}])
                async with of_workers(3, text, f"--kubeconfig={config}") as sidecar:
                    clients = [await open_client(sidecar) for _ in range(6)]

                    async def all_have(text: bytes) -> bool:
                        return {(await client.request()).body for client in clients} == {text}

                    await until(lambda: all_have(b"one"))
                    assert (len(kube.of("list")), len(kube.of("watch"))) == (1, 1)
                    gate.set()
                    await until(lambda: all_have(b"two"))
                    await close(*clients)
                    kill((await pids(sidecar))[0])
                    await sidecar.await_for("worker_started", count=4)
                    clients = [await open_client(sidecar) for _ in range(6)]
                    await until(lambda: all_have(b"two"))
                    await close(*clients)
                    assert (len(kube.of("list")), len(kube.of("watch"))) == (1, 1)
                    numbers = await metrics(sidecar)
                    assert numbers["outrider_kube_watches", 'resource="endpointslices",state="connected"'] == 1
                    assert numbers["outrider_upstream_endpoints", 'upstream="app",state="healthy"'] == 1
                    (shown,) = await admin(sidecar, "/upstreams")
                    assert [endpoint["address"] for endpoint in shown["endpoints"]] == [f"127.0.0.1:{two.port}"]

    asyncio.run(main())


def test_spans_come_from_each_worker_with_a_name_of_its_own() -> None:
    async def main() -> None:
        async with Collector() as collector, ScriptedUpstream(says(b"x")) as upstream:
            tracing = {"exporter": "OTLP", "endpoint": collector.url, "sampler": "AlwaysOn"}
            text = document(upstream.port, telemetry={"tracing": tracing})
            async with of_workers(2, text, env={"POD_NAME": "orders-0", "POD_NAMESPACE": "shop"}) as sidecar:
                clients = []

                async def both() -> bool:
                    clients.append(await open_client(sidecar))
                    assert (await clients[-1].request()).status == 200
                    spans = await collector.wait(2 * len(clients), PATIENCE)
                    assert len({span.trace_id for span in spans}) == len(clients)
                    return {span.resource["service.instance.id"] for span in spans} == {f"shop.orders-0.outrider.{n}" for n in (0, 1)}

                await until(both)
                await close(*clients)
                assert total(await metrics(sidecar), "outrider_spans_dropped_total") == 0

    asyncio.run(main())


def test_metrics_go_to_a_collector_once_with_the_sums() -> None:
    async def main() -> None:
        with Receiver() as receiver:
            async with ScriptedUpstream(says(b"x")) as upstream:
                text = document(upstream.port, telemetry={"metrics": {"otlp": {"endpoint": receiver.url, "interval": "1s"}}})
                async with of_workers(2, text) as sidecar:
                    clients = [await open_client(sidecar) for _ in range(4)]
                    for client in clients:
                        assert (await client.request()).status == 200
                    await close(*clients)
                    assert await sidecar.astop() == 0
            last = max(point.as_int or point.as_double for _, point in receiver.points("outrider_requests"))
            assert last == 4
            instances = {
                attribute.value.string_value
                for request in receiver.requests
                for resource in request.resource_metrics
                for attribute in resource.resource.attributes
                if attribute.key == "service.instance.id"
            }
            assert len(instances) == 1

    asyncio.run(main())


def test_exemplars_of_every_worker_are_shown() -> None:
    async def main() -> None:
        async with Collector() as collector, ScriptedUpstream(says(b"x")) as upstream:
            tracing = {"exporter": "OTLP", "endpoint": collector.url, "sampler": "AlwaysOn"}
            async with of_workers(2, document(upstream.port, telemetry={"tracing": tracing})) as sidecar:
                clients = [await open_client(sidecar) for _ in range(2)]
                for client in clients:
                    assert (await client.request()).status == 200
                await close(*clients)
                spans = await collector.wait(4, PATIENCE)
                _, text = await status(sidecar, "/metrics", "Accept: application/openmetrics-text\r\n")
                assert any(f'trace_id="{span.trace_id}"' in text for span in spans)
                assert text.endswith("# EOF\n")

    asyncio.run(main())


def test_the_admin_page_counts_what_all_workers_do() -> None:
    async def main() -> None:
        async with ScriptedUpstream(says(b"x")) as upstream, of_workers(2, document(upstream.port)) as sidecar:
            clients = [await open_client(sidecar) for _ in range(4)]
            for client in clients:
                for _ in range(5):
                    assert (await client.request()).status == 200

            async def counted() -> bool:
                return "20 since the start" in (await admin(sidecar, "/page"))["parts"]["tiles"]

            await until(counted)
            await close(*clients)

    asyncio.run(main())


def secret(pair: Pair) -> dict[str, Any]:
    data = {"tls.crt": base64.b64encode(pair.pem).decode(), "tls.key": base64.b64encode(pair.key_pem).decode()}
    metadata = {"name": "in-tls", "namespace": "shop", "resourceVersion": "2"}
    return {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata, "data": data}


async def shown(port: int) -> str:
    """The name in the certificate that a new connection is shown."""
    async with await RawClient.open(port, ssl=client(), timeout=PATIENCE) as one:
        assert (await one.request("/")).status == 200
        return str(one.certificate()["subject"][0][0][1])


def test_a_certificate_of_a_secret_is_watched_once_and_every_worker_shows_it_and_its_successor(tmp_path: Path) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        first, second = (issue(CA, name, hosts=["127.0.0.1"]) for name in ("first", "second"))
        async with ScriptedUpstream(says(b"x")) as upstream:
            async with FakeKube([listing(1, secret(first))], [after(gate, event("MODIFIED", secret(second)))]) as kube:
                config = kube.kubeconfig(tmp_path / "config", namespace="shop")
                text = document(upstream.port, {**IN, "tls": {"certificateRef": {"name": "in-tls", "namespace": "shop"}}})
                async with of_workers(2, text, f"--kubeconfig={config}") as sidecar:
                    port = sidecar.port()

                    async def served() -> bool:
                        try:
                            return await shown(port) == "first"
                        except (OSError, asyncio.IncompleteReadError):  # no certificate yet
                            return False

                    await until(served)
                    gate.set()

                    async def both_have_it() -> bool:
                        return [await shown(port) for _ in range(6)] == ["second"] * 6

                    await until(both_have_it)
                    kill((await pids(sidecar))[0])
                    await sidecar.await_for("worker_started", count=3)
                    await until(both_have_it)
                    assert (len(kube.of("list")), len(kube.of("watch"))) == (1, 1)
                    numbers = await metrics(sidecar)
                    assert numbers["outrider_certificate_current", 'source="Secret shop/in-tls"'] == 1
                    assert not any("PRIVATE KEY" in line for line in sidecar.lines)

    asyncio.run(main())


def test_a_certificate_file_that_is_missing_changes_nothing_in_any_worker(tmp_path: Path) -> None:
    files = write(tmp_path, local=LOCAL)

    async def main() -> None:
        async with ScriptedUpstream(says(b"x")) as upstream:
            good = {"certFile": files["local.crt"], "keyFile": files["local.key"]}
            async with of_workers(2, document(upstream.port, {**IN, "tls": good})) as sidecar:
                bad = {**good, "keyFile": str(tmp_path / "nowhere.key")}
                line = await asyncio.to_thread(sidecar.refuse, document(upstream.port, {**IN, "tls": bad}))
                assert "listeners[0].tls: " in line["problems"][0]
                for _ in range(4):
                    async with await RawClient.open(sidecar.port(), ssl=client(), timeout=PATIENCE) as one:
                        assert (await one.request("/")).status == 200

    asyncio.run(main())
