"""Which Transport an upstream gets. The libraries of those that are not used are never imported."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterable
from typing import Final

from sidecar.model.snapshot import Client, HttpProtocol, Upstream
from sidecar.observe.observer import Observer
from sidecar.upstream.native import Addresses, ConnectFailed, NativeTransport, Secure
from sidecar.upstream.transport import Transport

_MODULES: Final = {
    (Client.AIOHTTP, HttpProtocol.HTTP1): "sidecar.upstream.aiohttp_client",
    (Client.HTTPX, HttpProtocol.HTTP1): "sidecar.upstream.httpx_client",
    (Client.HTTPX, HttpProtocol.HTTP2): "sidecar.upstream.http2_transport",
    (Client.HTTPX, HttpProtocol.H2C): "sidecar.upstream.http2_transport",
}
"""Each has a `make` with the signature of `make_transport`. What is not here is Native's."""


class ClientRefused(Exception):
    """The library of a client is not installed. `path`: the place in the document that asks for it; the text is for people."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


async def load_clients(upstreams: Iterable[Upstream]) -> None:
    """Import what `upstreams` need, in a thread: it takes up to a second. Raises ClientRefused."""
    for index, config in enumerate(upstreams):
        module = _MODULES.get((config.client, config.protocol))
        if module is not None and module not in sys.modules:
            try:
                await asyncio.to_thread(importlib.import_module, module)
            except ImportError as error:
                raise ClientRefused(
                    f"upstreams[{index}].client",
                    f"{config.client.value} needs {error.name or 'a library'}, which this installation does not have "
                    f"(pip install 'outrider[{config.client.value.lower()}]', or client: Native)",
                ) from error


def make_transport(config: Upstream, addresses: Addresses, observer: Observer, connect_failed: ConnectFailed, secure: Secure) -> Transport:
    """A transport for `config.client` and `config.protocol`. Imports what `load_clients` has not imported."""
    module = _MODULES.get((config.client, config.protocol))
    if module is None:
        return NativeTransport(config, addresses, observer, connect_failed, secure)
    made: Transport = importlib.import_module(module).make(config, addresses, observer, connect_failed, secure)
    return made


def same_transport(one: Upstream, other: Upstream) -> bool:
    """Whether a transport for the one can go on for the other."""
    return (one.client, one.protocol) == (other.client, other.protocol)
