"""AdminContext: everything that the admin surface may ask of the rest. The composition root fills it in.

Callables, not objects: the surface cannot reach further than this list. They are called on the event loop and return
at once, but for what says otherwise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from sidecar.config.problem import Problem
from sidecar.model.snapshot import Snapshot
from sidecar.model.status import UpstreamStatus
from sidecar.observe.traffic import TrafficCount
from sidecar.policy.router import Router


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveConfig:
    """The configuration that serves now (config.store.Active). `loaded_at`: Unix seconds."""

    source: str
    revision: str
    loaded_at: float
    snapshot: Snapshot
    routers: Mapping[str, Router[Any]]
    """By listener."""
    origin: Callable[[str], str]
    """Path in the document -> `line 14`, `defaults (line 40)` or `built-in`. Called in a thread."""
    document: Callable[[], object]
    """JSON-ready, defaults filled, secrets masked. Called in a thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedConfig:
    """The newest document, when it was refused. `rejected_at`: Unix seconds."""

    source: str
    revision: str
    rejected_at: float
    problems: tuple[Problem, ...]


class Check(Protocol):
    """One condition of readiness (server.lifecycle.Check)."""

    @property
    def name(self) -> str:
        """What is looked at."""
        ...

    @property
    def ok(self) -> bool:
        """Whether it holds."""
        ...

    @property
    def detail(self) -> str:
        """Why it does not, when it does not."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerStatus:
    """A listening socket now; `address` and `port` are the ones that were really bound."""

    name: str
    mode: str
    address: str
    port: int
    protocol: str
    state: str
    tls: str = ""
    """`TLS`, or `mTLS` where clients are asked for certificates."""
    problem: str = ""
    """Why its certificates are missing, or may be old."""


class DrainStatus(NamedTuple):
    """How far a drain is. `drained`: the Reverse listeners are closed and nothing is in flight on them."""

    drained: bool
    in_flight: int


async def _all_is_here(_path: str, _request_id: str) -> None:
    """Of a single process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminContext:
    """What the surface shows and may do. JSON-ready values are plain dicts, lists, strings and numbers."""

    readiness: Callable[[], Sequence[Check]]
    """The checks of `/readyz`; ready when all are ok."""
    state: Callable[[], str]
    """`starting`, `ready`, `draining` or `drained`."""
    config: Callable[[], ActiveConfig | None]
    """None until a valid document has come."""
    rejected: Callable[[], RejectedConfig | None]
    """None when the newest document is the active one."""
    sources: Callable[[], Mapping[str, str]]
    """Where documents come from, and why each cannot be read; "" when it could when it was last looked at."""
    listeners: Callable[[], Sequence[ListenerStatus]]
    upstreams: Callable[[], Sequence[UpstreamStatus]]
    connections: Callable[[], object]
    """JSON-ready."""
    failures: Callable[[int], Sequence[Mapping[str, Any]]]
    """JSON-ready: at most so many of the last failures, the newest first."""
    recent: Callable[[], object]
    """JSON-ready: the last failures and slowest requests."""
    why: Callable[[str], Sequence[Mapping[str, Any]]]
    """JSON-ready: what is known of the requests with this id, the newest first; of the last failure for ""."""
    runtime: Callable[[], Mapping[str, Any]]
    """JSON-ready, as in interface.md section 2."""
    refresh: Callable[[str, str], Awaitable[None]] = _all_is_here
    """Awaited before a request for a path (and, for `/why`, an id) is answered: fetches what is not in this process."""
    traffic: Callable[[], Iterator[TrafficCount]]
    """The counters now, by listener, route and upstream; read on the loop, in slices."""
    metrics: Callable[[], Awaitable[bytes]]
    """Prometheus text, not compressed, for `outrider status`."""
    get_log_level: Callable[[], str]
    set_log_level: Callable[[str], None]
    """Called with one of `LOG_LEVELS`."""
    drain: Callable[[], DrainStatus]
    """Begin to drain the Reverse listeners, once; every call says how far it is."""
    quit: Callable[[], None]
    """Ask the process to end; the answer has been sent."""


LOG_LEVELS = ("debug", "info", "warning", "error")
"""What `--log-level` and `PUT /log-level` take."""
