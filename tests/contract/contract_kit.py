"""The contract of a Transport: every kind of client against servers that are told what to do, exchange by exchange."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from contract_peers import Http1Peer, Http2Peer, Peer, Script
from support.tls import CA, server

from sidecar.model.endpoint import Endpoint
from sidecar.model.exchange import Attempt
from sidecar.model.head import CHUNKED, Field, ResponseHead
from sidecar.model.outbound import OutboundRequest
from sidecar.model.snapshot import Client, HttpProtocol, PoolLimits, Timeouts, Upstream
from sidecar.model.tls import UpstreamTls
from sidecar.policy.deadline import Deadlines
from sidecar.tls.contexts import alpn_of, client_context
from sidecar.tls.material import CaBundle
from sidecar.tls.store import Security
from sidecar.upstream.native import in_the_clear
from sidecar.upstream.transport import InboundResponse, PoolCounts, Transport
from sidecar.upstream.transports import make_transport

WAIT = 60.0
"""Seconds that anything here may take."""


@dataclass(frozen=True)
class Kind:
    """A client and what it speaks."""

    client: Client
    protocol: HttpProtocol = HttpProtocol.HTTP1
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.client.value}-{'HTTPS' if self.tls and not self.http2 else self.protocol.value}"

    @property
    def http2(self) -> bool:
        return self.protocol is not HttpProtocol.HTTP1


HTTP1 = [Kind(Client.NATIVE), Kind(Client.AIOHTTP), Kind(Client.HTTPX)]
HTTP2 = [Kind(Client.HTTPX, HttpProtocol.H2C)]
HTTP1_TLS = [Kind(kind.client, tls=True) for kind in HTTP1]
HTTP1 += HTTP1_TLS
HTTP2.append(Kind(Client.HTTPX, HttpProtocol.HTTP2, tls=True))
KINDS = HTTP1 + HTTP2


def of_kinds(kinds: Iterable[Kind]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", [pytest.param(kind, id=str(kind)) for kind in kinds])


every_kind = of_kinds(KINDS)
over_http1 = of_kinds(HTTP1)
over_http2 = of_kinds(HTTP2)


class Source:
    """A request body whose pieces come when the test says so (implements BodySource)."""

    def __init__(self, *pieces: bytes, length: int | None = None, trailers: Sequence[tuple[bytes, bytes]] = (), open_end: bool = False):
        """`length` None: chunked. `open_end`: more may follow, until `finish`."""
        self.length = CHUNKED if length is None else length
        self.trailers: list[Field] = [(name, name.lower(), value) for name, value in trailers]
        self._pieces = list(pieces)
        self._over = not open_end
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self.taken = 0

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._changed.set()

    def finish(self) -> None:
        self._over = True
        self._changed.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._changed.set()

    def ready(self) -> bool:
        return bool(self._pieces) or self._over or self._error is not None

    async def read(self) -> bytes:
        while not self.ready():
            self._changed.clear()
            await self._changed.wait()
        if self._pieces:
            piece = self._pieces.pop(0)
            self.taken += len(piece)
            return piece
        if self._error is not None:
            raise self._error
        return b""


@dataclass
class Answer:
    """A response, read to its end."""

    status: int
    reason: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    trailers: list[tuple[bytes, bytes]]

    def get(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.fields if key.lower() == name), None)


class Observer:
    """What upstreams report."""

    def __init__(self) -> None:
        self.connects: list[str] = []

    def upstream_connected(self, _upstream: str, result: str, _seconds: float) -> None:
        self.connects.append(result)


@dataclass
class Caller:
    """Sends through one transport to one peer."""

    transport: Transport
    endpoint: Endpoint
    observer: Observer
    interims: list[ResponseHead] = field(default_factory=list)
    attempt: Attempt = field(default_factory=lambda: Attempt(1, 0.0))
    deadlines: Deadlines = field(default_factory=lambda: Deadlines(Timeouts()))
    on_interim: Callable[[ResponseHead], None] | None = None

    @property
    def counts(self) -> PoolCounts:
        return self.transport.counts()

    async def send(
        self,
        method: bytes = b"GET",
        target: bytes = b"/",
        fields: Sequence[tuple[bytes, bytes]] = (),
        body: Source | None = None,
        *,
        upgrade: bytes = b"",
        wants_trailers: bool = False,
        timeouts: Timeouts | None = None,
    ) -> InboundResponse:
        """The response, not read yet."""
        lines = [(b"Host", b"host", b"upstream.test"), *((name, name.lower(), value) for name, value in fields)]
        if body is not None and body.length != CHUNKED:
            lines.append((b"Content-Length", b"content-length", b"%d" % body.length))
        request = OutboundRequest(method, target, lines, [(b"Via", b"1.1 outrider")], body.length if body else 0, body)
        request.upgrade, request.wants_trailers = upgrade, wants_trailers
        self.attempt, self.deadlines = Attempt(1, asyncio.get_running_loop().time()), Deadlines(timeouts or Timeouts())
        return await self.transport.send(self.endpoint, request, self.attempt, self.deadlines, self.on_interim or self.interims.append)

    async def ask(self, *args: Any, **more: Any) -> Answer:
        """The response, read and released."""
        async with asyncio.timeout(WAIT):
            response = await self.send(*args, **more)
            try:
                return await read(response)
            except BaseException:
                response.abort()
                raise


async def read(response: InboundResponse) -> Answer:
    """Read to the end and release."""
    body = response.body
    whole = b""
    while piece := await body.read():
        whole += piece
    trailers = [(name, value) for name, _, value in body.trailers]
    response.release()
    head = response.head
    return Answer(head.status, head.reason, [(name, value) for name, _, value in head.fields], whole, trailers)


def new_peer(kind: Kind, script: Script) -> Peer:
    return (Http2Peer if kind.http2 else Http1Peer)(script, ssl=tls_server(kind) if kind.tls else None)


def tls_server(kind: Kind) -> ssl.SSLContext:
    """What the server shows."""
    context = server()
    context.set_alpn_protocols(["h2"] if kind.http2 else ["http/1.1"])
    return context


@asynccontextmanager
async def calling(kind: Kind, script: Script | Peer, **limits: Any) -> AsyncIterator[tuple[Caller, Peer]]:
    """A transport of this kind and a server that plays `script` for each request. Nothing may be left at the end."""
    peer = script if isinstance(script, Peer) else new_peer(kind, script)
    async with peer:
        caller = caller_to(kind, peer.port, **limits)
        try:
            yield caller, peer
            await settled(caller)
        finally:
            await caller.transport.aclose()
    await until(lambda: not caller.counts.open, "every connection is gone")


def caller_to(kind: Kind, port: int, **limits: Any) -> Caller:
    """A caller to a port of this machine."""
    observer = Observer()

    async def addresses(_endpoint: Endpoint) -> Sequence[str]:
        return ("127.0.0.1",)

    tls = UpstreamTls(system_ca=False) if kind.tls else None
    config = Upstream(name="app", client=kind.client, protocol=kind.protocol, pool=PoolLimits(**limits), tls=tls)
    secure = in_the_clear
    if tls is not None:
        secured = {
            protocol: Security(client_context(tls, alpn_of(protocol), [CaBundle(CA.pem)], None), "127.0.0.1") for protocol in HttpProtocol
        }
        secure = lambda config, _endpoint: secured[config.protocol]  # noqa: E731 - one of two
    transport = make_transport(config, addresses, observer, lambda _endpoint: None, secure)  # type: ignore[arg-type]
    return Caller(transport, Endpoint("127.0.0.1", port, tls=kind.tls), observer)


async def settled(caller: Caller) -> None:
    """No exchange is in flight, and no count went astray."""
    await until(lambda: (caller.counts.active, caller.counts.connecting, caller.counts.pending) == (0, 0, 0), "nothing is in flight")
    assert 0 <= caller.counts.idle <= caller.counts.open


async def until(true: Callable[[], Any], what: str) -> None:
    try:
        async with asyncio.timeout(WAIT):
            while not true():
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"not within {WAIT} s: {what}") from None


async def within(waiting: Awaitable[Any]) -> Any:
    async with asyncio.timeout(WAIT):
        return await waiting
