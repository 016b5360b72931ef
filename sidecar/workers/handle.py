"""Handle: one worker as the main process sees it: its channel, what it is told, and what was last heard of it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final

from sidecar.config.problem import Problem
from sidecar.model.snapshot import Mode
from sidecar.observe import logs
from sidecar.observe.readings import Reading, Series, unpack
from sidecar.tasks import cancel_and_wait, create_task
from sidecar.workers.channel import MAX_DESCRIPTORS, Channel, ChannelError
from sidecar.workers.forkserver import ForkServer
from sidecar.workers.messages import Close, Handed, Key, Look, Pulse, Settings, Stage, decode, encode, problems_of
from sidecar.workers.outside import Outside, ServedOutside
from sidecar.workers.sockets import Bound
from sidecar.workers.views import Views, decode_views

STUCK_SECONDS: Final = 10.0
"""A worker that has not answered for this long does not serve either."""
STAGE_SECONDS: Final = 30.0
COMMIT_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 10.0
"""On top of what the drain itself may take."""
END_SECONDS: Final = 5.0
READ_EVERY: Final = 5.0
"""Seconds: of a worker that dies, what it counted since it was last read is lost."""
_WORKED: Final = 0.01
"""Seconds of CPU below which a worker has hardly counted anything."""


class Handle:
    """`start` it; `gone` is set when the process has let go of its channel. `aclose` in any case."""

    def __init__(self, number: int, forks: ForkServer, outside: Outside) -> None:
        self.number = number
        self.pid = 0
        self.gone = asyncio.Event()
        self.ready = False
        """It has answered once."""
        self.in_flight: Mapping[str, int] | None = None
        """Exchanges by mode, as last heard; None: never."""
        self.opened_at: Mapping[str, float] = {}
        """When the last connection came since a drain began, by mode (the loop's time)."""
        self.stalled: Sequence[str] = ()
        """Listeners whose clients wait because something is short."""
        self.reading: Reading = {}
        self.figures: Mapping[str, float] = {}
        self._forks = forks
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._cpu = 0.0
        self._read_at = self._loop.time()
        self._cpu_read = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._ending: asyncio.Event | None = None
        ours, self._its = socket.socketpair()
        self._outside = ServedOutside(outside)
        tells = {"follow": self._outside.follow, "follow_object": self._outside.follow_object, "unfollow": self._outside.unfollow}
        self._channel = Channel(ours, calls={}, tells=tells, lost=self._lost, name=f"worker {number}")
        self._outside.channel = self._channel

    async def start(self, of: int, log_format: str, namespace: str, turn: int, seats: int) -> None:
        """Make the process and wait for its first word. Raises ForkFailed, ChannelError or TimeoutError."""
        settings = Settings(self.number, of, logs.get_level(), log_format, namespace)
        self.pid = await self._forks.fork(settings, (self._its.fileno(), turn, seats))
        self._its.close()
        await self.pulse(STAGE_SECONDS)
        self.ready = True

    async def aclose(self) -> None:
        """Whatever it does: nothing more is heard of it."""
        await self._outside.aclose()
        self._its.close()
        await self._channel.aclose()
        if self._reading is not None:
            await cancel_and_wait([self._reading])

    def kill(self) -> None:
        """It does not do what it is told, or not in time."""
        if self.pid and not self.gone.is_set():  # its channel is open, so the number is still this one's
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    @property
    def silent_seconds(self) -> float:
        """Since it last answered."""
        return self._loop.time() - self._heard_at

    def _lost(self) -> None:
        self._outside.close()
        self.gone.set()

    # -- configuration

    async def stage(self, stage: Stage, sockets: Mapping[Key, Bound]) -> list[Problem]:
        """Have it make a configuration ready; `sockets` it does not have yet. Raises ChannelError or TimeoutError."""
        entries = iter(sockets.items())
        while some := list(islice(entries, MAX_DESCRIPTORS)):
            handed = Handed([key for key, _ in some], [bound.column for _, bound in some])
            self._channel.tell("sockets", encode(handed), [bound.sock.fileno() for _, bound in some])
        return problems_of(await self._channel.call("stage", encode(stage), seconds=STAGE_SECONDS))

    async def commit(self) -> None:
        """Put it in force. Raises ChannelError or TimeoutError."""
        await self._channel.call("commit", seconds=COMMIT_SECONDS)

    async def discard(self) -> None:
        """Have it forget what it made ready. Raises ChannelError or TimeoutError."""
        await self._channel.call("discard", seconds=STAGE_SECONDS)

    def set_log_level(self, level: str) -> None:
        """Tell it."""
        self._channel.tell("log_level", encode(level))

    # -- what is known of it

    async def pulse(self, seconds: float = STUCK_SECONDS) -> None:
        """Hear how it is. Raises ChannelError or TimeoutError."""
        pulse: Pulse = decode(await self._channel.call("pulse", seconds=seconds), Pulse)
        now = self._heard_at = self._loop.time()
        self.in_flight, self._cpu, self.stalled = pulse.in_flight, pulse.cpu, pulse.stalled
        self.opened_at = {mode: now - ago for mode, ago in pulse.opened_ago.items()}

    async def beat(self) -> None:
        """`pulse`, and read its counters when it has worked for a while since. Raises as `pulse`."""
        await self.pulse()
        if self._loop.time() - self._read_at >= READ_EVERY and self._cpu - self._cpu_read >= _WORKED:
            await self.read()

    async def read(self) -> None:
        """Take off its counters. Who asks meanwhile waits for the same answer. One that does not answer keeps its last reading."""
        if self._reading is None or self._reading.done():
            self._reading = create_task(self._read(), name=f"read worker {self.number}")
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        try:
            await self._take(await self._channel.call("read", seconds=LOOK_SECONDS))
        except (ChannelError, TimeoutError):
            return

    async def _take(self, answer: bytes) -> None:
        packed, figures = decode(answer, tuple[list[bytes], dict[str, float]])
        reading: dict[str, Series] = {}
        for name, series in unpack(packed):
            reading.setdefault(name, {}).update(series)
            await asyncio.sleep(0)
        self.reading, self.figures = reading, figures
        self._read_at, self._cpu_read = self._loop.time(), self._cpu

    async def look(self, names: Sequence[str], request_id: str) -> Views | None:
        """What the admin surface asks; None: no answer."""
        try:
            return decode_views(await self._channel.call("look", encode(Look(list(names), request_id)), seconds=LOOK_SECONDS))
        except (ChannelError, TimeoutError):
            return None

    # -- the end

    def say_close(self, modes: Iterable[Mode]) -> None:
        """A drain begins."""
        self._channel.tell("say_close", encode([mode.value for mode in modes]))

    def now(self) -> None:
        """Nothing is waited for any more."""
        self._channel.tell("now")

    async def close(self, modes: Iterable[Mode], seconds: float) -> int:
        """Have it close listeners; how many connections were cut. One that does not is killed."""
        asked = encode(Close([mode.value for mode in modes], seconds))
        try:
            return int(decode(await self._channel.call("close", asked, seconds=seconds + CLOSE_SECONDS), int))
        except ChannelError:
            return 0
        except TimeoutError:
            self.kill()
            return max(sum((self.in_flight or {}).values()), 1)

    async def end(self) -> None:
        """Have it end, and keep its last reading. One that does not is killed."""
        self._ending = asyncio.Event()
        try:
            await self._end()
        finally:
            self._ending.set()

    async def ended(self) -> None:
        """Wait for `end`, if it is under way: it may still be taking the last reading of a worker that has gone."""
        if self._ending is not None:
            await self._ending.wait()

    async def _end(self) -> None:
        try:
            await self._take(await self._channel.call("end", seconds=END_SECONDS))
            async with asyncio.timeout(END_SECONDS):
                await self.gone.wait()
        except ChannelError:
            return
        except TimeoutError:
            self.kill()
