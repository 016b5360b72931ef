"""Certificates of real Secrets, read through the real client with no more rights than a Role gives for one name."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest
import uvloop
from support.apiserver import ApiServer
from support.certificates import Pair, authority, issue

from sidecar.kube.connect import make_hub
from sidecar.kube.objects import CONFIG_MAPS
from sidecar.kube.secrets import ca_bundle, key_pair
from sidecar.tls.material import CaBundle, KeyPair

CA = authority("test")


def data(pair: Pair) -> dict[str, str]:
    return {"tls.crt": base64.b64encode(pair.pem).decode(), "tls.key": base64.b64encode(pair.key_pem).decode()}


async def until(condition) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


def rule(resource: str, name: str) -> dict[str, list[str]]:
    return {"apiGroups": [""], "resources": [resource], "resourceNames": [name], "verbs": ["list", "watch"]}


def test_a_secret_is_followed_through_rotation_deletion_and_creation_with_a_role_for_its_name_alone(
    api_server: ApiServer, namespace: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two, three = (issue(CA, name) for name in ("one", "two", "three"))
    admin = api_server.admin

    async def call(method, *args, **fields) -> None:
        await asyncio.to_thread(method, *args, **fields)

    async def main() -> None:
        await call(admin.create, "Secret", namespace, "orders-tls", type="kubernetes.io/tls", data=data(one))
        await call(admin.create, "Secret", namespace, "other-tls", type="kubernetes.io/tls", data=data(one))
        await call(admin.create, "ConfigMap", namespace, "ca", data={"ca.crt": CA.pem.decode()})
        await call(admin.service_account, namespace, "pod", [rule("secrets", "orders-tls"), rule("configmaps", "ca")])
        token = await asyncio.to_thread(admin.token, namespace, "pod")
        hub = make_hub(api_server.kubeconfig(tmp_path / "config", namespace=namespace, user={"token": token}), "")
        pairs: list[KeyPair] = []
        bundles: list[CaBundle] = []
        try:
            pair = key_pair(hub, "", "orders-tls", pairs.append)
            bundle = ca_bundle(hub, CONFIG_MAPS, namespace, "ca", "ca.crt", bundles.append)
            other = key_pair(hub, namespace, "other-tls", pairs.append)
            await asyncio.gather(pair.settled(), bundle.settled(), other.settled())
            assert (pair.value, bundle.value) == (KeyPair(one.pem, one.key_pem), CaBundle(CA.pem))
            assert "resources: [secrets], resourceNames: [other-tls], verbs: [list, watch]" in other.problem
            other.close()

            await call(admin.patch, "Secret", namespace, "orders-tls", {"data": data(two)})
            await until(lambda: pair.value == KeyPair(two.pem, two.key_pem))
            await call(admin.patch, "Secret", namespace, "orders-tls", {"data": {"tls.key": data(one)["tls.key"]}})
            await until(lambda: "does not belong" in pair.problem)
            await call(admin.delete, "Secret", namespace, "orders-tls")
            await until(lambda: "deleted" in pair.problem)
            assert pair.value == KeyPair(two.pem, two.key_pem)
            await call(admin.create, "Secret", namespace, "orders-tls", type="kubernetes.io/tls", data=data(three))
            await until(lambda: not pair.problem)
            assert pairs == [KeyPair(p.pem, p.key_pem) for p in (one, two, three)]
        finally:
            await hub.aclose()

    caplog.set_level("DEBUG")
    uvloop.run(main())
    logged = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "certificate_loaded" in logged
    for pair in (one, two, three):
        assert data(pair)["tls.key"][40:100] not in logged
        assert pair.key_pem.decode().splitlines()[1] not in logged
