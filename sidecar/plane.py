"""Plane: what the composition root asks of whatever serves traffic, this process (`dataplane.py`) or several (`workers/`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from sidecar.config.store import Candidate
from sidecar.model.snapshot import Lifecycle as Timing
from sidecar.model.status import UpstreamStatus
from sidecar.observe.series import Family
from sidecar.observe.tracing.service import Tracing
from sidecar.policy.router import Router
from sidecar.server.lifecycle import Check, Drainable

if TYPE_CHECKING:
    from sidecar.observe.traffic import TrafficCount


class Plane(Protocol):
    """`start` once, then `aclose`, then `finish`. What is shown is read at once; of several processes it is as `refresh` found it."""

    refusal: str
    """Why a listener of the newest document cannot listen."""
    tracing: Tracing

    @property
    def processes(self) -> Callable[[], Mapping[str, float]] | None:
        """For `Exposition`; None: there is one process."""
        ...

    @property
    def listeners(self) -> Drainable:
        """What a drain closes."""
        ...

    def start(self) -> None:
        """Begin; nothing is served before a configuration is applied."""
        ...

    async def apply(self, candidate: Candidate) -> None:
        """Make the candidate's configuration effective everywhere. Raises ConfigRejected; then nothing has changed."""
        ...

    def addresses(self) -> dict[str, str]:
        """Name -> `address:port` of the listeners in force."""
        ...

    def timing(self) -> Timing:
        """`lifecycle` of the configuration in force."""
        ...

    def heartbeat_age(self) -> float:
        """Seconds since this process's event loop last came round."""
        ...

    def spare_memory(self) -> int | None:
        """Bytes that something else than requests may take in this process now; None: there is no limit."""
        ...

    def readiness(self) -> list[Check]:
        """More conditions of `/readyz`."""
        ...

    def liveness(self) -> list[Check]:
        """More conditions of `/livez`."""
        ...

    def set_log_level(self, level: str) -> None:
        """Of every process."""
        ...

    async def refresh(self, path: str, request_id: str = "") -> None:
        """Have at hand what the admin surface shows at `path`; `/metrics`: what `collect` and `traffic` say."""
        ...

    def collect(self) -> Iterator[Family]:
        """Every metric now."""
        ...

    def traffic(self) -> Iterator[TrafficCount]:
        """The counters by listener, route and upstream."""
        ...

    def routers(self) -> Mapping[str, Router[Any]]:
        """By listener, for explanations."""
        ...

    def listener_states(self) -> Sequence[Mapping[str, Any]]:
        """`GET /listeners`."""
        ...

    def upstreams(self) -> Sequence[UpstreamStatus]:
        """The upstreams of the document."""
        ...

    def connections(self) -> Mapping[str, Any]:
        """`GET /connections`."""
        ...

    def failures(self, limit: int) -> list[dict[str, Any]]:
        """The last failures, the newest first."""
        ...

    def recent(self) -> Mapping[str, Any]:
        """`GET /recent`."""
        ...

    def why(self, request_id: str) -> list[dict[str, Any]]:
        """`GET /why`; of the last failure for ""."""
        ...

    def runtime(self) -> Mapping[str, Any]:
        """`GET /runtime`."""
        ...

    async def aclose(self) -> None:
        """Nothing is served afterwards."""
        ...

    async def finish(self, seconds: float) -> None:
        """The last: what was observed leaves, for at most `seconds`."""
        ...
