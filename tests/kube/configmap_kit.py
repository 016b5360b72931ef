"""A ConfigMap, a sidecar that follows it, and traffic that must not notice (`test_configmap_live.py`, `test_configmap_outages.py`)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import RawClient, ScriptedUpstream, Sidecar
from support.apiserver import ApiServer
from support.documents import one_upstream
from support.upstream import answer, response

NAME = "orders-sidecar"
READ = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [NAME], "verbs": ["get", "list", "watch"]}
WRITE = {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]}


def document(upstream: int = 1, timeout: int = 2, **more: Any) -> str:
    return json.dumps(one_upstream(upstream, lifecycle={"drainDelay": "0s", "drainTimeout": f"{timeout}s"}, **more))


MISTAKE = document(lifecycle_=1)


class Shop:
    """A namespace with (or without) the ConfigMap, and the flags of a sidecar that follows it."""

    def __init__(self, server: ApiServer, namespace: str, folder: Path, user: dict[str, Any] | None = None, **cluster: Any) -> None:
        self.admin, self.namespace = server.admin, namespace
        self.kubeconfig = server.kubeconfig(folder / "kubeconfig", namespace=namespace, user=user, **cluster)
        self.flags = [f"--configmap={namespace}/{NAME}", f"--kubeconfig={self.kubeconfig}"]
        self.alone = [*self.flags, "--config="]
        """Without a file."""

    def write(self, text: str, **fields: Any) -> str:
        """Create or change the ConfigMap; its resourceVersion."""
        found = self.admin.apply("ConfigMap", self.namespace, NAME, **{"data": {"sidecar.yaml": text}, **fields})
        return str(found["metadata"]["resourceVersion"])

    def delete(self) -> None:
        self.admin.delete("ConfigMap", self.namespace, NAME)

    def events(self) -> list[dict[str, Any]]:
        return sorted(self.admin.list("Event", self.namespace), key=lambda one: str(one["eventTime"]))

    def wait_for_events(self, count: int) -> list[dict[str, Any]]:
        """They wait for up to two seconds before they are written."""
        deadline = time.monotonic() + 20
        while len(found := self.events()) < count:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found


def get(port: int, target: str) -> tuple[int, bytes]:
    async def ask() -> tuple[int, bytes]:
        async with await RawClient.open(port) as client:
            reply = await client.request(target, host="localhost")
            return reply.status, reply.body

    return asyncio.run(ask())


def admin(sidecar: Sidecar, target: str) -> Any:
    return json.loads(get(sidecar.admin_port, target)[1])


def probe(sidecar: Sidecar, path: str) -> int:
    return get(int(sidecar.wait_for("starting")["status"].rpartition(":")[2]), path)[0]


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def metric(sidecar: Sidecar, line: str) -> float:
    text = get(sidecar.status_port, "/metrics")[1].decode()
    return sum(float(row.rpartition(" ")[2]) for row in text.splitlines() if row.startswith(f"outrider_{line}"))


def under_traffic(script: Callable[[Sidecar, int], None], write: Callable[[str], object], *flags: str) -> None:
    """Run `script` while four connections send requests through a sidecar; every one of them must get its 200."""

    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"hello"))) as upstream:
            write(document(upstream.port))
            async with Sidecar(None, flags=flags) as sidecar:
                port, stop, count = sidecar.port(), asyncio.Event(), 0

                async def load() -> None:
                    nonlocal count
                    async with await RawClient.open(port) as client:
                        while not stop.is_set():
                            reply = await client.request()
                            assert (reply.status, reply.body, reply.get("connection")) == (200, b"hello", None)
                            count += 1
                            await asyncio.sleep(0.005)

                loads = [asyncio.create_task(load()) for _ in range(4)]
                working = asyncio.create_task(asyncio.to_thread(script, sidecar, upstream.port))
                try:
                    await asyncio.wait([*loads, working], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    stop.set()
                    await asyncio.gather(working, *loads)
                assert count > 100

    asyncio.run(main())


def account(server: ApiServer, namespace: str, rules: list[dict[str, list[str]]]) -> dict[str, Any]:
    """A ServiceAccount with exactly these rights, as a kubeconfig's user."""
    server.admin.service_account(namespace, "pod", rules)
    return {"token": server.admin.token(namespace, "pod")}
