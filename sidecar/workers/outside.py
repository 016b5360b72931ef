"""What a worker wants of the API server: asked of the main process, which watches it once for all workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import NamedTuple, Protocol

from sidecar.model.snapshot import ServiceName
from sidecar.model.tls import CaRef, CertificateRef
from sidecar.tasks import cancel_and_wait, create_task
from sidecar.tls.material import CaBundle, KeyPair
from sidecar.tls.store import Follow, Material, Reference
from sidecar.tls.store import Followed as FollowedMaterial
from sidecar.upstream.service import Followed, FollowService, ServiceAddress, ServiceView
from sidecar.workers.channel import Channel
from sidecar.workers.messages import Endpoints, FollowObject, FollowOne, Held, decode, encode

Report = Callable[[ServiceView], None]


class Outside(NamedTuple):
    """How the main process follows what workers want."""

    follow_service: FollowService
    follow_object: Follow


class RemoteOutside:
    """The worker's side: what its upstreams and its certificates call."""

    def __init__(self) -> None:
        self.channel: Channel | None = None
        """Set before anything is followed."""
        self._numbers = count()
        self._reports: dict[int, Report] = {}
        self._objects: dict[int, RemoteObject] = {}

    def follow_service(self, service: ServiceName, report: Report) -> Followed:
        """See upstream.service.FollowService."""
        number = next(self._numbers)
        self._reports[number] = report
        self._tell("follow", encode(FollowOne(number, service.name, service.namespace, service.port)))
        return _Following(self, number)

    def follow_object(self, reference: Reference, changed: Callable[[], None]) -> FollowedMaterial:
        """See tls.store.Follow."""
        number = next(self._numbers)
        made = self._objects[number] = RemoteObject(changed, lambda: self.forget(number))
        certificate, ca = (reference, None) if isinstance(reference, CertificateRef) else (None, reference)
        self._tell("follow_object", encode(FollowObject(number, certificate, ca)))
        return made

    def forget(self, number: int) -> None:
        """Nobody wants it any more."""
        if self._reports.pop(number, None) is not None or self._objects.pop(number, None) is not None:
            self._tell("unfollow", encode(number))

    def take_endpoints(self, body: bytes, _descriptors: list[int]) -> None:
        """The main process has word of a Service."""
        word: Endpoints = decode(body, Endpoints)
        report = self._reports.get(word.number)
        if report is not None:  # else it has just been let go
            report(ServiceView(tuple(ServiceAddress(*at) for at in word.addresses), word.problem))

    def take_object(self, body: bytes, _descriptors: list[int]) -> None:
        """It has word of a certificate or CA bundle."""
        word: Held = decode(body, Held)
        known = self._objects.get(word.number)
        if known is not None:
            known.take(word)

    def _tell(self, operation: str, body: bytes) -> None:
        assert self.channel is not None
        self.channel.tell(operation, body)


class RemoteObject:
    """See tls.store.Followed."""

    def __init__(self, changed: Callable[[], None], close: Callable[[], None]) -> None:
        self.value: Material | None = None
        self.problem = ""
        self.close = close
        self._changed = changed
        self._settled = asyncio.Event()

    async def settled(self) -> None:
        """Wait until the first look has ended."""
        await self._settled.wait()

    def take(self, word: Held) -> None:
        """As the main process has it. It has tried the material, so it can be used."""
        if word.key is not None:
            self.value = KeyPair(word.public, word.key)
        elif word.public:
            self.value = CaBundle(word.public)
        self.problem = word.problem
        self._changed()
        if word.settled:
            self._settled.set()


class _Following:
    """A Service that is followed."""

    def __init__(self, outside: RemoteOutside, number: int) -> None:
        self._outside = outside
        self._number = number

    def close(self) -> None:
        """See upstream.service.Followed."""
        self._outside.forget(self._number)


class _Closable(Protocol):
    def close(self) -> None:
        """Follow it no longer."""
        ...


class ServedOutside:
    """The main process's side: what one worker follows, on the watches that all share."""

    def __init__(self, outside: Outside) -> None:
        self.channel: Channel | None = None
        """Set before the worker wants anything."""
        self._outside = outside
        self._followed: dict[int, _Closable] = {}
        self._settling: set[asyncio.Task[None]] = set()

    def follow(self, body: bytes, _descriptors: list[int]) -> None:
        """The worker wants a Service."""
        asked: FollowOne = decode(body, FollowOne)

        def report(view: ServiceView) -> None:
            addresses = [(at.host, at.port, at.alternate) for at in view.addresses]
            self._tell("endpoints", encode(Endpoints(asked.number, addresses, view.problem)))

        service = ServiceName(name=asked.name, namespace=asked.namespace, port=asked.port)
        self._followed[asked.number] = self._outside.follow_service(service, report)

    def follow_object(self, body: bytes, _descriptors: list[int]) -> None:
        """The worker wants a certificate or CA bundle."""
        asked: FollowObject = decode(body, FollowObject)
        reference: CertificateRef | CaRef | None = asked.certificate or asked.ca
        assert reference is not None
        found: FollowedMaterial | None = None
        settled = False

        def tell() -> None:
            if found is not None:
                self._tell("object", encode(_held(asked.number, found, settled=settled)))

        found = self._outside.follow_object(reference, tell)
        self._followed[asked.number] = found

        async def settle(followed: FollowedMaterial) -> None:
            nonlocal settled
            await followed.settled()
            settled = True
            tell()

        task = create_task(settle(found), name="first look at an object for a worker")
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    def unfollow(self, body: bytes, _descriptors: list[int]) -> None:
        """It wants it no longer."""
        self._followed.pop(decode(body, int)).close()

    def _tell(self, operation: str, body: bytes) -> None:
        assert self.channel is not None
        self.channel.tell(operation, body)

    def close(self) -> None:
        """The worker is gone."""
        for task in self._settling:
            task.cancel()
        while self._followed:
            self._followed.popitem()[1].close()

    async def aclose(self) -> None:
        """`close`, and nothing is left."""
        self.close()
        await cancel_and_wait(set(self._settling))


def _held(number: int, followed: FollowedMaterial, *, settled: bool) -> Held:
    value = followed.value
    if isinstance(value, KeyPair):
        return Held(number, value.certificate, value.key, followed.problem, settled)
    return Held(number, b"" if value is None else value.pem.encode(), None, followed.problem, settled)
