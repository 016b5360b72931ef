"""TLS from Secrets of a real API server: they may come later, are rotated under load, and their absence is told by name."""

from __future__ import annotations

import asyncio
import base64
import ssl
from pathlib import Path
from typing import Any

import aiohttp
from support import RawClient, ScriptedUpstream, Sidecar, answer, response
from support.apiserver import ApiServer
from support.certificates import Pair, issue
from support.tls import CA, CLIENT, client, server

LONG = 60.0


def data(pair: Pair) -> dict[str, str]:
    return {"tls.crt": base64.b64encode(pair.pem).decode(), "tls.key": base64.b64encode(pair.key_pem).decode()}


def rule(resource: str, name: str) -> dict[str, list[str]]:
    return {"apiGroups": [""], "resources": [resource], "resourceNames": [name], "verbs": ["list", "watch"]}


def document(upstream: str, namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "SidecarConfig",
        "listeners": [{"name": "inbound", "port": 0, "bind": "127.0.0.1", "tls": {"certificateRef": {"name": "orders-tls"}}}],
        "upstreams": [
            {
                "name": "app",
                "targets": [{"url": upstream}],
                "tls": {
                    "caCertificateRefs": [{"kind": "ConfigMap", "name": "ca", "namespace": namespace}],
                    "wellKnownCACertificates": "None",
                    "clientCertificateRef": {"name": "me", "namespace": namespace},
                },
            }
        ],
        "routes": [{"name": "all", "backendRefs": [{"name": "app"}]}],
    }


def test_secrets_come_later_and_are_rotated_under_load_without_one_failed_request(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    admin = api_server.admin
    shown: set[str] = set()
    ended = asyncio.Event()

    async def call(method: Any, *args: Any, **fields: Any) -> None:
        await asyncio.to_thread(method, *args, **fields)

    async def shaken(port: int) -> RawClient | None:
        try:
            return await RawClient.open(port, ssl=client())
        except (ssl.SSLError, ConnectionError):
            return None

    async def load(port: int) -> int:
        served = 0
        while not ended.is_set():
            async with await RawClient.open(port, ssl=client()) as one:
                shown.add(one.certificate()["subject"][0][0][1])
                for _ in range(20):
                    assert (await one.request("/")).status == 200
                    served += 1
        return served

    async def until_served(port: int) -> None:
        async with asyncio.timeout(LONG):
            while True:
                one = await shaken(port)
                if one is not None:
                    async with one:
                        if (await one.request("/")).status == 200:
                            return
                await asyncio.sleep(0.05)

    async def main() -> None:
        await call(
            admin.service_account, namespace, "pod", [rule("secrets", "orders-tls"), rule("secrets", "me"), rule("configmaps", "ca")]
        )
        token = await asyncio.to_thread(admin.token, namespace, "pod")
        path = api_server.kubeconfig(tmp_path / "config", namespace=namespace, user={"token": token})
        async with ScriptedUpstream(answer(response(body=b"x")), ssl=server(clients=CA)) as fake:
            async with Sidecar(document(fake.url, namespace), flags=[f"--kubeconfig={path}"]) as sidecar:
                port = sidecar.port()
                assert await shaken(port) is None, "there is no certificate yet"
                await sidecar.await_for("handshake_failed", result="not_configured")
                async with aiohttp.ClientSession(f"http://127.0.0.1:{sidecar.admin_port}") as session:
                    listed = await (await session.get("/listeners")).json()
                    assert "Secret orders-tls: it does not exist" in listed[0]["problem"]
                    upstreams = await (await session.get("/upstreams")).json()
                    assert f"ConfigMap {namespace}/ca: it does not exist" in upstreams[0]["problem"]
                await call(
                    admin.create,
                    "Secret",
                    namespace,
                    "orders-tls",
                    type="kubernetes.io/tls",
                    data=data(issue(CA, "one", hosts=["127.0.0.1"])),
                )
                await call(admin.create, "Secret", namespace, "me", type="kubernetes.io/tls", data=data(CLIENT))
                await call(admin.create, "ConfigMap", namespace, "ca", data={"ca.crt": CA.pem.decode()})
                await until_served(port)
                tasks = [asyncio.ensure_future(load(port)) for _ in range(2)]
                for name in ("two", "three"):
                    await call(admin.patch, "Secret", namespace, "orders-tls", {"data": data(issue(CA, name, hosts=["127.0.0.1"]))})
                    await call(admin.patch, "Secret", namespace, "me", {"data": data(issue(CA, name, client=True))})
                    async with asyncio.timeout(LONG):
                        while name not in shown or name not in callers(fake):
                            await asyncio.sleep(0.02)
                ended.set()
                assert min(await asyncio.gather(*tasks)) > 0

    asyncio.run(main())


def callers(fake: ScriptedUpstream) -> set[str]:
    return {connection.certificate()["subject"][0][0][1] for connection in fake.connections}


def test_a_missing_right_is_named_with_the_rule_that_gives_it(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    admin = api_server.admin

    async def main() -> None:
        await asyncio.to_thread(admin.service_account, namespace, "pod", [rule("secrets", "me"), rule("configmaps", "ca")])
        token = await asyncio.to_thread(admin.token, namespace, "pod")
        path = api_server.kubeconfig(tmp_path / "config", namespace=namespace, user={"token": token})
        async with Sidecar(document("https://127.0.0.1:1", namespace), flags=[f"--kubeconfig={path}"]) as sidecar:
            await sidecar.await_for("certificate_failed", count=3)
            said = "\n".join(line["message"] for line in sidecar.events("certificate_failed"))
            assert "resources: [secrets], resourceNames: [orders-tls], verbs: [list, watch]" in said

    asyncio.run(main())
