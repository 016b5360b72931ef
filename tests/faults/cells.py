"""The fault table: what becomes of an exchange, for every phase and every fault. `test_fault_table.py` proves each cell.

A cell without a script cannot happen, and says why in a few words. `docs/failures.md` is written from these rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from faults.handshakes import (
    ALERT,
    PLAIN,
    after_hello,
    drips_its_flight,
    never_ends_its_hello,
    shakes_after,
    shows_an_expired_certificate,
    with_flight,
)
from faults.rig import read_on
from support.upstream import Connection, Script

from sidecar.model.reason import Clock, Reason

PHASES: Final = ("DNS", "connect", "TLS", "send", "wait", "headers", "body", "idle", "tunnel")
FAULTS: Final = (
    "refuse",
    "reset",
    "black-hole",
    "slow drip",
    "half-close",
    "garbage",
    "truncate",
    "over-long",
    "client leaves",
    "drain",
    "reload",
)
CUT: Final = "cut"
"""The client's connection is reset after what it had got."""
GONE: Final = "gone"
"""The client has left: nobody is answered."""
TUNNEL: Final = "tunnel"
"""The client's tunnel went on to its own clean end."""


@dataclass(frozen=True)
class Cell:
    """`seen`: the status that the client gets, CUT, GONE or TUNNEL. `why_not`: what makes the cell impossible."""

    phase: str
    fault: str
    seen: int | str = 0
    reason: Reason | None = None
    clock: Clock | None = None
    tries: int = 1
    client_kept: bool = False
    """The client's connection takes another request."""
    upstream_kept: bool = False
    """The upstream's connection goes back to its pool."""
    script: Script | None = None
    timeouts: dict[str, float] = field(default_factory=dict)
    connect_timeout: float = 5.0
    why_not: str = ""

    @property
    def name(self) -> str:
        """For pytest."""
        return f"{self.phase}-{self.fault}".replace(" ", "-")


# Scripts


async def serves(connection: Connection) -> None:
    """Answers whatever comes, for ever."""
    while True:
        await connection.read_request()
        await connection.send(OK)


async def resets(connection: Connection) -> None:
    connection.reset()


async def half_closes(connection: Connection) -> None:
    connection.half_close()
    await read_on(connection)


async def waits_to_go(connection: Connection) -> None:
    """Until the test says so; `connection.go` is set by it."""
    while not getattr(connection, "go", False):
        await asyncio.sleep(0.005)


def after_head(*steps: bytes | Script) -> Script:
    """Read a request's head, then send bytes, each a segment of its own, and play scripts in turn."""

    async def play(connection: Connection) -> None:
        await connection.read_head()
        for step in steps:
            if isinstance(step, bytes):
                await connection.send(step)
                await asyncio.sleep(0.01)
            else:
                await step(connection)
        await read_on(connection)

    return play


def drips(data: bytes, pause: float = 0.02) -> Script:
    """A byte at a time, until the peer has had enough."""

    async def play(connection: Connection) -> None:
        for at in range(len(data)):
            if connection._writer.is_closing():
                return
            await connection.send(data[at : at + 1])
            await asyncio.sleep(pause)

    return play


async def takes_slowly(connection: Connection) -> None:
    """The body of an upload, in sips."""
    for _ in range(10):
        await connection.read_some(64 * 1024)
        await asyncio.sleep(0.01)
    await connection.read_exactly(UPLOAD_SIZE - len(connection.received) + connection.received.find(b"\r\n\r\n") + 4)
    await connection.send(OK)


async def echoes(connection: Connection) -> None:
    while data := await connection.read_some():
        await connection.send(data)


UPLOAD_SIZE: Final = 1_000_000
OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OK_10: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
CHUNKED: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SWITCHING: Final = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
HALF_A_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-"
LONG_HEAD: Final = b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000
GARBAGE: Final = b"SSH-2.0-x\r\n\r\n"
NOTHING: Final = after_head()
SOON: Final = 0.15
AFTER_THE_HEAD: Final = 0.5
"""Of a clock that is to fire once the client has the head, on a busy machine too."""

_INCOMPLETE, _TERMINATED = Reason.HTTP_RESPONSE_INCOMPLETE, Reason.CONNECTION_TERMINATED


def _impossible(phase: str, **why: str) -> list[Cell]:
    spelled = {fault.replace("-", "_").replace(" ", "_"): fault for fault in FAULTS}
    return [Cell(phase, spelled[fault], why_not=text) for fault, text in why.items()]


def _endings(phase: str, script: Script, *, reload: Cell) -> list[Cell]:
    """What ends an exchange from our side is the same in every phase."""
    return [
        Cell(phase, "client leaves", GONE, Reason.CLIENT_CLOSED, script=script),
        Cell(phase, "drain", CUT, Reason.DRAINING, script=script),
        reload,
    ]


def _reload(phase: str, script: Script) -> Cell:
    return Cell(phase, "reload", 200, client_kept=True, upstream_kept=True, script=script)


DNS = [
    Cell("DNS", "refuse", 502, Reason.DNS_ERROR, tries=2, client_kept=True, script=serves),
    Cell("DNS", "black-hole", 504, Reason.CONNECTION_TIMEOUT, Clock.CONNECT, tries=2, client_kept=True, script=serves),
    Cell("DNS", "slow drip", 200, client_kept=True, upstream_kept=True, script=serves),
    Cell("DNS", "over-long", 200, client_kept=True, upstream_kept=True, script=serves),
    *_endings("DNS", serves, reload=Cell("DNS", "reload", 200, client_kept=True, upstream_kept=True, script=serves)),
    *_impossible(
        "DNS", reset="a datagram", half_close="a datagram", garbage="is no answer: black-hole", truncate="asked again over TCP by c-ares"
    ),
]
CONNECT = [
    Cell("connect", "refuse", 502, Reason.CONNECTION_REFUSED, tries=2, client_kept=True, script=serves),
    Cell("connect", "black-hole", 504, Reason.CONNECTION_TIMEOUT, Clock.CONNECT, tries=2, client_kept=True, script=serves),
    *_endings(
        "connect",
        serves,
        reload=Cell("connect", "reload", 504, Reason.CONNECTION_TIMEOUT, Clock.CONNECT, tries=2, client_kept=True, script=serves),
    ),
    *_impossible(
        "connect",
        reset="is refuse",
        slow_drip="no bytes of ours",
        half_close="no bytes of ours",
        garbage="no bytes of ours",
        truncate="no bytes of ours",
        over_long="no bytes of ours",
    ),
]
TLS = [
    Cell("TLS", "refuse", 502, Reason.TLS_ALERT_RECEIVED, tries=2, client_kept=True, script=after_hello(ALERT)),
    Cell("TLS", "reset", 502, _TERMINATED, tries=2, client_kept=True, script=after_hello(resets)),
    Cell(
        "TLS",
        "black-hole",
        504,
        Reason.CONNECTION_TIMEOUT,
        Clock.CONNECT,
        tries=2,
        client_kept=True,
        script=after_hello(),
        connect_timeout=SOON * 2,
    ),
    Cell(
        "TLS",
        "slow drip",
        504,
        Reason.CONNECTION_TIMEOUT,
        Clock.CONNECT,
        tries=2,
        client_kept=True,
        script=drips_its_flight,
        connect_timeout=SOON * 2,
    ),
    Cell("TLS", "half-close", 502, _TERMINATED, tries=2, client_kept=True, script=after_hello(half_closes)),
    Cell("TLS", "garbage", 502, Reason.TLS_PROTOCOL_ERROR, tries=2, client_kept=True, script=after_hello(PLAIN)),
    Cell("TLS", "truncate", 502, _TERMINATED, tries=2, client_kept=True, script=with_flight(half_closes, keep=200)),
    Cell("TLS", "over-long", 502, Reason.TLS_PROTOCOL_ERROR, tries=2, client_kept=True, script=never_ends_its_hello),
    *_endings("TLS", after_hello(), reload=_reload("TLS", shakes_after(waits_to_go))),
]
SEND = [
    Cell("send", "reset", 502, _TERMINATED, script=after_head(resets)),
    Cell("send", "black-hole", 504, Reason.STREAM_IDLE_TIMEOUT, Clock.STREAM_IDLE, script=NOTHING, timeouts={"stream_idle": SOON}),
    Cell("send", "slow drip", 200, client_kept=True, upstream_kept=True, script=after_head(takes_slowly)),
    Cell("send", "half-close", 502, _TERMINATED, script=after_head(half_closes)),
    Cell("send", "garbage", 502, Reason.HTTP_PROTOCOL_ERROR, script=after_head(GARBAGE)),
    Cell("send", "truncate", 502, _INCOMPLETE, script=after_head(HALF_A_HEAD, half_closes)),
    Cell("send", "over-long", 502, Reason.HTTP_RESPONSE_HEADER_SECTION_SIZE, script=after_head(LONG_HEAD)),
    *_endings("send", NOTHING, reload=_reload("send", after_head(takes_slowly))),
    *_impossible("send", refuse="is a response"),
]
WAIT = [
    Cell("wait", "refuse", 503, client_kept=True, upstream_kept=True, script=after_head(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")),
    Cell("wait", "reset", 502, _TERMINATED, client_kept=True, script=after_head(resets)),
    Cell(
        "wait",
        "black-hole",
        504,
        Reason.HTTP_RESPONSE_TIMEOUT,
        Clock.RESPONSE_HEADER,
        client_kept=True,
        script=NOTHING,
        timeouts={"response_header": SOON},
    ),
    Cell(
        "wait",
        "slow drip",
        504,
        Reason.HTTP_RESPONSE_TIMEOUT,
        Clock.RESPONSE_HEADER,
        client_kept=True,
        script=after_head(drips(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 9, 0.001), NOTHING),
        timeouts={"response_header": SOON * 3},
    ),
    Cell("wait", "half-close", 502, _TERMINATED, client_kept=True, script=after_head(half_closes)),
    Cell("wait", "garbage", 502, Reason.HTTP_PROTOCOL_ERROR, client_kept=True, script=after_head(GARBAGE)),
    Cell("wait", "over-long", 502, Reason.HTTP_PROTOCOL_ERROR, client_kept=True, script=after_head(b"HTTP/1.1 103 E\r\n\r\n" * 17)),
    *_endings("wait", NOTHING, reload=_reload("wait", after_head(waits_to_go, OK))),
    *_impossible("wait", truncate="is half-close"),
]
HEADERS = [
    Cell("headers", "reset", 502, _INCOMPLETE, client_kept=True, script=after_head(HALF_A_HEAD, resets)),
    Cell(
        "headers",
        "black-hole",
        504,
        Reason.HTTP_RESPONSE_TIMEOUT,
        Clock.RESPONSE_HEADER,
        client_kept=True,
        script=after_head(HALF_A_HEAD),
        timeouts={"response_header": SOON},
    ),
    Cell(
        "headers",
        "slow drip",
        504,
        Reason.HTTP_RESPONSE_TIMEOUT,
        Clock.RESPONSE_HEADER,
        client_kept=True,
        script=after_head(drips(HALF_A_HEAD * 40)),
        timeouts={"response_header": SOON * 2},
    ),
    Cell("headers", "half-close", 502, _INCOMPLETE, client_kept=True, script=after_head(HALF_A_HEAD, half_closes)),
    Cell(
        "headers", "garbage", 502, Reason.HTTP_PROTOCOL_ERROR, client_kept=True, script=after_head(b"HTTP/1.1 200 OK\r\nbad line\r\n\r\n")
    ),
    Cell("headers", "over-long", 502, Reason.HTTP_RESPONSE_HEADER_SECTION_SIZE, client_kept=True, script=after_head(LONG_HEAD)),
    *_endings("headers", after_head(HALF_A_HEAD), reload=_reload("headers", after_head(OK[:20], waits_to_go, OK[20:]))),
    *_impossible("headers", refuse="is a response", truncate="is half-close"),
]
BODY = [
    Cell("body", "reset", CUT, _INCOMPLETE, script=after_head(OK_10 + b"hello", resets)),
    Cell(
        "body",
        "black-hole",
        CUT,
        Reason.STREAM_IDLE_TIMEOUT,
        Clock.STREAM_IDLE,
        script=after_head(OK_10 + b"hello"),
        timeouts={"stream_idle": AFTER_THE_HEAD},
    ),
    Cell(
        "body",
        "slow drip",
        200,
        client_kept=True,
        upstream_kept=True,
        script=after_head(OK_10, drips(b"0123456789")),
        timeouts={"stream_idle": 2.0},
    ),
    Cell("body", "half-close", CUT, _INCOMPLETE, script=after_head(OK_10 + b"hello", half_closes)),
    Cell("body", "garbage", CUT, Reason.HTTP_PROTOCOL_ERROR, script=after_head(CHUNKED + b"5\r\nhello\r\n", b"zz\r\n")),
    Cell("body", "truncate", CUT, _INCOMPLETE, script=after_head(CHUNKED + b"5\r\nhello\r\n0\r\n", half_closes)),
    Cell("body", "over-long", 200, client_kept=True, script=after_head(OK_10 + b"0123456789and more")),
    *_endings("body", after_head(OK_10 + b"hello"), reload=_reload("body", after_head(OK_10 + b"hello", waits_to_go, b"world"))),
    *_impossible("body", refuse="is a response"),
]
IDLE = [
    Cell("idle", "reset", 200, client_kept=True, script=after_head(OK, waits_to_go, resets)),
    Cell(
        "idle",
        "black-hole",
        504,
        Reason.HTTP_RESPONSE_TIMEOUT,
        Clock.RESPONSE_HEADER,
        client_kept=True,
        script=after_head(OK),
        timeouts={"response_header": SOON * 4},
    ),
    Cell("idle", "slow drip", 200, client_kept=True, script=after_head(OK, waits_to_go, b"H")),
    Cell("idle", "half-close", 200, client_kept=True, script=after_head(OK, waits_to_go, half_closes)),
    Cell("idle", "garbage", 200, client_kept=True, script=after_head(OK, waits_to_go, GARBAGE)),
    Cell(
        "idle", "over-long", 200, client_kept=True, script=after_head(OK, waits_to_go, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale")
    ),
    Cell("idle", "client leaves", GONE, script=serves),
    Cell("idle", "drain", GONE, script=serves),
    Cell("idle", "reload", 200, client_kept=True, upstream_kept=True, script=serves),
    *_impossible("idle", refuse="nothing is asked", truncate="nothing is under way"),
]
TUNNELS = [
    Cell("tunnel", "refuse", 403, client_kept=True, upstream_kept=True, script=after_head(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")),
    Cell("tunnel", "reset", CUT, script=after_head(SWITCHING, resets)),
    Cell(
        "tunnel",
        "black-hole",
        CUT,
        Reason.STREAM_IDLE_TIMEOUT,
        Clock.TUNNEL_IDLE,
        script=after_head(SWITCHING),
        timeouts={"tunnel_idle": AFTER_THE_HEAD},
    ),
    Cell("tunnel", "slow drip", TUNNEL, script=after_head(SWITCHING, drips(b"0123456789")), timeouts={"tunnel_idle": 2.0}),
    Cell("tunnel", "half-close", TUNNEL, script=after_head(SWITCHING + b"0123456789", half_closes)),
    Cell("tunnel", "garbage", TUNNEL, script=after_head(SWITCHING + b"\x00\xff\r\n\r\n\x16\x03\x01ab")),
    Cell("tunnel", "client leaves", GONE, script=after_head(SWITCHING)),
    Cell("tunnel", "drain", CUT, Reason.DRAINING, script=after_head(SWITCHING)),
    Cell("tunnel", "reload", TUNNEL, script=after_head(SWITCHING, waits_to_go, b"0123456789")),
    *_impossible("tunnel", truncate="is half-close", over_long="bytes without a length"),
]
MORE: Final[Sequence[Cell]] = [
    Cell("TLS", "certificate", 502, Reason.TLS_CERTIFICATE_ERROR, client_kept=True, script=shows_an_expired_certificate),
]
"""What can happen in one phase only."""
CELLS: Final[Sequence[Cell]] = [*DNS, *CONNECT, *TLS, *SEND, *WAIT, *HEADERS, *BODY, *IDLE, *TUNNELS]
