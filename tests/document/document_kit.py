"""What the tests of the document share: the chain from a document to a running data plane, in this process.

`@proves("listeners[].maxHeaderBytes", ...)` marks what a test shows to have its effect; `test_document_fields.py` compares
the marks with the model, so that no field (and no value of a closed list) comes in that is read and then ignored.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import uvloop
from support import Connection, RawClient, Response, Script, ScriptedUpstream, response
from support.engine import Recorder

from sidecar.config.certificate_files import CertificateFiles
from sidecar.config.load import Loaded, Problems, load
from sidecar.model.snapshot import Listener
from sidecar.model.tls import Handshake
from sidecar.proxy.pipeline import Proxy
from sidecar.proxy.plan import make_plan
from sidecar.proxy.timekeeper import Timekeeper
from sidecar.server.listeners import Listeners
from sidecar.server.port import Handler
from sidecar.tls.store import Follow, TlsStore
from sidecar.upstream.registry import Registry
from sidecar.upstream.resolver import Resolver
from sidecar.upstream.service import FollowService

LONG = 60.0
"""A bound on a test as a whole, never what it measures."""
SHORT = "100ms"
"""A clock that is meant to fire."""
Document = dict[str, Any]
Test = TypeVar("Test", bound=Callable[..., object])


def proves(*fields: str) -> Callable[[Test], Test]:
    """Mark a test with the fields whose effect it shows: `path[].to.field`, or `path[].to.field=Value`."""

    def mark(test: Test) -> Test:
        test.proves = (*fields, *getattr(test, "proves", ()))  # type: ignore[attr-defined]  # read by test_document_fields.py
        return test

    return mark


def under(prefix: str, *names: str) -> tuple[str, ...]:
    """`prefix.name` for each name."""
    return tuple(f"{prefix}.{name}" for name in names)


def live(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an `async def` test on the loop that production uses."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(LONG):
                await test(*args, **kwargs)

        uvloop.run(bounded())

    return run


# Documents

INBOUND: Document = {"name": "inbound", "port": 0, "bind": "127.0.0.1"}
OUTBOUND: Document = {"name": "outbound", "port": 0, "bind": "127.0.0.1", "mode": "Forward"}


def upstream_at(*urls: int | str, name: str = "app", **more: Any) -> Document:
    """An upstream of static targets: loopback ports, or URLs."""
    return {"name": name, "targets": [{"url": url if isinstance(url, str) else f"http://127.0.0.1:{url}"} for url in urls], **more}


def document(
    *urls: int | str, listener: Document | None = None, up: Document | None = None, route: Document | None = None, **more: Any
) -> Document:
    """Listener `inbound`, upstream `app` of `urls`, route `all` from one to the other; `more` are top-level fields."""
    return {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "SidecarConfig",
        "listeners": [{**INBOUND, **(listener or {})}],
        "upstreams": [upstream_at(*urls or (1,), **(up or {}))],
        "routes": [{"name": "all", "backendRefs": [{"name": "app"}], **(route or {})}],
        **more,
    }


def problems_of(doc: Document | str) -> list[str]:
    """`LINE: path: message` of each problem of a document; [] when it is valid."""
    outcome = load((doc if isinstance(doc, str) else json.dumps(doc, indent=1)).encode())
    if not isinstance(outcome, Problems):
        return []
    return [f"{problem.line}: {problem.path}: {problem.message}" for problem in outcome.problems]


def route_to(name: str, **more: Any) -> Document:
    """A route called `name` to the upstream `name`."""
    return {"name": name, "backendRefs": [{"name": name}], **more}


# The chain


class Chain:
    """`async with Chain(document) as chain:`: document -> load -> snapshot -> listeners, proxy, upstreams; real sockets."""

    def __init__(
        self,
        doc: Document,
        *,
        resolver: Resolver | None = None,
        follow_service: FollowService | None = None,
        follow_object: Follow | None = None,
    ) -> None:
        loaded = load(json.dumps(doc).encode())
        assert isinstance(loaded, Loaded), problems_of(doc)
        self.snapshot = loaded.snapshot
        self.seen = Recorder()
        self._resolver = resolver
        self._follow_service = follow_service
        self._follow_object = follow_object

    async def __aenter__(self) -> Self:
        self._timekeeper = Timekeeper(asyncio.get_running_loop())
        self._files = CertificateFiles(poll_seconds=0.05)
        self.tls = TlsStore(self._files.follow, self._follow_object, "shop")
        await self.tls.want(self.snapshot)
        self.registry = Registry(self.seen, self._resolver, self._follow_service, self.tls)
        await self.registry.reconcile(self.snapshot)
        self.proxy = Proxy(make_plan(self.snapshot, self.registry), self.registry, self.seen, self._timekeeper)
        self._listeners = Listeners(self._handler, self.seen, self._timekeeper, self.tls)
        self._listeners.commit(self._listeners.prepare(self.snapshot.listeners), 0.0)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._listeners.aclose()
        self._timekeeper.close()
        await self.proxy.mirrors.aclose()
        await self.registry.aclose()
        await self.tls.aclose()
        await self._files.aclose()
        await asyncio.sleep(0)

    def _handler(self, listener: Listener) -> Handler:
        return self.proxy.handler(listener.name)

    def address(self, listener: str = "inbound") -> str:
        """Where a listener listens, as the log says it."""
        return self._listeners.addresses()[listener]

    def listeners(self) -> list[dict[str, Any]]:
        """`GET /listeners`."""
        return self._listeners.status()

    async def shaken(self, result: Handshake) -> None:
        """Wait until a client's handshake has ended like this."""
        async with asyncio.timeout(LONG):
            while result not in self.seen.handshakes:
                await asyncio.sleep(0.01)

    def port(self, listener: str = "inbound") -> int:
        """Its port."""
        return int(self.address(listener).rpartition(":")[2])

    async def client(self, listener: str = "inbound", **secured: Any) -> RawClient:
        """A new connection to a listener on the loopback; `secured`: see RawClient.open."""
        return await RawClient.open(self.port(listener), **secured)

    async def ask(self, target: str = "/", *, listener: str = "inbound", secured: dict[str, Any] | None = None, **request: Any) -> Response:
        """One request on a connection of its own."""
        async with await self.client(listener, **(secured or {})) as client:
            return await client.request(target, **request)


@asynccontextmanager
async def playing(script: Script, **parts: Any) -> AsyncIterator[tuple[Chain, ScriptedUpstream, RawClient]]:
    """A chain in front of one upstream that plays `script`, and a client of it; `parts` go to `document`."""
    async with ScriptedUpstream(script) as fake, Chain(document(fake.port, **parts)) as chain, await chain.client() as client:
        yield chain, fake, client


# Upstreams


async def echo_head(connection: Connection) -> None:
    """Answers with the request's own head, line by line."""
    while True:
        request = await connection.read_request()
        lines = [request.start, *(name + b": " + value for name, value in request.fields)]
        await connection.send(response(body=b"\n".join(lines)))


def says(text: str, *, status: str = "200 OK", headers: str = "") -> Script:
    """Answers every request with `text`."""

    async def play(connection: Connection) -> None:
        while True:
            await connection.read_request()
            await connection.send(response(status, text.encode(), headers))

    return play


async def silent(connection: Connection) -> None:
    """Reads requests and says nothing."""
    while True:
        await connection.read_request()


class Gate:
    """A script that answers each request once `open()` has been called; `waiting` counts those that it holds."""

    def __init__(self, text: str = "late") -> None:
        self._text = text.encode()
        self._open = asyncio.Event()
        self._arrived = asyncio.Condition()
        self.waiting = 0

    async def __call__(self, connection: Connection) -> None:
        while True:
            await connection.read_request()
            async with self._arrived:
                self.waiting += 1
                self._arrived.notify_all()
            await self._open.wait()
            await connection.send(response(body=self._text))

    def open(self) -> None:
        """Let them go, and all that come later."""
        self._open.set()

    async def holds(self, count: int = 1) -> None:
        """Wait until so many requests have arrived."""
        async with self._arrived:
            await asyncio.wait_for(self._arrived.wait_for(lambda: self.waiting >= count), LONG)


# What a reply of our own says


def reason_of(reply: Response) -> str:
    """`status reason clock` of a reply that the sidecar made; the body's text when an upstream did."""
    if reply.get("content-type") != "application/problem+json":
        return reply.body.decode()
    problem = json.loads(reply.body)
    return " ".join(str(problem[key]) for key in ("status", "reason", "clock") if key in problem)


def field_of(echoed: Response, name: str) -> list[str]:
    """The values of a field in the head that `echo_head` sent back."""
    lines = [line.partition(": ") for line in echoed.body.decode("latin-1").split("\n")[1:]]
    return [value for key, _, value in lines if key.lower() == name.lower()]


def line_of(echoed: Response) -> str:
    """The request line that reached `echo_head`."""
    return echoed.body.decode("latin-1").split("\n")[0]
