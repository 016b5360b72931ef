"""Fleet: a Plane of several processes. Configurations go to all workers or to none; what they know is shown as one.

The main process owns documents, sockets, the API server, status and admin; workers own traffic. A configuration is made
ready by every worker before it is put in force by any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sidecar.config.problem import ConfigRejected, Problem
from sidecar.config.store import Candidate
from sidecar.dataplane import EMPTY
from sidecar.model.snapshot import Lifecycle as Timing
from sidecar.model.snapshot import Mode, Snapshot
from sidecar.model.status import ConfigStatus, KubeStatus, UpstreamStatus
from sidecar.observe import logs, processes, readings
from sidecar.observe.exports import ExportRefused, Exports, Prepared
from sidecar.observe.families import Families
from sidecar.observe.metrics import Metrics
from sidecar.observe.metrics_export.service import MetricsExport
from sidecar.observe.output import Output, make_turn
from sidecar.observe.readings import Reading
from sidecar.observe.runtime import RuntimeSampler
from sidecar.observe.series import Family
from sidecar.observe.tracing.service import Tracing
from sidecar.observe.traffic import TrafficCount
from sidecar.policy.router import Router
from sidecar.server.lifecycle import Check
from sidecar.server.listeners import ListenerError
from sidecar.workers import views
from sidecar.workers.channel import ChannelError
from sidecar.workers.crew import Crew, WorkerUnfit
from sidecar.workers.drain import FleetListeners
from sidecar.workers.forkserver import ForkServer
from sidecar.workers.handle import Handle
from sidecar.workers.messages import Stage
from sidecar.workers.outside import Outside
from sidecar.workers.routers import LazyRouters
from sidecar.workers.seats import Seats
from sidecar.workers.sockets import Change, SharedSockets
from sidecar.workers.views import Views
from sidecar.workers.worker import serve

START_SECONDS: Final = 30.0
REPLACE_SECONDS: Final = 10.0
TRIES: Final = 2
"""A worker that dies while it makes a document ready may have died of something else: the document has a second chance."""


class Hull(NamedTuple):
    """What must exist before the process has a thread or an event loop."""

    size: int
    forks: ForkServer
    seats: Seats
    turn: int

    @classmethod
    def make(cls, size: int) -> Hull:
        """Fork the fork server off. Raises OSError."""
        return cls(size, ForkServer.start(serve), Seats(size), make_turn())


class WorkerLost(Exception):
    """A worker ended, or stopped answering, while it made a configuration ready."""


class Fleet:
    """See sidecar.plane.Plane."""

    def __init__(
        self,
        hull: Hull,
        output: Output,
        *,
        log_format: str,
        namespace: str,
        outside: Outside,
        config: Callable[[], ConfigStatus],
        kube: Callable[[], KubeStatus],
    ) -> None:
        self.refusal = ""
        self.tracing = Tracing()
        self._snapshot: Snapshot = EMPTY
        self._stage: Stage | None = None
        """The configuration in force, as workers are told it."""
        self._turn = asyncio.Lock()
        """One at a time: a reload, or a new worker that gets the configuration in force."""
        self._seats = hull.seats
        self._sockets = SharedSockets(hull.seats)
        self._crew = Crew(
            hull.size, hull.forks, hull.seats, hull.turn, log_format, namespace, outside, configure=self._configure, lost=self._lost
        )
        self.listeners = FleetListeners(self._crew, self._sockets)
        self._sampler = RuntimeSampler(processes=hull.size + 1)
        self._families = Families(
            Metrics(),
            upstreams=tuple,
            config=config,
            kube=kube,
            certificates=tuple,
            runtime=self._sampler,
            log_lines_dropped=lambda: output.dropped,
            spans_dropped=self.tracing.dropped,
            metric_exports=lambda: self._metrics_export.results,
            observer_failures=dict,
            workers=self._crew.status,
        )
        self._metrics_export = MetricsExport(self.collect, refresh=self._read_all)
        self._exports = Exports(self.tracing, self._metrics_export)
        self._ended: Reading = {}
        """What workers that are gone have counted."""
        self._ended_figures: Mapping[str, float] = {}
        self._own_figures: Mapping[str, float] = {}
        self._views: dict[int, Views] = {}
        self._routers = LazyRouters(EMPTY)

    def start(self) -> None:
        """Make the workers."""
        self._sampler.start()
        self._crew.start()

    async def aclose(self) -> None:
        """End the workers."""
        await self.listeners.aclose()
        await self._crew.aclose()
        self._sockets.close(tuple(Mode))

    async def finish(self, seconds: float) -> None:
        """What was counted leaves."""
        self._sampler.stop()
        await self._exports.aclose(seconds)
        self._seats.close()

    # -- configuration

    async def apply(self, candidate: Candidate) -> None:
        """In all workers or in none; those that come later get it when they come. Raises ConfigRejected."""
        await self._crew.tried(START_SECONDS)
        for _ in range(TRIES):
            async with self._turn:
                try:
                    await self._apply(candidate)
                except WorkerLost:
                    pass
                else:
                    return
            await self._crew.full(REPLACE_SECONDS)
        raise ConfigRejected(
            [Problem("", 1, 1, "a worker process ended, or did not answer, while it made the document ready (see the log)")]
        )

    async def _apply(self, candidate: Candidate) -> None:
        snapshot = candidate.snapshot
        exports = await self._prepare_exports(snapshot)
        try:
            change = self._sockets.prepare(snapshot.listeners)
        except ListenerError as error:
            self._exports.discard(exports)
            self.refusal = f"listeners[{error.index}]: {error}"
            raise ConfigRejected([Problem(f"listeners[{error.index}]", 0, 0, str(error))]) from error
        stage = self._stage_of(candidate, change)
        workers = list(self._crew.serving.values())
        try:
            await _stage_all(workers, stage, change)
        except BaseException:
            self._sockets.discard(change)
            self._exports.discard(exports)
            raise
        # From here on it is in force: a worker that cannot follow is replaced by one that does.
        self._stage, self._snapshot = stage, snapshot
        await _commit_all(workers)
        self._sockets.commit(change)
        self._exports.commit(exports)
        self._ended = readings.configured(self._ended, snapshot)
        self._routers = LazyRouters(snapshot)

    async def _prepare_exports(self, snapshot: Snapshot) -> Prepared:
        try:
            return await self._exports.prepare(snapshot.telemetry)
        except ExportRefused as error:
            raise ConfigRejected([Problem(error.path, 0, 0, str(error))]) from error

    def _stage_of(self, candidate: Candidate, change: Change) -> Stage:
        snapshot = candidate.snapshot
        return Stage(
            source=candidate.source,
            revision=snapshot.revision,
            hash=snapshot.hash,
            packed=candidate.packed,
            origins=candidate.origins.encode(),
            warnings=list(snapshot.warnings),
            keys=list(self._sockets.with_change(change)),
        )

    async def _configure(self, handle: Handle) -> None:
        """A new worker gets what is in force. Raises ChannelError, TimeoutError or WorkerUnfit."""
        async with self._turn:
            if self._stage is not None:
                sockets = self._sockets.all
                if problems := await handle.stage(_with_keys(self._stage, list(sockets)), sockets):
                    raise WorkerUnfit(f"it cannot serve the configuration in force: {problems[0].message}")
                await handle.commit()
            self.listeners.joined(handle)
            self._crew.serves(handle)

    def _lost(self, handle: Handle) -> None:
        """What it has counted stays."""
        kinds = {family.name: family.kind for family in self._families.collect()}
        self._ended = readings.configured(readings.retained(self._ended, handle.reading, kinds), self._snapshot)
        self._ended_figures = processes.of_all((self._ended_figures, processes.remaining(handle.figures)))
        self._views.pop(handle.number, None)

    def addresses(self) -> dict[str, str]:
        """Name -> `address:port` of the listeners in force."""
        return self._sockets.addresses()

    def timing(self) -> Timing:
        """`lifecycle` of the configuration in force."""
        return self._snapshot.lifecycle

    def set_log_level(self, level: str) -> None:
        """Of every process."""
        logs.set_level(level)
        for handle in self._crew.serving.values():
            handle.set_log_level(level)

    # -- how it is

    def heartbeat_age(self) -> float:
        """Of this process."""
        return self._sampler.heartbeat_age()

    def spare_memory(self) -> int | None:
        """Of this process."""
        return self._sampler.spare_memory()

    def readiness(self) -> list[Check]:
        """Whether workers serve."""
        return self._crew.readiness()

    def liveness(self) -> list[Check]:
        """Whether they answer."""
        return self._crew.liveness()

    # -- what is shown

    async def refresh(self, path: str, request_id: str = "") -> None:
        """Ask the workers for what is shown there."""
        if path == "/metrics":
            await self._read_all()
        elif names := views.NEEDED.get(path):
            workers = list(self._crew.serving.values())
            answers = await asyncio.gather(*(handle.look(names, request_id) for handle in workers))
            self._views = {handle.number: answer for handle, answer in zip(workers, answers, strict=True) if answer is not None}

    async def _read_all(self) -> None:
        await asyncio.gather(*(handle.read() for handle in list(self._crew.serving.values())))
        self._own_figures = processes.own_figures(self._sampler.sample())

    def collect(self) -> Iterator[Family]:
        """Every metric, as last read."""
        return readings.merged(self._families.collect(), self._readings())

    def traffic(self) -> Iterator[TrafficCount]:
        """The counters by listener, route and upstream, as last read."""
        wanted = (family for family in self._families.collect() if family.name in readings.TRAFFIC)
        return readings.traffic_in(readings.merged(wanted, self._readings()))

    def _readings(self) -> list[Reading]:
        return [*(handle.reading for handle in self._crew.serving.values()), self._ended]

    def processes(self) -> Mapping[str, float]:
        """What the client library's collectors say, of all processes."""
        figures = (handle.figures for handle in self._crew.serving.values())
        return processes.of_all((self._own_figures, *figures, self._ended_figures))

    def routers(self) -> Mapping[str, Router[Any]]:
        """Made here when somebody asks for an explanation."""
        return self._routers

    def listener_states(self) -> Sequence[Mapping[str, Any]]:
        """`GET /listeners`."""
        return views.listeners(answer.listeners for answer in self._views.values())

    def upstreams(self) -> list[UpstreamStatus]:
        """The upstreams of the document."""
        return views.upstreams([answer.upstreams for answer in self._views.values()])

    def connections(self) -> Mapping[str, Any]:
        """`GET /connections`."""
        limits = {listener.name: listener.max_connections for listener in self._snapshot.listeners}
        return views.connections((answer.connections for answer in self._views.values()), limits)

    def failures(self, limit: int) -> list[dict[str, Any]]:
        """The last failures, the newest first."""
        return views.failures(answer.failures for answer in self._views.values())[:limit]

    def recent(self) -> Mapping[str, Any]:
        """`GET /recent`."""
        return views.recent([answer.recent for answer in self._views.values()])

    def why(self, request_id: str) -> list[dict[str, Any]]:
        """`GET /why`."""
        return views.why((answer.why for answer in self._views.values()), request_id)

    def runtime(self) -> Mapping[str, Any]:
        """`GET /runtime`."""
        return views.runtime(self._sampler.document(), {number: answer.runtime for number, answer in self._views.items() if answer.runtime})


def _with_keys(stage: Stage, keys: list[tuple[str, str, int]]) -> Stage:
    return Stage(**{name: getattr(stage, name) for name in stage.__struct_fields__} | {"keys": keys})


async def _stage_all(workers: list[Handle], stage: Stage, change: Change) -> None:
    """Raises ConfigRejected or WorkerLost; then no worker has it."""
    answers = await asyncio.gather(*(handle.stage(stage, change.bound) for handle in workers), return_exceptions=True)
    refusals = [answer for answer in answers if isinstance(answer, list) and answer]
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    if not refusals and not failures:
        return
    for handle, answer in zip(workers, answers, strict=True):
        if isinstance(answer, BaseException):
            handle.kill()
    ready = [handle for handle, answer in zip(workers, answers, strict=True) if answer == []]
    undone = await asyncio.gather(*(handle.discard() for handle in ready), return_exceptions=True)
    _kill_failed(ready, undone)
    for failure in failures:
        if not isinstance(failure, ChannelError | TimeoutError):
            raise failure
    if refusals:
        raise ConfigRejected(refusals[0])
    raise WorkerLost


async def _commit_all(workers: list[Handle]) -> None:
    _kill_failed(workers, await asyncio.gather(*(handle.commit() for handle in workers), return_exceptions=True))


def _kill_failed(workers: list[Handle], answers: Sequence[object]) -> None:
    for handle, answer in zip(workers, answers, strict=True):
        if isinstance(answer, BaseException):
            handle.kill()
