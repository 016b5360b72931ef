"""What the processes say to each other, besides names and numbers: structures that msgpack carries."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from sidecar.config.packed import Packed
from sidecar.config.problem import Problem
from sidecar.model.tls import CaRef, CertificateRef

Key = tuple[str, str, int]
"""server.port.port_key of a listener."""

encode: Final = msgspec.msgpack.Encoder().encode


class Settings(Struct, frozen=True):
    """What a worker is made with. `number`: from 0; `of`: how many there are."""

    number: int
    of: int
    log_level: str
    log_format: str
    namespace: str


class Handed(Struct, frozen=True):
    """Listening sockets, in the order of the descriptors that come along; `columns` of the seats."""

    keys: list[Key]
    columns: list[int]


class Stage(Struct, frozen=True):
    """A configuration to make ready. `keys`: the listeners that have a socket (a drain has closed the others)."""

    source: str
    revision: str
    hash: str
    packed: Packed
    origins: bytes
    warnings: list[str]
    keys: list[Key]


class Look(Struct, frozen=True):
    """Which views are wanted (`views.py`); `request_id` is for `why`."""

    names: list[str]
    request_id: str = ""


class Close(Struct, frozen=True):
    """Close the listeners of these modes within so many seconds."""

    modes: list[str]
    seconds: float


class Pulse(Struct, frozen=True):
    """How a worker is. By mode: what is in flight, and how many seconds ago the last connection came since a drain began.

    `cpu`: seconds of its process; `stalled`: listeners whose clients wait because something is short.
    """

    in_flight: dict[str, int]
    opened_ago: dict[str, float]
    cpu: float
    stalled: list[str]


class FollowOne(Struct, frozen=True):
    """A Kubernetes Service that upstreams of a worker want; `number` is the worker's for it."""

    number: int
    name: str
    namespace: str | None
    port: int | str


class Endpoints(Struct, frozen=True):
    """What is known of it: (host, port, alternate)."""

    number: int
    addresses: list[tuple[str, int, str]]
    problem: str


class FollowObject(Struct, frozen=True):
    """A certificate or a CA bundle in the API server; one of the two is given."""

    number: int
    certificate: CertificateRef | None
    ca: CaRef | None


class Held(Struct, frozen=True):
    """What is known of it. `public`: PEM, empty while there is none; `key`: of a certificate."""

    number: int
    public: bytes
    key: bytes | None
    problem: str
    settled: bool


_problems = msgspec.msgpack.Decoder(list[Problem])


def problems_of(answer: bytes) -> list[Problem]:
    """Why a worker cannot make a configuration ready; [] when it is ready."""
    return _problems.decode(answer)


def decode(data: bytes, kind: type[Any]) -> Any:
    """`data` as a `kind`. Raises msgspec.DecodeError; both ends are ours, so that is a bug."""
    return msgspec.msgpack.decode(data, type=kind)
