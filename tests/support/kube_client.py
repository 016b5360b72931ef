"""The real client of an API server, closed at the end of its block."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import uvloop

from sidecar.kube.access import find
from sidecar.kube.client import LeanClient
from sidecar.kube.objects import CONFIG_MAPS, Selection
from support.apiserver import ApiServer


@contextlib.asynccontextmanager
async def client_of(kubeconfig: Path) -> AsyncIterator[LeanClient]:
    """As somebody with a kubeconfig."""
    client = LeanClient(find(kubeconfig, None, environ={}))
    try:
        yield client
    finally:
        await client.aclose()


@contextlib.asynccontextmanager
async def client_in_pod(server: ApiServer, folder: Path) -> AsyncIterator[LeanClient]:
    """As a pod whose ServiceAccount's files are in `folder`."""
    environ: Mapping[str, str] = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.port)}
    client = LeanClient(find(None, None, environ=environ, pod=folder))
    try:
        yield client
    finally:
        await client.aclose()


def whoami(server: ApiServer, kubeconfig: Path, namespace: str) -> str:
    """The user as whom the API server sees somebody with this kubeconfig. Raises KubeError."""

    async def ask() -> None:
        async with client_of(kubeconfig) as client:
            await client.list(Selection(CONFIG_MAPS, namespace, name="whoami"))

    uvloop.run(ask())
    return server.requests(lambda request: "metadata.name%3Dwhoami" in request.uri and f"/{namespace}/" in request.uri)[-1].user
