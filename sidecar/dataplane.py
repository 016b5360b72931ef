"""The data plane: everything that a request passes, from listening sockets to upstreams, and who observes it.

One process has one. `stage` does what may refuse a configuration, `commit` puts it in force without a gap, `discard`
forgets it. Whoever owns several (`workers/`) stages on all of them before it commits on any.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sidecar.config.certificate_files import CertificateFiles
from sidecar.config.pace import in_slices
from sidecar.config.problem import ConfigRejected, Problem
from sidecar.config.store import Candidate
from sidecar.model.snapshot import Lifecycle as Timing
from sidecar.model.snapshot import Listener, Snapshot
from sidecar.model.status import ConfigStatus, KubeStatus, UpstreamStatus
from sidecar.observe import logs
from sidecar.observe.access_log import AccessLog
from sidecar.observe.cited import Source
from sidecar.observe.exports import ExportRefused, Exports, Prepared
from sidecar.observe.families import Families
from sidecar.observe.fanout import Fanout
from sidecar.observe.metrics import Metrics
from sidecar.observe.metrics_export.service import MetricsExport
from sidecar.observe.output import Output
from sidecar.observe.recorder import Recorder
from sidecar.observe.runtime import RuntimeSampler
from sidecar.observe.series import Family
from sidecar.observe.tracer import Tracer
from sidecar.observe.tracing.service import Tracing
from sidecar.policy.router import Router
from sidecar.proxy.pipeline import Proxy
from sidecar.proxy.plan import Plan, make_plan, plan_in_slices
from sidecar.proxy.timekeeper import Timekeeper
from sidecar.server.lifecycle import Check
from sidecar.server.listeners import Change, ListenerError, Listeners
from sidecar.server.overload import OverloadActions, trim_memory
from sidecar.server.port import Handler, OpenSocket, open_own
from sidecar.tls.store import CertificateRefused, Follow, TlsStore
from sidecar.upstream.registry import Registry
from sidecar.upstream.service import FollowService
from sidecar.upstream.transports import ClientRefused, load_clients

if TYPE_CHECKING:
    from sidecar.observe.traffic import TrafficCount

EMPTY: Final = Snapshot(revision="", hash="", listeners=(), upstreams={}, routes=())
_STRAY: Final = 10_000
"""Objects of traffic that may be frozen with configurations, about a MiB, before they are let out."""


class Staged(NamedTuple):
    """A configuration that nothing speaks against and that is not yet in force: `DataPlane.commit` or `discard` ends it."""

    snapshot: Snapshot
    exports: Prepared
    change: Change


class DataPlane:
    """The parts and how they are joined. `start` once, then `aclose`, then `finish`."""

    processes: Callable[[], Mapping[str, float]] | None = None
    """See Plane."""

    def __init__(
        self,
        output: Output,
        *,
        console: bool,
        active: Callable[[], Source | None],
        follow_service: FollowService,
        follow_object: Follow,
        namespace: str,
        config: Callable[[], ConfigStatus] = ConfigStatus,
        kube: Callable[[], KubeStatus] = KubeStatus,
        environment: Mapping[str, str] | None = None,
        sampler: RuntimeSampler | None = None,
        open_at: OpenSocket = open_own,
    ) -> None:
        """`follow_object`: of the API server, for certificates; `namespace`: the pod's own. `active`: the configuration in force; when a new one is committed, still the one before. `environment`: for tracing."""
        self.refusal = ""
        """Why a listener of the newest document cannot listen."""
        self.sampler = RuntimeSampler() if sampler is None else sampler
        self.tracing = Tracing(environment)
        self._output = output
        self._metrics = Metrics()
        self._access_log = AccessLog(output, console=console)
        self._recorder = Recorder(active=active)
        self._observers = Fanout((self._metrics, self._access_log, self._recorder, self.tracing))
        self._certificate_files = CertificateFiles()
        self._tls = TlsStore(self._certificate_files.follow, follow_object, namespace)
        self._registry = Registry(self._observers, follow_service=follow_service, tls=self._tls)
        self._timekeeper = Timekeeper(asyncio.get_running_loop(), self.sampler.stir)
        self._proxy = Proxy(make_plan(EMPTY, self._registry), self._registry, self._observers, self._timekeeper, self.sampler.overload)
        self.listeners = Listeners(self._handler, self._observers, self._timekeeper, self._tls, open_at=open_at)
        self.sampler.on_look = OverloadActions(
            self.sampler.overload, self.listeners, self.sampler.excess_memory, self.sampler.excess_descriptors
        ).due
        self._families = Families(
            self._metrics,
            upstreams=self._registry.statuses,
            config=config,
            kube=kube,
            certificates=self._tls.statuses,
            runtime=self.sampler,
            log_lines_dropped=lambda: self._output.dropped,
            spans_dropped=self.tracing.dropped,
            metric_exports=lambda: self._metrics_export.results,
            observer_failures=lambda: self._observers.failures,
        )
        self._metrics_export = MetricsExport(self.collect)
        self._exports = Exports(self.tracing, self._metrics_export)
        self._frozen = 0
        """Objects that were frozen when the strays had been let out last."""

    def start(self) -> None:
        """Watch the event loop and what may run out."""
        self.sampler.start()

    async def aclose(self) -> None:
        """Nothing is served afterwards: sockets, then upstreams."""
        await self.listeners.aclose()
        await self._proxy.mirrors.aclose()
        await self._registry.aclose()
        await self._tls.aclose()
        await self._certificate_files.aclose()
        self._timekeeper.close()

    async def finish(self, seconds: float) -> None:
        """The last: what was observed leaves, for at most `seconds`."""
        self.sampler.stop()
        await self._exports.aclose(seconds)
        self._access_log.close()

    # -- configuration

    async def apply(self, candidate: Candidate) -> None:
        """Make the candidate's configuration effective. Raises ConfigRejected; then nothing has changed."""
        await self.commit(await self.stage(candidate.snapshot))

    async def stage(self, snapshot: Snapshot) -> Staged:
        """Make sure of certificates, prepare the exports, bind what is new. Raises ConfigRejected."""
        self.sampler.stir()  # what is made of a document may hold the loop up
        try:
            await self._want_certificates(snapshot)
            return await self._bind(snapshot)
        except BaseException:
            self._tls.keep(self.snapshot)
            raise

    async def _want_certificates(self, snapshot: Snapshot) -> None:
        try:
            await self._tls.want(snapshot)
        except CertificateRefused as error:
            raise ConfigRejected([Problem(error.path, 0, 0, f"{error} (the document is tried again when its files are good)")]) from error

    async def _bind(self, snapshot: Snapshot) -> Staged:
        exports = await self._prepare_libraries(snapshot)
        try:
            return Staged(snapshot, exports, self.listeners.prepare(snapshot.listeners))
        except ListenerError as error:
            self._exports.discard(exports)
            self.refusal = f"listeners[{error.index}]: {error}"
            raise ConfigRejected([Problem(f"listeners[{error.index}]", 0, 0, str(error))]) from error

    async def commit(self, staged: Staged) -> None:
        """Bring the upstreams in line, make the plan, then, without a gap, swap."""
        snapshot, exports, change = staged
        self._let_strays_out()
        try:
            await self._registry.reconcile(snapshot)
            plan = await self._plan(snapshot, exports.tracing.tracer)
        except BaseException:
            self.discard(staged)
            raise
        old, self._proxy.plan = self._proxy.plan, plan
        self._tls.keep(snapshot)
        self._exports.commit(exports)
        self._observers.config_applied(snapshot)
        self.listeners.commit(change, snapshot.lifecycle.drain_timeout)
        for name in self.listeners.names() - plan.listeners.keys():  # they drain by the rules that they had
            plan.listeners[name] = old.listeners[name]
        self._freeze()

    def discard(self, staged: Staged) -> None:
        """The configuration is not taken after all."""
        self.listeners.discard(staged.change)
        self._exports.discard(staged.exports)
        self._tls.keep(self.snapshot)

    @property
    def snapshot(self) -> Snapshot:
        """The configuration in force; an empty one while there is none."""
        return self._proxy.plan.snapshot

    def timing(self) -> Timing:
        """Its `lifecycle`."""
        return self.snapshot.lifecycle

    def _freeze(self) -> None:
        """What lives as long as the configuration is no business of the collector's, and what made it is gone.

        Configurations have no cycles: reference counting frees them.
        """
        gc.freeze()
        asyncio.get_running_loop().call_soon(trim_memory)  # when the configuration before has gone, too

    def _let_strays_out(self) -> None:
        """Before a reload: what traffic has left must not be frozen with the new configuration.

        Cycles of traffic that were frozen all the same would stay for ever (16 KiB a reload under a small load), so they are
        let out when there are many: tens of milliseconds. Here and not after `freeze`, where the configuration before is
        still there and would count as strays.
        """
        if gc.get_freeze_count() <= self._frozen + _STRAY:
            gc.collect()  # only what is not frozen
            return
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._frozen = gc.get_freeze_count()

    async def _prepare_libraries(self, snapshot: Snapshot) -> Prepared:
        try:
            await load_clients(snapshot.upstreams.values())
            return await self._exports.prepare(snapshot.telemetry)
        except (ClientRefused, ExportRefused) as error:
            raise ConfigRejected([Problem(error.path, 0, 0, str(error))]) from error

    async def _plan(self, snapshot: Snapshot, tracer: Tracer | None) -> Plan:
        return await in_slices(plan_in_slices(snapshot, self._registry, tracer))

    def _handler(self, listener: Listener) -> Handler:
        return self._proxy.handler(listener.name)

    # -- what is shown

    def heartbeat_age(self) -> float:
        """Seconds since the event loop last came round."""
        return self.sampler.heartbeat_age()

    def spare_memory(self) -> int | None:
        """Bytes that something else than requests may take now."""
        return self.sampler.spare_memory()

    def readiness(self) -> list[Check]:
        """Nothing beyond what the process as a whole has to say."""
        return []

    def liveness(self) -> list[Check]:
        """As above."""
        return []

    def set_log_level(self, level: str) -> None:
        """Of this process."""
        logs.set_level(level)

    async def refresh(self, path: str, request_id: str = "") -> None:
        """All is here, and current."""

    def collect(self) -> Iterator[Family]:
        """Every metric now."""
        return self._families.collect()

    def addresses(self) -> dict[str, str]:
        """Name -> `address:port` of the listeners in force."""
        return self.listeners.addresses()

    def routers(self) -> dict[str, Router[Any]]:
        """By listener, for explanations."""
        plans = self._proxy.plan.listeners
        return {listener.name: plans[listener.name].router for listener in self.snapshot.listeners}

    def upstreams(self) -> list[UpstreamStatus]:
        """The upstreams of the document."""
        return self._registry.statuses()

    def connections(self) -> dict[str, Any]:
        """`GET /connections`."""
        return self.listeners.connections()

    def listener_states(self) -> list[dict[str, Any]]:
        """`GET /listeners`."""
        return self.listeners.status()

    def failures(self, limit: int) -> list[dict[str, Any]]:
        """The last failures, the newest first."""
        return self._recorder.last(limit)

    def recent(self) -> dict[str, Any]:
        """`GET /recent`."""
        return self._recorder.recent()

    def why(self, request_id: str) -> list[dict[str, Any]]:
        """`GET /why`; of the last failure for ""."""
        return self._recorder.find(request_id) if request_id else self._recorder.last()

    def traffic(self) -> Iterator[TrafficCount]:
        """The counters by listener, route and upstream."""
        from sidecar.observe.traffic import traffic_counts  # noqa: PLC0415 - only the page needs it

        return traffic_counts(self._metrics)

    def runtime(self) -> dict[str, Any]:
        """`GET /runtime`."""
        return self.sampler.document()
