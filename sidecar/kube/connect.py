"""Makes the hub of a process: how its client comes about, and when the client's libraries are loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.kube.hub import Access, Hub

if TYPE_CHECKING:
    from aiohttp import TraceConfig

    from sidecar.kube.client import LeanClient


TraceConfigs = Callable[[], Iterable["TraceConfig"]]
"""Hooks for the client's session; asked once aiohttp is loaded."""


def make_hub(kubeconfig: Path | None, context: str, trace_configs: TraceConfigs = tuple) -> Hub:
    """A hub for `--kubeconfig` and `--context` ("": the current one). Nothing is loaded or read before somebody asks."""

    async def access() -> Access:
        connect = await asyncio.to_thread(_load)
        client = await connect(kubeconfig, context or None, trace_configs())
        return Access(client, client.namespace)

    return Hub(access)


def _load() -> Callable[[Path | None, str | None, Iterable[TraceConfig]], Awaitable[LeanClient]]:
    """A tenth of a second of imports, in a thread: documents from elsewhere need not wait for it. Raises KubeError."""
    from sidecar.kube.client import connect  # noqa: PLC0415 - see above
    from sidecar.kube.lean import library  # noqa: PLC0415 - see above

    library()
    return connect
