"""Follows every certificate, key and CA bundle that the active snapshot names, and keeps the contexts made of them current.

    await store.want(snapshot)      # before it becomes active; raises CertificateRefused
    store.keep(snapshot)            # it is active: what only others named is let go
    store.secure(upstream, endpoint)    # for each new connection to an upstream: another context than before after a rotation
    store.server(tls)               # for each new connection of a client

Files must be there and usable when a document names them. What is in the API server may come later, and be away: then there
is no context, and `problem` says why. Once there has been a good value it stays until a better one comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, Protocol

from msgspec.structs import replace

from sidecar.errors import UpstreamError
from sidecar.model.endpoint import Endpoint
from sidecar.model.reason import Phase, Reason
from sidecar.model.snapshot import HttpProtocol, Snapshot, Upstream
from sidecar.model.status import CertificateStatus
from sidecar.model.tls import CaRef, CertificateRef, ListenerTls, UpstreamTls
from sidecar.tasks import cancel_and_wait, create_task
from sidecar.tls.contexts import ClientContext, ServerContext, alpn_of, client_context
from sidecar.tls.material import CaBundle, KeyPair, Unusable
from sidecar.tls.names import server_name

log = logging.getLogger("outrider")

FIRST_LOOK: Final = 2.0
"""Seconds for which a start or a reload waits for objects of the API server."""

Reference = CertificateRef | CaRef
Material = KeyPair | CaBundle


class Followed(Protocol):
    """What one reference stands for."""

    @property
    def value(self) -> Material | None:
        """The newest good one."""
        ...

    @property
    def problem(self) -> str:
        """Why there is none, or why it may be old; "" when all is well."""
        ...

    async def settled(self) -> None:
        """Wait until the first look has ended, well or badly."""
        ...

    def close(self) -> None:
        """Follow it no longer; nothing is reported from now on."""
        ...


Follow = Callable[[Reference, Callable[[], None]], Followed]
"""Calls its second argument whenever there is another value or problem, never from within itself."""


class CertificateRefused(Exception):
    """A document names a file that cannot be used. `path`: its place in the document; the text is for people."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


class Security(NamedTuple):
    """How one connection to an upstream is made secure."""

    context: ClientContext
    server_name: str
    """The name to verify; SNI unless it is an IP literal."""


class _ClientKey(NamedTuple):
    tls: UpstreamTls
    alpn: tuple[str, ...]


_Key = _ClientKey | ListenerTls


class _Entry:
    """What was made for one key, and of what."""

    __slots__ = ("context", "material", "problem")

    def __init__(self) -> None:
        self.material: tuple[Material, ...] | None = None
        self.context: ClientContext | ServerContext | None = None
        self.problem = ""
        """Why nothing can be made of what is there."""


class TlsStore:
    """See the top of this file. `on_change` is called after contexts or problems have changed."""

    def __init__(self, files: Follow | None = None, objects: Follow | None = None, namespace: str = "") -> None:
        """`files` and `objects` follow what is on the disk and in the API server; left out where nothing of it is named.

        `namespace`: the pod's own, in which Services are that name none.
        """
        self.on_change: list[Callable[[], None]] = []
        self._files = files
        self._objects = objects
        self._namespace = namespace
        self._followed: dict[Reference, Followed] = {}
        self._entries: dict[_Key, _Entry] = {}
        self._active: set[_Key] = set()
        """Of the active snapshot."""
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._stirred = False

    # -- reload

    async def want(self, snapshot: Snapshot) -> None:
        """Follow what `snapshot` names and make its contexts. Raises CertificateRefused; call `keep` afterwards either way."""
        async with self._turn:
            named = list(references(snapshot))
            new = [reference for reference in dict.fromkeys(reference for _, reference in named) if reference not in self._followed]
            for reference in new:
                self._followed[reference] = self._follow(reference)
            files = [self._followed[reference] for reference in new if in_file(reference)]
            await asyncio.gather(*(followed.settled() for followed in files))
            for path, reference in named:
                followed = self._followed[reference]
                if in_file(reference) and followed.value is None:
                    raise CertificateRefused(path, followed.problem)
            objects = [self._followed[reference] for reference in new if not in_file(reference)]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_LOOK):
                    await asyncio.gather(*(followed.settled() for followed in objects))
            for key in _keys(snapshot):
                self._entries.setdefault(key, _Entry())
            await self._build()

    def keep(self, snapshot: Snapshot) -> None:
        """`snapshot` is the active one: let go of everything that it does not name."""
        named = {reference for _, reference in references(snapshot)}
        for reference in self._followed.keys() - named:
            self._followed.pop(reference).close()
        keys = set(_keys(snapshot))
        stay = keys | self._active  # exchanges in flight may need a connection to an upstream that has just been removed
        self._entries = {key: entry for key, entry in self._entries.items() if key in stay}
        self._active = keys

    def _follow(self, reference: Reference) -> Followed:
        follow = self._files if in_file(reference) else self._objects
        assert follow is not None, "whoever admits such references can follow them"
        return follow(reference, self._changed)

    # -- what is asked for each connection

    def secure(self, config: Upstream, endpoint: Endpoint) -> Security | None:
        """What a new connection to `endpoint` needs; None: it is not secured. Raises as `client`."""
        if not endpoint.tls or config.tls is None:
            return None
        return Security(self.client(config.tls, alpn_of(config.protocol)), server_name(config, endpoint, self._namespace))

    def context(self, config: Upstream) -> ClientContext | None:
        """The context that new connections of `config` get now; None: they have no TLS, or nothing to speak it with yet."""
        entry = None if config.tls is None else self._entries.get(_client_key(config.tls, alpn_of(config.protocol)))
        return entry.context if entry is not None and isinstance(entry.context, ClientContext) else None

    def client(self, tls: UpstreamTls, alpn: tuple[str, ...]) -> ClientContext:
        """The context for a new connection. Raises UpstreamError DESTINATION_UNAVAILABLE while something that `tls` names is not there."""
        entry = self._entries.get(_client_key(tls, alpn))
        if entry is None or not isinstance(entry.context, ClientContext):
            problem = (entry.problem if entry is not None else "") or self.problem(tls) or "its certificates are not known"
            raise UpstreamError(Reason.DESTINATION_UNAVAILABLE, f"TLS: {problem}", phase=Phase.POOL)
        return entry.context

    def server(self, tls: ListenerTls) -> ServerContext | None:
        """The contexts for a new connection of a client; None while there are none."""
        entry = self._entries.get(tls)
        return entry.context if entry is not None and isinstance(entry.context, ServerContext) else None

    def problem(self, tls: UpstreamTls | ListenerTls) -> str:
        """What is wrong with anything that `tls` names; "" when all is well."""
        return "; ".join(problem for reference in _of(tls) if (followed := self._followed.get(reference)) and (problem := followed.problem))

    def statuses(self) -> list[CertificateStatus]:
        """The certificates of the active snapshot, once each."""
        found = []
        for reference, followed in self._followed.items():
            if isinstance(reference, CertificateRef):
                value = followed.value
                not_after = value.parsed.not_after if isinstance(value, KeyPair) else None
                found.append(CertificateStatus(source=name_of(reference), not_after=not_after, problem=followed.problem))
        return found

    # -- rotation

    def _changed(self) -> None:
        self._stirred = True
        if self._task is None or self._task.done():
            self._task = create_task(self._rebuild(), name="certificates")

    async def _rebuild(self) -> None:
        while self._stirred:
            self._stirred = False
            async with self._turn:
                await self._build()
            for tell in self.on_change:
                tell()

    async def _build(self) -> None:
        """Make what is not made of what is known now. In a thread: the system's CA certificates alone take 20 ms."""
        for key, entry in list(self._entries.items()):
            parts = _parts(key)
            values = tuple(one.value for part in parts if (one := self._followed.get(part)) is not None and one.value is not None)
            if len(values) < len(parts) or values == entry.material:
                continue
            try:
                entry.context = await asyncio.to_thread(_make, key, values)
            except Unusable as error:
                entry.problem = str(error)
            else:
                entry.material, entry.problem = values, ""

    async def aclose(self) -> None:
        """Follow nothing any more."""
        for followed in self._followed.values():
            followed.close()
        self._followed.clear()
        self._stirred = False
        if self._task is not None:
            await cancel_and_wait([self._task])


def references(snapshot: Snapshot) -> Iterator[tuple[str, Reference]]:
    """Everything that `snapshot` names, with its place in the document."""
    for index, listener in enumerate(snapshot.listeners):
        if listener.tls is not None:
            for reference in _of(listener.tls):
                yield f"listeners[{index}].tls", reference
    for index, upstream in enumerate(snapshot.upstreams.values()):
        if upstream.tls is not None:
            for number, ca in enumerate(upstream.tls.ca):
                yield f"upstreams[{index}].tls.caCertificateRefs[{number}]", ca
            if upstream.tls.client_certificate is not None:
                yield f"upstreams[{index}].tls.clientCertificateRef", upstream.tls.client_certificate


def in_file(reference: Reference) -> bool:
    """Whether it names files, not an object."""
    return (reference.cert_file if isinstance(reference, CertificateRef) else reference.file) is not None


def name_of(reference: Reference) -> str:
    """For people and for labels: a path, or `Secret shop/orders-tls`."""
    if isinstance(reference, CertificateRef):
        file, kind = reference.cert_file, "Secret"
    else:
        file, kind = reference.file, str(reference.kind)
    return file or f"{kind} {f'{reference.namespace}/' if reference.namespace else ''}{reference.name}"


def _of(tls: UpstreamTls | ListenerTls) -> tuple[Reference, ...]:
    """What it names, in the order in which `_make` takes it."""
    if isinstance(tls, ListenerTls):
        return (*tls.certificates, *_given(tls.client_ca))
    return (*tls.ca, *_given(tls.client_certificate))


def _given(reference: Reference | None) -> tuple[Reference, ...]:
    return () if reference is None else (reference,)


def _parts(key: _Key) -> tuple[Reference, ...]:
    return _of(key.tls if isinstance(key, _ClientKey) else key)


def _keys(snapshot: Snapshot) -> Iterator[_Key]:
    for listener in snapshot.listeners:
        if listener.tls is not None:
            yield listener.tls
    for upstream in snapshot.upstreams.values():
        if upstream.tls is not None:
            yield _client_key(upstream.tls, alpn_of(upstream.protocol))
            if upstream.protocol is not HttpProtocol.HTTP1:  # its upgrades
                yield _client_key(upstream.tls, alpn_of(HttpProtocol.HTTP1))


def _client_key(tls: UpstreamTls, alpn: tuple[str, ...]) -> _ClientKey:
    """The hostname belongs to a connection: upstreams that differ in nothing else share a context, and its 0.8 MB."""
    return _ClientKey(tls if tls.hostname is None else replace(tls, hostname=None), alpn)


def _make(key: _Key, values: Iterable[Material]) -> ClientContext | ServerContext:
    """Raises Unusable."""
    pairs = [value for value in values if isinstance(value, KeyPair)]
    bundles = [value for value in values if isinstance(value, CaBundle)]
    if isinstance(key, ListenerTls):
        return ServerContext(key, pairs, bundles[0] if bundles else None)
    return client_context(key.tls, key.alpn, bundles, pairs[0] if pairs else None)
