"""What the tests of upstreams share: a scripted DNS server, a black hole, an observer that remembers."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Self

import pycares
from support.black_hole import black_hole

from sidecar.model.endpoint import Endpoint
from sidecar.model.exchange import Attempt
from sidecar.model.head import ResponseHead
from sidecar.model.outbound import OutboundRequest
from sidecar.model.snapshot import Timeouts
from sidecar.policy.deadline import Deadlines

pycares.Channel().close()  # pycares keeps one thread from the first channel on

__all__ = ["DnsServer", "RecordingObserver", "attempt", "black_hole", "deadlines", "get", "here", "no_interim", "record", "until"]

A, AAAA = 1, 28
NXDOMAIN, SERVFAIL = 3, 2


class DnsServer(asyncio.DatagramProtocol):
    """Answers A and AAAA questions from `records[name] = [(address, ttl), ...]`; a number instead is an rcode.

    Names that are not there: NXDOMAIN. `silent`: answers nothing. `asked` has every question as (name, type).
    """

    def __init__(self) -> None:
        self.records: dict[str, list[tuple[str, int]] | int] = {}
        self.silent = False
        self.asked: list[tuple[str, int]] = []
        self.heard = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.transport.close()
        await asyncio.sleep(0)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.transport.get_extra_info('sockname')[1]}"

    def questions(self, name: str) -> int:
        """How often the A record of `name` was asked for."""
        return self.asked.count((name, A))

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        name, (kind,) = ".".join(labels).lower(), struct.unpack(">H", data[at + 1 : at + 3])
        self.asked.append((name, kind))
        self.heard.set()
        if self.silent:
            return
        found = self.records.get(name, NXDOMAIN)
        rcode, answers = (
            (found, []) if isinstance(found, int) else (0, [record(a, ttl) for a, ttl in found if (":" in a) == (kind == AAAA)])
        )
        self.transport.sendto(
            data[:2] + struct.pack(">HHHHH", 0x8180 | rcode, 1, len(answers), 0, 0) + data[12 : at + 5] + b"".join(answers), peer
        )


def record(address: str, ttl: int) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    return b"\xc0\x0c" + struct.pack(">HHIH", AAAA if ":" in address else A, 1, ttl, len(packed)) + packed


class RecordingObserver:
    """Only what upstreams report."""

    def __init__(self) -> None:
        self.connects: list[tuple[str, str]] = []

    def upstream_connected(self, upstream: str, result: str, seconds: float) -> None:
        assert seconds >= 0
        self.connects.append((upstream, result))


def get(target: bytes = b"/") -> OutboundRequest:
    return OutboundRequest(b"GET", target, [(b"Host", b"host", b"a")], [], 0, None)


def attempt() -> Attempt:
    return Attempt(1, asyncio.get_running_loop().time())


def deadlines(**clocks: float) -> Deadlines:
    return Deadlines(Timeouts(**clocks))


def no_interim(_head: ResponseHead) -> None:
    raise AssertionError("no interim response was expected")


def here(port: int) -> Endpoint:
    return Endpoint("127.0.0.1", port)


async def until(condition, *, turns: int = 6000) -> None:
    """Let the loop turn until `condition()` holds."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to that")
