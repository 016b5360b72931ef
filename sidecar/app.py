"""The composition root: the one module that imports every layer, builds the process, and takes it down in order.

Nothing here decides; each step names who does. Start: logging, descriptors, loop, status and admin sockets, signals,
first document. End: drain, then from the outside in: sockets, upstreams, observers, logging.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import uvloop

from sidecar import __version__
from sidecar.admin import doorstep
from sidecar.bootstrap import OFF, Bootstrap, ConfigMapName
from sidecar.config import built_in
from sidecar.config.certificate_wait import CertificateWait
from sidecar.config.file import FileSource
from sidecar.config.last_good import LastGood
from sidecar.config.source import ConfigSource, FirstLook, Mailbox, feed
from sidecar.config.store import Candidate, ConfigStore
from sidecar.dataplane import DataPlane
from sidecar.errors import UsageError
from sidecar.model.snapshot import Mode, ServiceName, Snapshot
from sidecar.model.status import KubeStatus
from sidecar.observe import logs, unraisable
from sidecar.observe.cited import Source
from sidecar.observe.logs import Event, event
from sidecar.observe.output import Output
from sidecar.observe.runtime import low_limit_warning, raise_fd_limit
from sidecar.plane import Plane
from sidecar.server.admin_listener import AdminListener
from sidecar.server.lifecycle import Check, Lifecycle
from sidecar.server.sockets import BindError
from sidecar.server.status import Checks, Page, StatusServer
from sidecar.tasks import cancel_and_wait, create_task
from sidecar.tls.store import Followed as FollowedCertificate
from sidecar.tls.store import Reference
from sidecar.upstream.service import Followed, ServiceView

if TYPE_CHECKING:
    from sidecar.kube.configmap import ConfigMapSource
    from sidecar.kube.endpoint_slices import EndpointSlices
    from sidecar.kube.events import EventWriter
    from sidecar.kube.hub import Hub
    from sidecar.observe.exposition import Exposition
    from sidecar.server.admin_listener import Application
    from sidecar.workers.fleet import Hull

CUT: Final = 1
"""Something was still in flight when it had to end."""
NO_CONFIG: Final = 78
"""EX_CONFIG of sysexits.h: `--require-config` and the first document is no good."""
QUICK_LOOK: Final = 0.1
"""Seconds that the API server has for its first word before the last good document of an earlier run serves."""
LONG_LOOK: Final = 5.0
"""Seconds that it has when there is no such document: a bound for the startup probe, and for `--require-config`."""
_LAST_EXPORTS: Final = 3.0
"""Seconds that the end of the process waits for a collector to take the last spans and metrics."""
_LAST_WRITE: Final = 2.0
"""Seconds that the end of the process waits for a last good document that is still being written."""


def serve(bootstrap: Bootstrap) -> int:
    """Run the sidecar until it is told to end; the exit code of `outrider run`. Raises UsageError."""
    hull = None if bootstrap.workers == 1 else _make_hull(bootstrap.workers)
    output = logs.setup(bootstrap.log_level, bootstrap.log_format, turn=None if hull is None else hull.turn)
    unraisable.install()
    try:
        code = uvloop.run(_main(bootstrap, output, hull))
        event(Event.STOPPED, "good-bye", exit_code=code)
    except UsageError:
        raise
    except Exception:
        logs.logger.exception("the sidecar failed", extra={"event": Event.INTERNAL_ERROR.value})
        raise
    finally:
        output.close()
    return code


def _make_hull(workers: int) -> Hull:
    """Nothing of `workers` is imported by a sidecar that is one process."""
    from sidecar.workers.fleet import Hull  # noqa: PLC0415 - see above

    return Hull.make(workers)


async def _main(bootstrap: Bootstrap, output: Output, hull: Hull | None) -> int:
    sidecar = Sidecar(bootstrap, output, hull)
    try:
        return await sidecar.run()
    finally:
        await sidecar.aclose()


class Sidecar:
    """The parts and how they are joined. `run` once, then `aclose`."""

    def __init__(self, bootstrap: Bootstrap, output: Output, hull: Hull | None = None) -> None:
        self._bootstrap = bootstrap
        self._exposition: Exposition | None = None
        self._status: StatusServer | None = None
        self._admin: AdminListener | None = None
        self._store = ConfigStore(last_good=None if bootstrap.state_dir is None else LastGood(bootstrap.state_dir))
        self._store.on_apply.append(self._apply)
        self._plane = self._make_plane(output, hull)
        self._mailbox = Mailbox()
        self._certificate_wait = CertificateWait(self._mailbox)
        self._sources: list[ConfigSource] = [] if bootstrap.config is None else [FileSource(bootstrap.config)]
        self._hub: Hub | None = None
        self._services: EndpointSlices | None = None
        self._configmap: ConfigMapSource | None = None
        self._events: EventWriter | None = None
        if bootstrap.configmap is not None:
            self._follow_configmap(bootstrap.configmap)
        self._tasks: list[asyncio.Task[Any]] = []
        self._lifecycle = Lifecycle(self._plane.listeners, self._plane.timing, self._plane.heartbeat_age)

    def _make_plane(self, output: Output, hull: Hull | None) -> Plane:
        log_format = self._bootstrap.log_format
        if hull is None:
            return DataPlane(
                output,
                console=logs.is_console(log_format, sys.stdout),
                active=self._configuration,
                follow_service=self._follow_service,
                follow_object=self._follow_object,
                namespace=self._bootstrap.identity.namespace,
                config=self._store.status,
                kube=self._kube_status,
            )
        from sidecar.workers.fleet import Fleet  # noqa: PLC0415 - see _make_hull
        from sidecar.workers.outside import Outside  # noqa: PLC0415 - see _make_hull

        return Fleet(
            hull,
            output,
            log_format=log_format,
            namespace=self._bootstrap.identity.namespace,
            outside=Outside(self._follow_service, self._follow_object),
            config=self._store.status,
            kube=self._kube_status,
        )

    # -- the life of the process

    async def run(self) -> int:
        """Serve until told to end; the exit code. Raises UsageError."""
        before, limit = raise_fd_limit()
        self._plane.start()
        self._open_surfaces()
        self._catch_signals()
        event(
            Event.STARTING,
            "starting",
            version=__version__,
            file_descriptors=limit,
            file_descriptors_before=before,
            **self._addresses(),
            **self._bootstrap.identity.fields(),
        )
        look = FirstLook(source.name for source in self._sources)
        starting = create_task(self._start(look), name="start")
        ending = create_task(self._lifecycle.wait(), name="lifecycle")
        self._tasks += [*self._follow_document(look), starting, ending]
        await asyncio.wait((starting, ending), return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and not starting.result():
            if self._plane.refusal:
                raise UsageError(self._plane.refusal)
            return NO_CONFIG
        return CUT if await ending else 0

    def _open_surfaces(self) -> None:
        flag = "--status-address"
        try:
            self._status = StatusServer(self._bootstrap.status_address, self._checks(), self._scrape)
            flag = "--admin-address"
            if self._bootstrap.admin_address is not None:
                self._admin = AdminListener(
                    self._bootstrap.admin_address,
                    self._admin_app,
                    self._plane.spare_memory,
                    doorstep=lambda request: doorstep.answer(request, self._drain),
                )
        except BindError as error:
            raise UsageError(f"{flag}: {error}") from error

    async def aclose(self) -> None:
        """From the outside in, so that nothing is asked of what has gone."""
        await cancel_and_wait(self._tasks)
        await self._certificate_wait.aclose()
        await self._store.settled(_LAST_WRITE)
        await self._lifecycle.aclose()
        if self._admin is not None:
            await self._admin.aclose()
        await self._plane.aclose()
        if self._hub is not None:
            await self._hub.aclose()
        if self._status is not None:
            await self._status.aclose()
        await self._plane.finish(_LAST_EXPORTS)

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._lifecycle.stop)
        loop.add_signal_handler(signal.SIGINT, partial(self._lifecycle.stop, hurry=True))

    # -- configuration

    def _follow_configmap(self, name: ConfigMapName) -> None:
        """Nothing of `kube` is imported by a sidecar that follows a file."""
        from sidecar.kube.configmap import ConfigMapSource, Reference  # noqa: PLC0415 - see above
        from sidecar.kube.events import EventWriter  # noqa: PLC0415 - see above

        bootstrap, hub = self._bootstrap, self._kube()
        reference = Reference(name.namespace or bootstrap.identity.namespace, name.name, bootstrap.configmap_key)
        self._configmap = ConfigMapSource(hub, reference, cluster=str(bootstrap.kube))
        self._sources.append(self._configmap)
        self._events = EventWriter(hub, self._configmap, bootstrap.identity)

    def _follow_service(self, service: ServiceName, report: Callable[[ServiceView], None]) -> Followed:
        """For an upstream that names a Kubernetes Service."""
        if self._services is None:
            from sidecar.kube.endpoint_slices import EndpointSlices  # noqa: PLC0415 - see above
            from sidecar.kube.slice_rules import Place  # noqa: PLC0415 - see above

            identity = self._bootstrap.identity
            self._services = EndpointSlices(self._kube(), Place(identity.zone, identity.node), identity.namespace)
        return self._services.follow(service, report)

    def _follow_object(self, reference: Reference, changed: Callable[[], None]) -> FollowedCertificate:
        """For a certificate or CA bundle in a Secret or ConfigMap."""
        from sidecar.kube.secrets import follow_reference  # noqa: PLC0415 - see above

        return follow_reference(self._kube(), self._bootstrap.identity.namespace, reference, changed)

    def _kube(self) -> Hub:
        """The way to the API server, made when something asks for it."""
        if self._hub is None:
            from sidecar.kube.connect import make_hub  # noqa: PLC0415 - see above

            self._hub = make_hub(self._bootstrap.kube.kubeconfig, self._bootstrap.kube.context, self._plane.tracing.client_trace_configs)
        return self._hub

    def _follow_document(self, look: FirstLook) -> list[asyncio.Task[Any]]:
        """The tasks that bring documents into force, and tell of them."""
        hear, tasks = [look.hear, self._certificate_wait.hear], []
        if self._events is not None:
            hear.append(self._events.hear)
            tasks.append(create_task(self._after_file(look, self._events.run), name="Events"))
        for source in self._sources:
            self._store.expect(source.name)
            run = partial(source.run, self._mailbox)
            starts = run if source is not self._configmap else partial(self._after_file, look, run)
            tasks.append(create_task(starts(), name=f"configuration from {source.name}"))
        winner = "" if self._configmap is None else self._configmap.name
        return [*tasks, create_task(feed(self._mailbox, self._store, hear=hear, winner=winner), name="configuration")]

    async def _after_file(self, look: FirstLook, run: Callable[[], Awaitable[None]]) -> None:
        """Importing the client of the API server takes half as much CPU as all else of a start: a file serves first."""
        if self._bootstrap.config is not None:
            await look.said(FileSource.name, LONG_LOOK)
        await run()

    async def _start(self, look: FirstLook) -> bool:
        """The first decision about a document: a source's, else the last good one, else the built-in one, else none yet. False: go no further.

        A file has as long as it takes. The API server may be away, so the last good document does not wait for it.
        """
        required, configmap = self._bootstrap.require_config, self._configmap
        if configmap is not None and configmap.origin and self._bootstrap.config is None and not required:
            await self._store.restore(self._origins())  # there is no file to wait for, and the API server's first word takes longer
        if configmap is not None and self._bootstrap.config is not None:
            await look.said(FileSource.name, LONG_LOOK)
        if self._store.active is None:
            await look.wait(None if configmap is None else QUICK_LOOK)
        if configmap is not None and self._store.active is None:
            await configmap.located(LONG_LOOK)
        if configmap is None and self._store.active is None and self._plane.refusal:
            return False
        if self._store.active is None and not required:
            await self._store.restore(self._origins())
        port = self._bootstrap.app_port
        if port is not None and not (required and self._sources):
            await self._store.stand_in(built_in.BUILT_IN, f"app-port {port}", built_in.document(port))
        if self._store.active is None:
            await look.wait(LONG_LOOK - QUICK_LOOK)
        if self._store.active is None and required:
            return False
        self._lifecycle.first_decision()
        return True

    def _origins(self) -> set[str]:
        """Where a last good document may come from: what is followed now, and nothing else."""
        origins = {""} if self._bootstrap.config is not None else set()
        return origins if self._configmap is None or not self._configmap.origin else {*origins, self._configmap.origin}

    async def _apply(self, candidate: Candidate) -> dict[str, Any]:
        """The store's subscriber. Raises ConfigRejected."""
        before = self._plane.addresses()
        await self._plane.apply(candidate)
        if not self._lifecycle.configured:
            self._lifecycle.config_active()
            asyncio.get_running_loop().call_soon(self._announce, candidate.snapshot)
        after = self._plane.addresses()
        return {} if after == before else {"listeners": after}

    def _announce(self, snapshot: Snapshot) -> None:
        """Once, when the first document is in force."""
        event(
            Event.READY,
            "ready",
            listeners=self._plane.addresses(),
            revision=snapshot.revision,
            **self._addresses(),
            **self._bootstrap.identity.fields(),
        )
        _, limit = raise_fd_limit()
        if warning := low_limit_warning(limit, snapshot.listeners, self._bootstrap.workers):
            event(Event.RESOURCE_LIMIT, warning, level=logging.WARNING)

    # -- what is shown

    def _configuration(self) -> Source | None:
        active = self._store.active
        return None if active is None else Source(active.source, active.snapshot, active.origins.of)

    def _checks(self) -> dict[str, Checks]:
        life, plane = self._lifecycle, self._plane
        return {"/startupz": life.startup, "/readyz": self._readiness, "/livez": lambda: [*life.liveness(), *plane.liveness()]}

    def _readiness(self) -> list[Check]:
        return [*self._lifecycle.readiness(), *self._plane.readiness()]

    def _addresses(self) -> dict[str, Any]:
        assert self._status is not None
        return {"status": str(self._status.address), "admin": OFF if self._admin is None else str(self._admin.address)}

    async def _scrape(self, accept: bytes, accept_encoding: bytes) -> Page:
        if self._exposition is None:
            self._exposition = await asyncio.to_thread(self._make_exposition)
        await self._plane.refresh("/metrics")
        return await self._exposition.render_in_slices(accept, accept_encoding)

    def _make_exposition(self) -> Exposition:
        """prometheus_client is imported at the first scrape."""
        from sidecar.observe.exposition import Exposition  # noqa: PLC0415 - see above

        return Exposition(self._plane.collect, self._plane.processes)

    def _kube_status(self) -> KubeStatus:
        if self._hub is None:
            return KubeStatus()
        events = {} if self._events is None else self._events.written
        return KubeStatus(requests=self._hub.requests(), watches=self._hub.states(), events=events)

    def _drain(self) -> tuple[bool, int]:
        """Begin to drain the Reverse listeners, once; whether that is done, and how much is in flight on them."""
        return self._lifecycle.drain(), self._plane.listeners.in_flight((Mode.REVERSE,))

    def _admin_app(self) -> Application:
        """aiohttp.web is imported at the first visit, in a thread."""
        from sidecar.admin import context as admin  # noqa: PLC0415 - see above
        from sidecar.admin.app import make_app  # noqa: PLC0415 - see above

        def active() -> admin.ActiveConfig | None:
            config = self._store.active
            if config is None:
                return None
            return admin.ActiveConfig(
                source=config.source,
                revision=config.revision,
                loaded_at=config.loaded_at,
                snapshot=config.snapshot,
                routers=self._plane.routers(),
                origin=config.origins.of,
                document=lambda: self._plane.tracing.shown(config.document()),
            )

        def rejected() -> admin.RejectedConfig | None:
            newest = self._store.rejected
            return None if newest is None else admin.RejectedConfig(**newest._asdict())

        async def metrics() -> bytes:
            return (await self._scrape(b"", b""))[2]

        plane = self._plane
        return make_app(
            admin.AdminContext(
                readiness=self._readiness,
                state=lambda: self._lifecycle.stage.value,
                config=active,
                rejected=rejected,
                sources=self._store.troubles,
                listeners=lambda: [admin.ListenerStatus(**entry) for entry in plane.listener_states()],
                upstreams=plane.upstreams,
                connections=plane.connections,
                failures=plane.failures,
                recent=plane.recent,
                why=plane.why,
                traffic=plane.traffic,
                refresh=plane.refresh,
                runtime=plane.runtime,
                metrics=metrics,
                get_log_level=logs.get_level,
                set_log_level=partial(_set_log_level, plane),
                drain=lambda: admin.DrainStatus(*self._drain()),
                quit=partial(self._lifecycle.stop, hurry=True),
            )
        )


def _set_log_level(plane: Plane, level: str) -> None:
    plane.set_log_level(level)
    event(Event.LOG_LEVEL_CHANGED, f"log level is {level}", log_level=level)
