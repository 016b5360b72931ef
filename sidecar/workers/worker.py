"""A worker: a data plane that does what it is told over its channel, and ends when nobody is there to tell it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from typing import Any, Final, NamedTuple

import uvloop
from msgspec.structs import replace

from sidecar.config.compile import Origins, compile_in_slices
from sidecar.config.pace import in_slices
from sidecar.config.problem import ConfigRejected
from sidecar.dataplane import DataPlane, Staged
from sidecar.model.snapshot import Listener, Mode, Snapshot
from sidecar.observe import logs, unraisable
from sidecar.observe.cited import Source
from sidecar.observe.logs import Event
from sidecar.observe.output import Output
from sidecar.observe.processes import own_figures
from sidecar.observe.readings import pack
from sidecar.observe.runtime import RuntimeSampler, raise_fd_limit
from sidecar.server.acceptor import Share
from sidecar.server.port import port_key
from sidecar.server.sockets import BindError
from sidecar.workers.channel import Channel
from sidecar.workers.messages import Close, Handed, Key, Look, Pulse, Settings, Stage, decode, encode
from sidecar.workers.outside import RemoteOutside
from sidecar.workers.seats import Seats
from sidecar.workers.views import LAST_FAILURES

TOLD: Final = 0
ORPHANED: Final = 1
WORKER: Final = "OUTRIDER_WORKER"
"""In the environment that tracing sees (observe/tracing/resource.py): the worker's number."""
_LAST_EXPORTS: Final = 3.0
"""Seconds that the end waits for a collector to take the last spans."""
_LAST_WORDS: Final = 2.0
"""Seconds that it waits for the last reading to leave."""


def serve(settings: Settings, channel: int, turn: int, seats: int) -> int:
    """Be a worker; the exit code. The descriptors are: the way to who tells, the turns of the output, the seats."""
    output = logs.setup(settings.log_level, settings.log_format, turn=turn, worker=settings.number)
    unraisable.install()
    try:
        return uvloop.run(_main(settings, output, socket.socket(fileno=channel), Seats(settings.of, seats)))
    except Exception:
        logs.logger.exception("a worker failed", extra={"event": Event.INTERNAL_ERROR.value})
        raise
    finally:
        output.close()


async def _main(settings: Settings, output: Output, sock: socket.socket, seats: Seats) -> int:
    worker = Worker(settings, output, sock, seats)
    try:
        return await worker.run()
    finally:
        await worker.aclose()


class _Ready(NamedTuple):
    staged: Staged
    source: Source


class Worker:
    """The data plane and its channel. `run` once, then `aclose`."""

    def __init__(self, settings: Settings, output: Output, sock: socket.socket, seats: Seats) -> None:
        self._settings = settings
        self._seats = seats
        self._source: Source | None = None
        self._ready: _Ready | None = None
        """Staged, and neither committed nor discarded."""
        self._handed: dict[Key, tuple[socket.socket, int]] = {}
        """Sockets, and their columns of the seats, that no listener has taken yet."""
        self._now = asyncio.Event()
        """Nothing that runs is waited for any more."""
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        outside = RemoteOutside()
        self._sampler = RuntimeSampler(processes=settings.of, warns=False)
        self._plane = DataPlane(
            output,
            console=logs.is_console(settings.log_format, sys.stdout),
            active=lambda: self._source,
            follow_service=outside.follow_service,
            follow_object=outside.follow_object,
            namespace=settings.namespace,
            environment={**os.environ, WORKER: str(settings.number)},
            sampler=self._sampler,
            open_at=self._take,
        )
        calls = {
            "stage": self._stage,
            "commit": self._commit,
            "discard": self._discard,
            "look": self._look,
            "read": self._read,
            "pulse": self._pulse,
            "close": self._close,
            "end": self._end,
        }
        tells = {
            "sockets": self._hand,
            "endpoints": outside.take_endpoints,
            "object": outside.take_object,
            "say_close": self._say_close,
            "now": lambda _body, _descriptors: self._now.set(),
            "log_level": lambda body, _descriptors: logs.set_level(decode(body, str)),
        }
        self._channel = outside.channel = Channel(sock, calls=calls, tells=tells, lost=self._orphaned, name="the sidecar's main process")

    async def run(self) -> int:
        """Serve until told to end, or nobody is left to tell."""
        raise_fd_limit()
        self._plane.start()
        return await self._ended

    async def aclose(self) -> None:
        """From the outside in."""
        await self._plane.aclose()
        await self._plane.finish(_LAST_EXPORTS)
        await self._channel.flushed(_LAST_WORDS)
        await self._channel.aclose()
        self._drop_handed()

    def _orphaned(self) -> None:
        if not self._ended.done():
            self._ended.set_result(ORPHANED)

    # -- configuration

    async def _stage(self, body: bytes) -> bytes:
        asked: Stage = decode(body, Stage)
        packed = asked.packed
        try:
            snapshot = await in_slices(
                compile_in_slices(
                    packed.document_without_routes(),
                    packed.iter_routes(),
                    revision=asked.revision,
                    digest=asked.hash,
                    warnings=tuple(asked.warnings),
                )
            )
            staged = await self._plane.stage(self._ours(snapshot, set(asked.keys)))
        except ConfigRejected as error:
            return encode(list(error.problems))
        finally:
            self._drop_handed()
        self._ready = _Ready(staged, Source(asked.source, staged.snapshot, Origins.decode(asked.origins).of))
        return encode([])

    def _ours(self, snapshot: Snapshot, keys: set[Key]) -> Snapshot:
        """This worker's part of a configuration."""
        listeners = (
            replace(listener, max_connections=part_of(listener.max_connections, self._settings.number, self._settings.of))
            for listener in snapshot.listeners
            if port_key(listener) in keys
        )
        return replace(snapshot, listeners=tuple(listeners), telemetry=replace(snapshot.telemetry, otlp_metrics=None))

    async def _commit(self, _body: bytes) -> bytes:
        assert self._ready is not None
        (staged, source), self._ready = self._ready, None
        await self._plane.commit(staged)
        self._source = source
        return b""

    async def _discard(self, _body: bytes) -> bytes:
        if self._ready is not None:
            ready, self._ready = self._ready, None
            self._plane.discard(ready.staged)
        return b""

    def _hand(self, body: bytes, descriptors: list[int]) -> None:
        handed: Handed = decode(body, Handed)
        for key, column, descriptor in zip(handed.keys, handed.columns, descriptors, strict=True):
            self._handed[key] = (socket.socket(fileno=descriptor), column)

    def _take(self, listener: Listener, _beside: tuple[socket.socket, ...]) -> tuple[socket.socket, Share | None]:
        """See server.port.OpenSocket."""
        try:
            sock, column = self._handed.pop(port_key(listener))
        except KeyError:
            raise BindError(f"{listener.name}: no socket was handed over") from None
        return sock, self._seats.seat(column, self._settings.number)

    def _drop_handed(self) -> None:
        while self._handed:
            self._handed.popitem()[1][0].close()

    # -- what is shown

    async def _look(self, body: bytes) -> bytes:
        asked: Look = decode(body, Look)
        plane = self._plane
        views: dict[str, Any] = {}
        for name in asked.names:
            match name:
                case "listeners":
                    views[name] = plane.listener_states()
                case "upstreams":
                    views[name] = plane.upstreams()
                case "connections":
                    views[name] = plane.connections()
                case "failures":
                    views[name] = plane.failures(LAST_FAILURES)
                case "recent":
                    views[name] = plane.recent()
                case "why":
                    views[name] = plane.why(asked.request_id)
                case "runtime":
                    views[name] = plane.runtime()
            await asyncio.sleep(0)
        return encode(views)

    async def _read(self, _body: bytes) -> bytes:
        """The metrics, and the process's own figures."""
        packed = []
        for family in pack(self._plane.collect()):
            packed.append(family)
            await asyncio.sleep(0)
        return encode((packed, own_figures(self._sampler.sample())))

    async def _pulse(self, _body: bytes) -> bytes:
        listeners, now = self._plane.listeners, asyncio.get_running_loop().time()
        in_flight = {mode.value: listeners.in_flight((mode,)) for mode in Mode}
        opened_ago = {mode.value: now - listeners.last_opened((mode,)) for mode in Mode}
        return encode(Pulse(in_flight, opened_ago, time.process_time(), listeners.stalled()))

    # -- the end

    def _say_close(self, body: bytes, _descriptors: list[int]) -> None:
        self._plane.listeners.say_close(_modes(decode(body, list[str])))

    async def _close(self, body: bytes) -> bytes:
        asked: Close = decode(body, Close)
        deadline = asyncio.get_running_loop().time() + asked.seconds
        return encode(await self._plane.listeners.close(_modes(asked.modes), deadline, self._now))

    async def _end(self, _body: bytes) -> bytes:
        """The last reading; then this process ends."""
        await self._plane.listeners.aclose()
        reading = await self._read(b"")
        asyncio.get_running_loop().call_soon(self._told)
        return reading

    def _told(self) -> None:
        if not self._ended.done():
            self._ended.set_result(TOLD)


def part_of(limit: int, number: int, of: int) -> int:
    """A worker's part of `maxConnections`, as `Acceptor` takes it: 0 is no limit, -1 is none at all, since others have them."""
    return limit and (limit // of + (number < limit % of) or -1)


def _modes(names: list[str]) -> tuple[Mode, ...]:
    return tuple(map(Mode, names))
