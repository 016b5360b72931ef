"""Plays response vectors: a scripted upstream, a sidecar in this process, a client that keeps every byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ssl import SSLContext
from typing import Any, NamedTuple, Self

from corpus_data import EDGES, Vector, to_bytes
from corpus_wire import GOOD, LIMIT, PROBE, Ear, cut_message, expand, talk, turns
from support.engine import Engine, upstream

GOOD_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
LAST_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nfresh"
FRESH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nVia: 1.1 outrider\r\nConnection: close\r\n\r\nfresh"
POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"


class Script(NamedTuple):
    """What the upstream says to one request, and how it ends: `hold` (it goes on), `fin` or `reset`."""

    pieces: list[bytes]
    end: str = "hold"


class Speaker:
    """An upstream that answers its n-th request, on whatever connection it comes, by the n-th script."""

    def __init__(self, ssl: SSLContext | None = None) -> None:
        self.connections: set[_Spoken] = set()
        self._ssl = ssl
        self.accepted = 0
        self._server: asyncio.Server | None = None
        self.begin([], 0)

    def begin(self, scripts: list[Script], vector: int) -> None:
        """Forget the last vector. `vector` is the index of the script that is under test: `said` is set when it is over."""
        self.scripts = list(scripts)
        self.used: list[int] = []
        self.vector = vector
        self.said = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Spoken(self), "127.0.0.1", 0, ssl=self._ssl)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self.connections):
            connection.transport.abort()
        for task in self.tasks:
            task.cancel()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])


class _Spoken(asyncio.Protocol):
    def __init__(self, speaker: Speaker) -> None:
        self.speaker = speaker
        self.rx = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.number = self.speaker.accepted
        self.speaker.accepted += 1
        self.speaker.connections.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self.speaker.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self.rx += data
        part, rest = cut_message(self.rx)
        if not part.complete:
            return
        self.rx = rest
        speaker = self.speaker
        index = len(speaker.used)
        speaker.used.append(self.number)
        if index >= len(speaker.scripts):
            self.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._say(speaker.scripts[index], speaker, index))
        speaker.tasks.add(task)
        task.add_done_callback(speaker.tasks.discard)

    async def _say(self, script: Script, speaker: Speaker, index: int) -> None:
        for number, piece in enumerate(script.pieces):
            if number:
                await turns()
            if self.transport.is_closing():
                break
            self.transport.write(piece)
        if script.end != "hold" and not self.transport.is_closing():
            await turns(4)  # or the kernel throws away what was sent
            if script.end == "fin":
                self.transport.close()
            else:
                self.transport.abort()
        if index == speaker.vector:
            await turns(4)
            speaker.said.set()


class Lane(NamedTuple):
    """One sidecar and its upstream."""

    port: int
    speaker: Speaker
    ssl: SSLContext | None = None
    """What its clients speak."""


@asynccontextmanager
async def lane() -> AsyncIterator[Lane]:
    """A sidecar in front of a speaker."""
    async with Speaker() as speaker, Engine(upstream(speaker.port)) as engine:
        yield Lane(engine.port(), speaker)


class Delivery(NamedTuple):
    """One way to say a vector. `warm`: on a connection that has served; `poisoned`: another response comes with it."""

    label: str
    pieces: list[bytes]
    warm: bool = False
    poisoned: bool = False


def deliveries(vector: Vector) -> Iterator[Delivery]:
    """Whole, on a used connection, with a poisonous response behind, byte by byte, and cut wherever `vector.cuts` says."""
    data = vector.data
    yield Delivery("whole", [data])
    if not data:
        return
    yield Delivery("on a used connection", [data], warm=True)
    if vector.expected.get("end", "hold") == "hold":
        yield Delivery("before another response", [data + POISON], poisoned=True)
    if not vector.generated:
        slow = len(data) if len(data) <= EDGES * 10 else EDGES
        yield Delivery("byte by byte", [*[data[at : at + 1] for at in range(slow)], *([data[slow:]] if data[slow:] else [])])
    for cut in vector.cuts:
        yield Delivery(f"cut at {cut}", [data[:cut], data[cut:]])


async def play(lane: Lane, vector: Vector, delivery: Delivery) -> str:
    """Deliver, then ask once more; says what is wrong, "" when nothing is."""
    scripts = [Script([GOOD_ANSWER])] if delivery.warm else []
    scripts += [Script(delivery.pieces, vector.expected.get("end", "hold")), Script([LAST_ANSWER])]
    lane.speaker.begin(scripts, int(delivery.warm))
    wrong = await _ask(lane, vector, delivery) or _connection_wrong(vector, delivery, lane.speaker.used)
    return f"{vector}, {delivery.label}: {wrong}" if wrong else ""


async def _ask(lane: Lane, vector: Vector, delivery: Delivery) -> str:
    ask = to_bytes(vector.expected["ask"]) if "ask" in vector.expected else GOOD
    transport, ear = await asyncio.get_running_loop().create_connection(Ear, "127.0.0.1", lane.port, ssl=lane.ssl)
    try:
        if delivery.warm:
            transport.write(GOOD)
            await ear.wait_for(1)
            ear.data.clear()
        transport.write(ask)
        async with asyncio.timeout(LIMIT):
            await lane.speaker.said.wait()
            got = await _first_answer(ear, vector, ask)
        if wrong := _answer_wrong(vector, got, ear):
            return wrong
        if _says_close(got):
            async with asyncio.timeout(LIMIT):  # its end may come a moment behind its last byte
                await ear.over
        if not ear.over.done():
            ear.data.clear()
            transport.write(PROBE)
            async with asyncio.timeout(LIMIT):
                await ear.over
            probed = bytes(ear.data)
        else:
            probed = (await talk(lane.port, [PROBE], ssl=lane.ssl)).data
    except TimeoutError:
        return f"hangs after {bytes(ear.data[:300])!r}"
    finally:
        transport.abort()
    return "" if probed == FRESH else f"the next request got {probed!r}"


def _says_close(got: list[bytes] | None) -> bool:
    return got is not None and len(got) > 0 and b"\r\nConnection: close\r\n" in got[-1]


async def _first_answer(ear: Ear, vector: Vector, ask: bytes) -> list[bytes] | None:
    """The messages of the answer in canonical form, interim ones first; None when the connection was cut inside it."""
    wanted = len(vector.expected.get("client", [""])) + vector.expected.get("interims", 0)
    bodiless = ask.startswith(b"HEAD ")
    while True:
        found, rest = [], bytes(ear.data)
        while rest:
            code = rest[9:12]
            part, rest = cut_message(rest, bodiless=bodiless or code[:1] == b"1" or code in (b"204", b"304"))
            open_ended = b"\r\nContent-Length:" not in part.data and b"\r\nTransfer-Encoding:" not in part.data and not bodiless
            if open_ended and code[:1] != b"1" and code not in (b"204", b"304"):  # until close
                part, rest = part._replace(data=part.data + rest, complete=ear.over.done()), b""
            if part.complete:
                found.append(part.data)
        if ear.over.done():
            return None if ear.over.result() == "reset" else found
        if len(found) >= wanted:
            await turns(4)
            return found
        await asyncio.sleep(0.0005)


def _answer_wrong(vector: Vector, got: list[bytes] | None, ear: Ear) -> str:
    expected = vector.expected
    heard = bytes(ear.data[:300])
    if expected.get("status") == "cut":
        return "" if got is None else f"not cut: {heard!r}"
    if got is None:
        return f"cut: {heard!r}"
    if "client" in expected:
        wanted = [expand(text) for text in expected["client"]]
        return "" if got == wanted else f"got {got}, not {wanted}"
    status = b"HTTP/1.1 %d " % expected["status"]
    *interims, last = got or [b""]
    if len(interims) != expected.get("interims", 0) or not all(head.startswith(b"HTTP/1.1 1") for head in interims):
        return f"{len(interims)} interim responses: {heard!r}"
    if not last.startswith(status) or b"\r\nProxy-Status: outrider; error=" not in last:
        return f"not our own {expected['status']}: {got}"
    return ""


def _connection_wrong(vector: Vector, delivery: Delivery, used: list[int]) -> str:
    if len(used) != 2 + delivery.warm:
        return f"{len(used)} requests reached the upstream"
    kept = used[-1] == used[-2]
    wanted = vector.expected.get("then", "close") == "keep" and not delivery.poisoned
    if kept != wanted:
        return "its connection was " + ("used again" if kept else "not used again")
    return "" if not delivery.warm or used[0] == used[1] else "the good exchange before it lost its connection"
