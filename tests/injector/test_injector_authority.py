"""Certificates of the injector's own, at a real API server: made, shared by replicas, rotated, and mended when somebody breaks them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from injector.injector_kit import APP_PORT, Webhooks, eventually, injector, options, ours, pod
from support.apiserver import ApiServer
from support.certificates import authority
from support.kube_admin import Json, Refused

from sidecar.injector.certificates import COMMON_NAME, Authority, Lifetimes
from sidecar.injector.server import Injector, Options

SECRET = "outrider-injector-ca"
RULES = [
    {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [SECRET], "verbs": ["get", "list", "watch", "update"]},
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
]
CLUSTER_KINDS = ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"]


class Scene:
    """The injector's namespace with its Secret, another with pods, and the webhooks of one injector that API servers reach."""

    def __init__(self, server: ApiServer, namespace: str, folder: Path) -> None:
        self.server = server
        self.admin = server.admin
        self.namespace = namespace
        self.home = server.admin.namespace(f"{namespace}-home")
        self.folder = folder
        self.kubeconfig = server.kubeconfig(folder / "kubeconfig", namespace=namespace)
        self.webhooks: Webhooks

    def options(self, **fields: Any) -> Options:
        given: dict[str, Any] = {"kubeconfig": self.kubeconfig, **fields}
        return options(self.folder, namespace=self.home, webhooks=f"outrider-{self.namespace}", **given)

    @contextlib.asynccontextmanager
    async def running(self, lifetimes: Lifetimes | None = None, settle: float = 60.0) -> AsyncIterator[Injector]:
        """An injector that API servers call, ready."""
        async with injector(self.options(), lifetimes=lifetimes, settle=settle) as made:
            with Webhooks(self.server, self.namespace, made.addresses[0].port) as self.webhooks:
                await eventually(lambda: made.ready)
                yield made

    async def secret(self) -> Json:
        return await asyncio.to_thread(self.admin.get, "Secret", self.home, SECRET)

    async def bundles(self) -> set[bytes]:
        return set(await asyncio.to_thread(lambda: list(self.webhooks.bundles())))

    async def is_called(self) -> bool:
        """Whether the API server reaches the injector: a pod is injected. Refused when it fails to."""
        path = f"/api/v1/namespaces/{self.namespace}/pods?dryRun=All"
        return ours(await asyncio.to_thread(self.admin.request, "POST", path, pod(APP_PORT))) is not None


@pytest.fixture
def play(api_server: ApiServer, namespace: str, tmp_path: Path) -> Callable[[Callable[[Scene], Awaitable[None]]], None]:
    def run(script: Callable[[Scene], Awaitable[None]]) -> None:
        async def main() -> None:
            async with asyncio.timeout(100):
                await script(Scene(api_server, namespace, tmp_path))

        uvloop.run(main())

    return run


def shown(made: Injector, bundle: bytes, name: str) -> x509.Certificate:
    """The certificate that an injector shows to who trusts `bundle`; ssl.SSLError when it cannot be trusted."""
    context = ssl.create_default_context(cadata=bundle.decode())
    address = ("127.0.0.1", made.addresses[0].port)
    with socket.create_connection(address, 5) as plain, context.wrap_socket(plain, server_hostname=name) as connection:
        return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")


def parts(bundle: bytes) -> int:
    return bundle.count(b"BEGIN CERTIFICATE")


Play = Callable[[Callable[[Scene], Awaitable[None]]], None]


def test_the_first_start_makes_an_authority_and_puts_it_into_every_webhook(play: Play) -> None:
    async def script(scene: Scene) -> None:
        async with scene.running() as made:
            (bundle,) = await scene.bundles()
            leaf = await asyncio.to_thread(shown, made, bundle, f"outrider-injector.{scene.home}.svc")
            now = datetime.now(UTC)
            assert timedelta(days=6) < leaf.not_valid_after_utc - now < timedelta(days=7)
            assert leaf.not_valid_before_utc < now - timedelta(minutes=4)
            assert COMMON_NAME in leaf.issuer.rfc4514_string()
            owner = scene.admin.get("MutatingWebhookConfiguration", "", scene.webhooks.name)["metadata"]

            async def owned() -> list[str]:
                return [one["uid"] for one in (await scene.secret())["metadata"].get("ownerReferences", [])]

            while await owned() != [owner["uid"]]:  # the test's timeout ends it
                await asyncio.sleep(0.05)

    play(script)


def test_three_that_start_at_once_end_with_one_authority(play: Play) -> None:
    async def script(scene: Scene) -> None:
        async with contextlib.AsyncExitStack() as stack:
            all_three = [await stack.enter_async_context(injector(scene.options())) for _ in range(3)]
            with Webhooks(scene.server, scene.namespace, all_three[0].addresses[0].port) as scene.webhooks:
                await eventually(lambda: all(made.ready for made in all_three))
                bundles = await scene.bundles()
                assert {parts(bundle) for bundle in bundles} == {1}
                (bundle,) = bundles
                issuers = {(await asyncio.to_thread(shown, made, bundle, "localhost")).issuer for made in all_three}
                assert len(issuers) == 1
                created = [
                    one
                    for one in scene.server.requests(lambda one: one.verb == "create" and "/secrets" in one.uri)
                    if f"/{scene.home}/" in one.uri
                ]
                assert [one.code for one in created].count(201) == 1

    play(script)


def test_a_rotation_under_a_stream_of_pods_fails_none(play: Play, api_server: ApiServer) -> None:
    """Authorities of 18 s, leaves of 9 s: several rotations of both, seen by an API server that must not fail once."""

    async def script(scene: Scene) -> None:
        lifetimes = Lifetimes(authority=timedelta(seconds=18), leaf=timedelta(seconds=9))
        async with scene.running(lifetimes, settle=1.0) as made, injector(scene.options(), lifetimes=lifetimes, settle=1.0):
            loop = asyncio.get_running_loop()
            ends = loop.time() + 30
            authorities: set[bytes] = set()
            leaves: set[int] = set()
            pods = 0
            while loop.time() < ends:
                assert await scene.is_called()
                pods += 1
                bundle = min(await scene.bundles(), key=len)
                authorities.add(bundle.partition(b"-----END")[0])
                leaves.add((await asyncio.to_thread(shown, made, bundle, "localhost")).serial_number)
            assert len(authorities) >= 3
            assert len(leaves) >= 4
            assert pods > 50

    play(script)


def test_a_deleted_secret_is_made_anew_and_nobody_notices(play: Play) -> None:
    async def script(scene: Scene) -> None:
        async with scene.running() as made:
            (before,) = await scene.bundles()
            await asyncio.to_thread(scene.admin.delete, "Secret", scene.home, SECRET)
            while {parts(bundle) for bundle in await scene.bundles()} != {2}:
                assert await scene.is_called()
            (bundle,) = await scene.bundles()
            assert bundle.endswith(before)
            assert made.ready
            assert await scene.is_called()

    play(script)


@pytest.mark.parametrize(
    "data",
    [
        {"ca.crt": "bm90aGluZw==", "ca.key": "bm90aGluZw=="},
        {"ca.crt": b64encode(authority("a").pem).decode(), "ca.key": b64encode(authority("b").key_pem).decode()},
        {"tls.crt": "", "tls.key": ""},
        {},
    ],
    ids=["nonsense", "another's key", "other keys", "empty"],
)
def test_a_secret_that_is_of_no_use_is_replaced(play: Play, data: dict[str, str]) -> None:
    async def script(scene: Scene) -> None:
        scene.admin.create("Secret", scene.home, SECRET, data=data, metadata={"labels": {"keep": "me"}})
        async with scene.running():
            assert await scene.is_called()
            secret = await scene.secret()
            assert secret["metadata"]["labels"] == {"keep": "me"}
            assert "ownerReferences" not in secret["metadata"]
            assert set(secret["data"]) == {"ca.crt", "ca.key", "ca-previous.crt"}

    play(script)


def test_a_secret_that_becomes_nonsense_while_all_run_changes_nothing_for_pods(play: Play) -> None:
    async def script(scene: Scene) -> None:
        async with scene.running():
            (before,) = await scene.bundles()
            await asyncio.to_thread(
                scene.admin.patch, "Secret", scene.home, SECRET, {"data": {"ca.crt": "AAAA", "ca-previous.crt": "AAAA"}}
            )
            while {parts(bundle) for bundle in await scene.bundles()} != {2}:
                assert await scene.is_called()
            assert all(bundle.endswith(before) for bundle in await scene.bundles())

    play(script)


def test_a_secret_that_cannot_be_changed_is_named_with_what_to_do(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def script(scene: Scene) -> None:
        scene.admin.create("Secret", scene.home, SECRET, data={}, immutable=True)
        async with injector(scene.options()) as made:
            await eventually(lambda: any("delete it" in record.getMessage() for record in caplog.records))
            assert not made.ready
            await asyncio.to_thread(scene.admin.delete, "Secret", scene.home, SECRET)
            with Webhooks(scene.server, scene.namespace, made.addresses[0].port):
                await eventually(lambda: made.ready)

    play(script)


@pytest.mark.parametrize("foreign", ["", b64encode(authority("somebody else").pem).decode()], ids=["emptied", "another's"])
def test_a_clobbered_bundle_is_mended(play: Play, foreign: str) -> None:
    async def script(scene: Scene) -> None:
        async with scene.running():
            before = await scene.bundles()
            await asyncio.to_thread(scene.webhooks.clobber, foreign)
            while await scene.bundles() != before:  # the test's timeout ends it
                await asyncio.sleep(0.05)
            while True:
                with contextlib.suppress(Refused):  # until the API server has heard of it
                    assert await scene.is_called()
                    break

    play(script)


def test_an_authority_of_ones_own_is_used_and_kept(play: Play) -> None:
    async def script(scene: Scene) -> None:
        own = Authority.make(datetime.now(UTC), timedelta(days=3650))
        data = {"ca.crt": b64encode(own.pem).decode(), "ca.key": b64encode(own.key_pem).decode()}
        scene.admin.create("Secret", scene.home, SECRET, data=data)
        async with scene.running():
            assert await scene.bundles() == {own.pem}
            assert (await scene.secret())["data"] == data

    play(script)


def test_these_rights_are_enough(play: Play, api_server: ApiServer) -> None:
    """What the chart grants: a Role for the Secret, a ClusterRole for the two configurations by name and for Events."""

    async def script(scene: Scene) -> None:
        account, name = "injector", f"outrider-{scene.namespace}"
        scene.admin.service_account(scene.home, account, RULES)
        configurations = {
            "apiGroups": ["admissionregistration.k8s.io"],
            "resources": CLUSTER_KINDS,
            "resourceNames": [name],
            "verbs": ["get", "list", "watch", "patch"],
        }
        events = {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]}
        scene.admin.create("ClusterRole", "", name, rules=[configurations, events])
        scene.admin.create(
            "ClusterRoleBinding",
            "",
            name,
            roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            subjects=[{"kind": "ServiceAccount", "name": account, "namespace": scene.home}],
        )
        token = scene.admin.token(scene.home, account)
        scene.kubeconfig = api_server.kubeconfig(scene.folder / "account", user={"token": token}, namespace=scene.namespace)
        async with scene.running():
            assert await scene.is_called()
            (before,) = await scene.bundles()
            await asyncio.to_thread(scene.admin.patch, "Secret", scene.home, SECRET, {"data": {"ca.crt": "AAAA"}})
            while await scene.bundles() == {before}:
                await asyncio.sleep(0.05)
            await asyncio.to_thread(scene.admin.create, "Pod", scene.namespace, "bad", spec=pod()["spec"])
            while not await asyncio.to_thread(scene.admin.list, "Event", scene.namespace):
                await asyncio.sleep(0.05)

    play(script)


def test_without_a_way_to_an_api_server_the_probe_says_why(play: Play) -> None:
    async def script(scene: Scene) -> None:
        (scene.folder / "empty").write_text("{}")
        async with injector(scene.options(kubeconfig=scene.folder / "empty")) as made:
            await eventually(lambda: "kubeconfig" in made._certificates.problem)
            assert not made.ready

    play(script)
