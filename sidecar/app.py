"""The composition root: the one module that imports every layer, builds the process, and takes it down in order.

Nothing here decides; each step names who does. Start: logging, descriptors, loop, status and admin sockets, signals,
first document. End: drain, then from the outside in: sockets, upstreams, observers, logging.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import uvloop

from sidecar import __version__
from sidecar.bootstrap import OFF, Bootstrap
from sidecar.config.file import FileSource
from sidecar.config.last_good import LastGood
from sidecar.config.pace import in_slices
from sidecar.config.problem import ConfigRejected, Problem
from sidecar.config.source import Mailbox, feed
from sidecar.config.store import ConfigStore, Outcome
from sidecar.errors import UsageError
from sidecar.model.snapshot import Lifecycle as Timing
from sidecar.model.snapshot import Listener, Mode, Snapshot
from sidecar.observe import logs
from sidecar.observe.access_log import AccessLog
from sidecar.observe.fanout import Fanout
from sidecar.observe.logs import Event, event
from sidecar.observe.metrics import Metrics
from sidecar.observe.output import Output
from sidecar.observe.recorder import Recorder
from sidecar.observe.runtime import RuntimeSampler, low_limit_warning, raise_fd_limit
from sidecar.proxy.pipeline import Proxy
from sidecar.proxy.plan import Plan
from sidecar.proxy.timekeeper import Timekeeper
from sidecar.server.admin_listener import AdminListener
from sidecar.server.lifecycle import Lifecycle
from sidecar.server.listeners import ListenerError, Listeners
from sidecar.server.port import Handler
from sidecar.server.sockets import BindError
from sidecar.server.status import Checks, Page, StatusServer
from sidecar.tasks import cancel_and_wait, create_task
from sidecar.upstream.registry import Registry

if TYPE_CHECKING:
    from sidecar.observe.exposition import Exposition
    from sidecar.server.admin_listener import Application

CUT: Final = 1
"""Something was still in flight when it had to end."""
NO_CONFIG: Final = 78
"""EX_CONFIG of sysexits.h: `--require-config` and the first document is no good."""
EMPTY: Final = Snapshot(revision="", hash="", listeners=(), upstreams={}, routes=())
_COLLECT_EVERY: Final = 1000
_LAST_WRITE: Final = 2.0
"""Seconds that the end of the process waits for a last good document that is still being written."""


def serve(bootstrap: Bootstrap) -> int:
    """Run the sidecar until it is told to end; the exit code of `outrider run`. Raises UsageError."""
    output = logs.setup(bootstrap.log_level, bootstrap.log_format)
    try:
        code = uvloop.run(_main(bootstrap, output))
        event(Event.STOPPED, "good-bye", exit_code=code)
    except UsageError:
        raise
    except Exception:
        logs.logger.exception("the sidecar failed", extra={"event": Event.INTERNAL_ERROR.value})
        raise
    finally:
        output.close()
    return code


async def _main(bootstrap: Bootstrap, output: Output) -> int:
    sidecar = Sidecar(bootstrap, output)
    try:
        return await sidecar.run()
    finally:
        await sidecar.aclose()


class Sidecar:
    """The parts and how they are joined. `run` once, then `aclose`."""

    def __init__(self, bootstrap: Bootstrap, output: Output) -> None:
        loop = asyncio.get_running_loop()
        self._bootstrap = bootstrap
        self._output = output
        self._exposition: Exposition | None = None
        self._status: StatusServer | None = None
        self._admin: AdminListener | None = None
        self._metrics = Metrics()
        self._access_log = AccessLog(output, console=logs.is_console(bootstrap.log_format, sys.stdout))
        self._recorder = Recorder()
        self._sampler = RuntimeSampler()
        self._observers = Fanout((self._metrics, self._access_log, self._recorder))
        self._registry = Registry(self._observers)
        self._timekeeper = Timekeeper(loop)
        self._proxy = Proxy(Plan(EMPTY, self._registry), self._registry, self._observers, self._timekeeper)
        self._listeners = Listeners(self._handler, self._observers, self._timekeeper)
        self._store = ConfigStore(last_good=None if bootstrap.state_dir is None else LastGood(bootstrap.state_dir))
        self._store.on_apply.append(self._apply)
        self._source = FileSource(bootstrap.config)
        self._mailbox = Mailbox()
        self._tasks: list[asyncio.Task[Any]] = []
        self._swaps = 0
        self._refusal = ""
        """Why a listener of the newest document cannot listen."""
        self._lifecycle = Lifecycle(self._listeners, self._timing, self._sampler.heartbeat_age)

    # -- the life of the process

    async def run(self) -> int:
        """Serve until told to end; the exit code. Raises UsageError."""
        before, limit = raise_fd_limit()
        self._sampler.start()
        self._open_surfaces()
        self._catch_signals()
        event(Event.STARTING, "starting", version=__version__, file_descriptors=limit, file_descriptors_before=before, **self._addresses())
        first = asyncio.get_running_loop().create_future()
        starting = create_task(self._start(first), name="start")
        ending = create_task(self._lifecycle.wait(), name="lifecycle")
        self._tasks += [
            create_task(self._source.run(self._mailbox), name="configuration source"),
            create_task(feed(self._mailbox, self._store, first), name="configuration"),
            starting,
            ending,
        ]
        await asyncio.wait((starting, ending), return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and not starting.result():
            if self._refusal:
                raise UsageError(self._refusal)
            return NO_CONFIG
        return CUT if await ending else 0

    def _open_surfaces(self) -> None:
        flag = "--status-address"
        try:
            self._status = StatusServer(self._bootstrap.status_address, self._checks(), self._scrape)
            flag = "--admin-address"
            if self._bootstrap.admin_address is not None:
                self._admin = AdminListener(self._bootstrap.admin_address, self._admin_app)
        except BindError as error:
            raise UsageError(f"{flag}: {error}") from error

    async def aclose(self) -> None:
        """From the outside in, so that nothing is asked of what has gone."""
        await cancel_and_wait(self._tasks)
        await self._store.settled(_LAST_WRITE)
        await self._lifecycle.aclose()
        await self._listeners.aclose()
        if self._admin is not None:
            await self._admin.aclose()
        await self._registry.aclose()
        self._timekeeper.close()
        if self._status is not None:
            await self._status.aclose()
        self._sampler.stop()
        self._access_log.close()

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._lifecycle.stop)
        loop.add_signal_handler(signal.SIGINT, partial(self._lifecycle.stop, hurry=True))

    # -- configuration

    async def _start(self, first: asyncio.Future[Outcome | None]) -> bool:
        """The first decision about a document: its own, else the last good one, else none yet. False: go no further."""
        await first
        if self._store.active is None:
            if self._refusal or self._bootstrap.require_config:
                return False
            await self._store.restore()
        self._lifecycle.first_decision()
        return True

    async def _apply(self, snapshot: Snapshot) -> dict[str, Any]:
        """Bind what is new, bring the upstreams in line, then, without a gap, swap. Raises ConfigRejected."""
        before = self._listeners.addresses()
        try:
            change = self._listeners.prepare(snapshot.listeners)
        except ListenerError as error:
            self._refusal = f"listeners[{error.index}]: {error}"
            raise ConfigRejected([Problem(f"listeners[{error.index}]", 0, 0, str(error))]) from error
        gc.collect()  # only what is not frozen: what traffic left since the last time must not be frozen with the new configuration
        try:
            await self._registry.reconcile(snapshot)
            plan = await self._plan(snapshot)
        except BaseException:
            self._listeners.discard(change)
            raise
        old, self._proxy.plan = self._proxy.plan, plan
        self._observers.config_applied(snapshot)
        self._listeners.commit(change, snapshot.lifecycle.drain_timeout)
        for name in self._listeners.names() - plan.listeners.keys():  # they drain by the rules that they had
            plan.listeners[name] = old.listeners[name]
        if not self._lifecycle.configured:
            self._lifecycle.config_active()
            asyncio.get_running_loop().call_soon(self._announce)
        self._freeze()
        after = self._listeners.addresses()
        return {} if after == before else {"listeners": after}

    def _freeze(self) -> None:
        """What lives as long as the configuration is no business of the collector's.

        Configurations have no cycles: reference counting frees them. Cycles of others that happen to be frozen would
        stay for ever, so once in a long while they are let out: tens of milliseconds every thousandth reload.
        """
        self._swaps += 1
        if self._swaps % _COLLECT_EVERY == 0:
            gc.unfreeze()
            gc.collect()
        gc.freeze()

    def _announce(self) -> None:
        """Once, when the first document is in force."""
        snapshot = self._proxy.plan.snapshot
        event(Event.READY, "ready", listeners=self._listeners.addresses(), revision=snapshot.revision, **self._addresses())
        _, limit = raise_fd_limit()
        if warning := low_limit_warning(limit, snapshot.listeners):
            event(Event.RESOURCE_LIMIT, warning, level=logging.WARNING)

    async def _plan(self, snapshot: Snapshot) -> Plan:
        return await in_slices(Plan.in_slices(snapshot, self._registry))

    def _handler(self, listener: Listener) -> Handler:
        return self._proxy.handler(listener.name)

    def _timing(self) -> Timing:
        return self._proxy.plan.snapshot.lifecycle

    # -- what is shown

    def _checks(self) -> dict[str, Checks]:
        life = self._lifecycle
        return {"/startupz": life.startup, "/readyz": life.readiness, "/livez": life.liveness}

    def _addresses(self) -> dict[str, Any]:
        assert self._status is not None
        return {"status": str(self._status.address), "admin": OFF if self._admin is None else str(self._admin.address)}

    async def _scrape(self, accept: bytes, accept_encoding: bytes) -> Page:
        if self._exposition is None:
            self._exposition = await asyncio.to_thread(self._make_exposition)
        return await self._exposition.render_in_slices(accept, accept_encoding)

    def _make_exposition(self) -> Exposition:
        """prometheus_client is imported at the first scrape."""
        from sidecar.observe.exposition import Exposition  # noqa: PLC0415 - see above
        from sidecar.observe.families import Families  # noqa: PLC0415 - see above

        families = Families(
            self._metrics,
            upstreams=self._registry.statuses,
            config=self._store.status,
            runtime=self._sampler,
            log_lines_dropped=lambda: self._output.dropped,
            observer_failures=lambda: self._observers.failures,
        )
        return Exposition(families.collect)

    def _admin_app(self) -> Application:
        """aiohttp.web is imported at the first visit, in a thread."""
        from sidecar.admin import context as admin  # noqa: PLC0415 - see above
        from sidecar.admin.app import make_app  # noqa: PLC0415 - see above

        def drain() -> admin.DrainStatus:
            drained = self._lifecycle.drain()
            return admin.DrainStatus(drained=drained, in_flight=self._listeners.in_flight((Mode.REVERSE,)))

        def active() -> admin.ActiveConfig | None:
            config = self._store.active
            if config is None:
                return None
            plans = self._proxy.plan.listeners
            return admin.ActiveConfig(
                source=config.source,
                revision=config.revision,
                loaded_at=config.loaded_at,
                snapshot=config.snapshot,
                routers={listener.name: plans[listener.name].router for listener in config.snapshot.listeners},
                origin=config.origins.of,
                document=config.document,
            )

        def rejected() -> admin.RejectedConfig | None:
            newest = self._store.rejected
            return None if newest is None else admin.RejectedConfig(**newest._asdict())

        async def metrics() -> bytes:
            return (await self._scrape(b"", b""))[2]

        return make_app(
            admin.AdminContext(
                readiness=self._lifecycle.readiness,
                state=lambda: self._lifecycle.stage.value,
                config=active,
                rejected=rejected,
                sources=lambda: self._store.connected,
                listeners=lambda: [admin.ListenerStatus(**entry) for entry in self._listeners.status()],
                upstreams=self._registry.statuses,
                connections=self._listeners.connections,
                recent=self._recorder.recent,
                runtime=self._sampler.document,
                metrics=metrics,
                get_log_level=logs.get_level,
                set_log_level=_set_log_level,
                drain=drain,
                quit=partial(self._lifecycle.stop, hurry=True),
            )
        )


def _set_log_level(level: str) -> None:
    logs.set_level(level)
    event(Event.LOG_LEVEL_CHANGED, f"log level is {level}", log_level=level)
