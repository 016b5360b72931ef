"""Plays request vectors: a sidecar in this process, upstreams that keep every byte, and each way to deliver a message."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ssl import SSLContext
from typing import Any, NamedTuple, Self

from corpus_data import EDGES, Vector, to_bytes
from corpus_settings import ALLOW, engine
from corpus_wire import GOOD, LIMIT, PROBE, Heard, cut_message, expand, matches, talk
from support.engine import Engine

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_host = re.compile(r"\r\nhost:[ \t]*([^\r]*?)[ \t]*\r\n", re.IGNORECASE).search


class Catcher:
    """An upstream that keeps what reaches it: whole messages in canonical form, and beginnings that never became one."""

    def __init__(self, ssl: SSLContext | None = None) -> None:
        self.connections: set[_Caught] = set()
        self._ssl = ssl
        self._server: asyncio.Server | None = None
        self.begin([])

    def begin(self, replies: list[bytes]) -> None:
        """A vector begins: forget the last one. The n-th request gets the n-th reply, later ones the usual."""
        self.whole: list[bytes] = []
        self.partial: list[bytes] = []
        self.raw: list[bytes] = []
        """As `whole`, but the very bytes."""
        self.replies = list(replies)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Caught(self), "127.0.0.1", 0, ssl=self._ssl)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self.connections):
            connection.transport.abort()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def settle(self) -> str:
        """Wait until no connection is in the middle of a message; says what is wrong when that does not happen."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LIMIT
        while any(one.rx or one.tunnel for one in self.connections):
            if loop.time() > deadline:
                return "the upstream's connection was left in the middle of a message"
            await asyncio.sleep(0.001)
        return ""


class _Caught(asyncio.Protocol):
    def __init__(self, catcher: Catcher) -> None:
        self.catcher = catcher
        self.rx = b""
        self.tunnel = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.catcher.connections.add(self)

    def data_received(self, data: bytes) -> None:
        self.rx += data
        while self.rx and not self.tunnel:
            part, rest = cut_message(self.rx)
            if not part.complete:
                return
            self.catcher.whole.append(part.data)
            self.catcher.raw.append(self.rx[: len(self.rx) - len(rest)])
            self.rx = rest
            reply = self.catcher.replies.pop(0) if self.catcher.replies else OK
            self.tunnel = reply.startswith(b"HTTP/1.1 101")
            self.transport.write(reply)

    def connection_lost(self, _error: Exception | None) -> None:
        self.catcher.connections.discard(self)
        if self.rx:
            (self.catcher.whole if self.tunnel else self.catcher.partial).append(self.rx)


class Lane(NamedTuple):
    """One sidecar and its upstreams: one vector at a time, several lanes beside each other."""

    app: Catcher
    guarded: Catcher
    port: int
    engine: Engine | None = None
    """None: a process of its own, whose counters are not looked at."""
    ssl: SSLContext | None = None
    """What its clients speak."""


@asynccontextmanager
async def lane(setting: str) -> AsyncIterator[Lane]:
    """A lane with the sidecar that `setting` names."""
    async with Catcher() as app, Catcher() as guarded, engine(setting, app.port, guarded.port) as running:
        yield Lane(app, guarded, running.port("outbound" if setting in ALLOW else "inbound"), running)


class Delivery(NamedTuple):
    """One way to send a vector's bytes. `behind`: a good request goes first; `probe`: one comes last and must be served."""

    label: str
    pieces: list[bytes]
    probe: bool
    behind: bool = False


def deliveries(vector: Vector) -> Iterator[Delivery]:
    """Whole, behind and before a good request, byte by byte, and cut in two wherever `vector.cuts` says."""
    data, keep = vector.data, keeps(vector)
    last = [PROBE] if keep else []
    yield Delivery("whole", [data, *last], keep)
    if not vector.expected.get("fin"):  # a FIN says that the client has left
        yield Delivery("before a good one", [data + PROBE], keep)
        yield Delivery("behind a good one", [GOOD + data, *last], keep, behind=True)
    if not vector.generated:
        slow = len(data) if len(data) <= EDGES * 10 else EDGES
        rest = [data[slow:]] if data[slow:] else []
        yield Delivery("byte by byte", [*[data[at : at + 1] for at in range(slow)], *rest, *last], keep)
    for cut in vector.cuts:
        yield Delivery(f"cut at {cut}", [data[:cut], data[cut:], *last], keep)


def statuses(vector: Vector) -> list[int]:
    """What the client must be answered, in order."""
    found = vector.expected.get("status", 200)
    return [found] if isinstance(found, int) else list(found)


def keeps(vector: Vector) -> bool:
    """Whether the connection serves another request afterwards."""
    default = "keep" if all(status < 400 for status in statuses(vector)) else "close"
    return bool(vector.expected.get("then", default) == "keep")


def forwarded(vector: Vector) -> list[bytes]:
    """What must reach the upstream, with a mark for ids that are made anew."""
    found = []
    for text in vector.expected.get("forward", []):
        if text == "=":
            head, _, body = vector.data.decode("latin-1").partition("\r\n\r\n")
            host = _host(head + "\r\n")
            found.append(expand(f"{head}\r\n⟨own:{host[1].lower() if host else ''}⟩\r\n{body}"))
        else:
            found.append(expand(text))
    return found


async def play(lane: Lane, vector: Vector, delivery: Delivery) -> str:
    """Deliver, and say what is wrong; "" when nothing is."""
    replies = [to_bytes(text) for text in vector.expected.get("replies", [])]
    lane.app.begin([OK, *replies] if delivery.behind else replies)
    lane.guarded.begin(replies)
    if lane.engine is not None:
        lane.engine.seen.rejected.clear()
    heads = len(statuses(vector)) + delivery.behind if vector.expected.get("then") == "tunnel" else 0
    heard = await talk(lane.port, delivery.pieces, fin=bool(vector.expected.get("fin")), after=heads, ssl=lane.ssl)
    wrong = await lane.app.settle() or await lane.guarded.settle()
    wrong = wrong or _heard_wrong(vector, delivery, heard) or _caught_wrong(vector, delivery, lane)
    rule = vector.expected.get("rule")
    if not wrong and rule is not None and lane.engine is not None and lane.engine.seen.rejected != [rule]:
        wrong = f"the rules that refused were {lane.engine.seen.rejected}, not {rule}"
    return f"{vector}, {delivery.label}: {wrong}" if wrong else ""


def _heard_wrong(vector: Vector, delivery: Delivery, heard: Heard) -> str:
    wanted = [*([200] if delivery.behind else []), *statuses(vector), *([200] if delivery.probe else [])]
    got, rest = [], heard.data
    last = b""
    while rest:
        code = int(rest[9:12]) if rest[:9] == b"HTTP/1.1 " else -1
        part, rest = cut_message(rest, bodiless=code in (101, 204, 304) or code // 100 == 1)
        got.append(code)
        last = part.data
        if not part.complete:
            return f"an answer is not complete: {heard}"
        if code == 101:
            break
    ended = vector.expected.get("then") if vector.expected.get("then") in ("reset", "tunnel") else "closed"
    if got != wanted or ended not in (heard.ended, "tunnel"):
        return f"answered {got} and {heard.ended}, not {wanted} and {ended}: {heard.data[:300]!r}"
    if ended == "closed" and got and not vector.expected.get("fin") and b"\r\nConnection: close\r\n" not in last:
        return "the last answer does not say that the connection ends"
    return ""


def _caught_wrong(vector: Vector, delivery: Delivery, lane: Lane) -> str:
    mine = forwarded(vector)
    to_app = vector.expected.get("to", "app") == "app"
    app = [expand("GET /good HTTP/1.1\r\nHost: a\r\n⟨own⟩\r\n")] if delivery.behind else []
    app += mine if to_app else []
    app += [expand("GET /probe HTTP/1.1\r\nHost: a\r\n⟨own⟩\r\n")] if delivery.probe else []
    for name, catcher, wanted in (("app", lane.app, app), ("guarded", lane.guarded, [] if to_app else mine)):
        if len(catcher.whole) != len(wanted) or not all(matches(text, data) for text, data in zip(wanted, catcher.whole, strict=True)):
            return f"{name} got {catcher.whole}, not {wanted}"
        if catcher.partial and not vector.expected.get("partial"):
            return f"{name} got the beginning {catcher.partial}"
    return ""
