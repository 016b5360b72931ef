"""The clients of the soak: each knows what every answer must be, and keeps what it cannot explain."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Final, NamedTuple

from soak.test_mixed import Server, body_for
from support import RawClient
from support.wire import Message, TooSlow

PATIENCE: Final = 30.0
REST: Final = 0.05
"""Seconds that a client waits after a failure: an open breaker is not the load that is wanted."""
MIB: Final = 1024 * 1024
GIVEN_UP: Final = (asyncio.IncompleteReadError, ConnectionError, TimeoutError, RuntimeError, TooSlow)
"""What a client sees when its connection is cut (RuntimeError: uvloop's word for writing to one that is closed)."""
KINDS: Final = ("GET", "HEAD", "POST", "chunked POST", "Expect", "pipelined", "long answer", "long upload", "WebSocket", "mirrored")
WHERE: Final = ("", "", "", "secure", "h2")
"""The upstream that is asked for, by a field; an empty one is the plain one."""
HANDSHAKE: Final = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


class Door(NamedTuple):
    """A listener: its port, and what its clients speak."""

    port: int
    ssl: SSLContext | None


@dataclass
class Tally:
    """What has been seen."""

    answered: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    """Answers with 200, by kind, by upstream and by listener."""
    events: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    """Request id -> what the client saw, until the log has explained it."""
    wrong: list[str] = field(default_factory=list)
    """Answers of other requests, bodies with other bytes, requests that came twice."""
    done: int = 0
    unanswered: int = 0
    """Requests on a connection that closed without a byte: it was closed while the request was on its way (RFC 9112 section 9.5)."""


class Asked(NamedTuple):
    """A request on its way."""

    tag: str
    kind: str
    to: str
    method: str
    size: int


class Client:
    """One client after another on its own connections."""

    def __init__(self, number: int, rng: random.Random, tally: Tally, door: Callable[[], Door]) -> None:
        self.number = number
        self.rng = rng
        self.tally = tally
        self.door = door
        self.count = 0
        self.secure = False
        self.resting = False
        """Its last request has failed."""

    async def run(self, ending: asyncio.Event) -> None:
        """Until `ending`."""
        while not ending.is_set():
            try:
                port, ssl = self.door()
                self.secure = ssl is not None
                async with await RawClient.open(port, timeout=PATIENCE, ssl=ssl, name="localhost") as wire:
                    for _ in range(self.rng.randrange(20, 200)):
                        if ending.is_set() or not await self._some(wire):
                            break
            except OSError:
                self.tally.events["connection refused: the listener was away"] += 1
                await asyncio.sleep(0.05)

    def _ask(self, kind: str, method: str, size: int, how: str, *, to: str = "", more: str = "") -> tuple[Asked, bytes]:
        self.count += 1
        tag = f"c{self.number}-{self.count}"
        chosen = f"x-to: {to}\r\n" if to else ""
        words = f"{method} /{tag}/{size}/{how} HTTP/1.1\r\nHost: a\r\nx-request-id: {tag}\r\n{chosen}{more}\r\n"
        return Asked(tag, kind, to, method, size), words.encode()

    def _next_tag(self) -> bytes:
        return f"c{self.number}-{self.count + 1}".encode()

    def _size(self) -> int:
        return self.rng.choice((0, 10, 300, 1000, 5000)) if self.rng.random() < 0.95 else self.rng.randrange(200 * 1024)

    async def _some(self, wire: RawClient) -> bool:
        """One exchange, or some on one connection; False when the connection is used up."""
        dice, to, size = self.rng.random(), self.rng.choice(WHERE), self._size()
        if dice < 0.50:
            how = self.rng.choice(("plain", "plain", "chunked", "closes", "flaky", "dies"))
            return await self._talk(wire, [self._ask("GET", "GET", size, how, to=to)])
        if dice < 0.55:
            return await self._talk(wire, [self._ask("HEAD", "HEAD", size, "plain", to=to)])
        if dice < 0.90:
            return await self._upload(wire, dice, to or self.rng.choice(("", "mirrored")), size)
        if dice < 0.93:
            some = [self._ask("pipelined", "GET", self._size(), "plain", to=to) for _ in range(self.rng.randrange(2, 6))]
            return await self._talk(wire, some)
        if dice < 0.94:
            how = self.rng.choice(("plain", "chunked"))
            return await self._talk(wire, [self._ask("long answer", "GET", self.rng.randrange(MIB, 4 * MIB), how, to=to)])
        if dice < 0.96:
            await self._tunnel(wire, self.rng.choice(("", "secure")))
            return False
        await self._leave(wire, to, size)
        return False

    async def _upload(self, wire: RawClient, dice: float, to: str, size: int) -> bool:
        tag, kind = self._next_tag(), "mirrored" if to == "mirrored" else "POST"
        body = body_for(tag, self.rng.randrange(20_000))
        if dice < 0.70:
            asked, head = self._ask(kind, "POST", size, "plain", to=to, more=f"Content-Length: {len(body)}\r\n")
            return await self._talk(wire, [(asked, head + body)])
        if dice < 0.82:
            asked, head = self._ask("chunked POST", "POST", size, "plain", to=to, more="Transfer-Encoding: chunked\r\n")
            step = self.rng.randrange(100, 10_000)
            chunks = [body[start : start + step] for start in range(0, len(body), step)]
            return await self._talk(wire, [(asked, head + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in chunks) + b"0\r\n\r\n")])
        if dice < 0.88:
            asked, head = self._ask("Expect", "POST", size, "plain", to=to, more=f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n")
            return await self._talk(wire, [(asked, head)], then=body)
        body = body_for(tag, self.rng.randrange(MIB, 3 * MIB))
        asked, head = self._ask("long upload", "POST", size, "plain", to=to, more=f"Content-Length: {len(body)}\r\n")
        return await self._talk(wire, [(asked, head + body)])

    async def _talk(self, wire: RawClient, some: list[tuple[Asked, bytes]], *, then: bytes = b"") -> bool:
        """Send all at once, read the answers in order. `then`: sent when a 100 has come."""
        waiting, begun = [asked for asked, _ in some], False
        self.tally.done += len(some)
        try:
            await wire.send(b"".join(words for _, words in some))
            while waiting:
                if self.resting:
                    await asyncio.sleep(REST)
                begun, self.resting = False, False
                head = await wire.read_head()
                while head.start.startswith(b"HTTP/1.1 100 "):
                    if then:
                        await wire.send(then)
                    then = b""
                    head = await wire.read_head()
                begun = True
                answer = Message(head.start, head.fields)
                if waiting[0].method != "HEAD":
                    await wire.read_body(answer)
                self._check(answer, waiting.pop(0))
                if answer.get("connection") == "close":
                    break
        except GIVEN_UP as error:
            late = "too late: " if isinstance(error, TooSlow) else ""
            self.tally.failed[waiting.pop(0).tag] = late + ("cut" if begun else "no answer")
            self.tally.unanswered += len(waiting)
            return False
        self.tally.unanswered += len(waiting)  # behind a last answer: pipelined, and not looked at (RFC 9112 section 9.6)
        return answer.get("connection") != "close"

    def _check(self, answer: Message, asked: Asked) -> None:
        tag, status = asked.tag, answer.start.split(b" ")[1].decode()
        if status == "200":
            wanted = b"" if asked.method == "HEAD" else body_for(tag.encode(), asked.size)
            if answer.get("x-tag") != tag or answer.body != wanted:
                self.tally.wrong.append(f"{tag}: the answer of {answer.get('x-tag')}, {len(answer.body)} bytes")
            if asked.method == "POST" and Server.seen.pop(tag.encode(), 0) != 1:
                self.tally.wrong.append(f"{tag}: a POST that was answered did not come exactly once")
            self.tally.answered["200"] += 1
            self.tally.kinds.update((asked.kind, f"to {asked.to or 'app'}", "over TLS" if self.secure else "plain"))
        elif answer.get("proxy-status") is None and answer.body == b"busy":
            self.tally.answered[f"{status} of the upstream, passed on"] += 1
        elif answer.get("proxy-status") is None:
            self.tally.wrong.append(f"{tag}: {status} from the upstream: it got another body than was sent")
        else:
            self.tally.failed[tag], self.resting = status, True
        Server.flaky.discard(tag.encode())

    async def _tunnel(self, wire: RawClient, to: str) -> None:
        """An upgrade; then some messages, each of which must come back."""
        asked, words = self._ask("WebSocket", "GET", 0, "websocket", to=to, more=HANDSHAKE)
        self.tally.done += 1
        begun = False
        try:
            await wire.send(words)
            head = await wire.read_head()
            begun = True
            if not head.start.startswith(b"HTTP/1.1 101 "):
                await wire.read_body(head)
                self._check(head, asked)
                return
            for number in range(self.rng.randrange(1, 20)):
                message = body_for(f"{asked.tag}-{number}".encode(), self.rng.choice((1, 100, 5000, 60_000)))
                await wire.send(message)
                if await wire.read_exactly(len(message)) != message:
                    self.tally.wrong.append(f"{asked.tag}: other bytes came back in the tunnel")
                    return
            self.tally.kinds.update((asked.kind, f"to {asked.to or 'app'}", "over TLS" if self.secure else "plain"))
            self.tally.answered["101"] += 1
        except GIVEN_UP:
            self.tally.failed[asked.tag] = "tunnel cut" if begun else "no answer"

    async def _leave(self, wire: RawClient, to: str, size: int) -> None:
        _, words = self._ask("left", "GET", max(size, 50_000), self.rng.choice(("plain", "chunked")), to=to)
        try:
            await wire.send(words[: self.rng.randrange(10, len(words) + 1)])
            if self.rng.random() < 0.5:
                await asyncio.sleep(self.rng.random() * 0.01)
        except GIVEN_UP:
            return
        if self.rng.random() < 0.5 or self.secure:  # TLS has no half-closed connections in asyncio
            wire.reset()
        else:
            wire.half_close()
        self.tally.events["client left in the middle"] += 1
