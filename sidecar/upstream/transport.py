"""The Transport seam: one method to send a request to an endpoint and get a response head and body back.

Every implementation obeys the same contract (tests/contract): the raw target and the order, case and duplicates of
fields are kept; nothing is added; no redirects, cookies, decompression, environment proxies or hidden retries; the
connection is returned or closed exactly once, also when cancelled; exceptions come only from our own tree, with the
phase in which they happened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from sidecar.model.endpoint import Endpoint
from sidecar.model.exchange import Attempt
from sidecar.model.head import ResponseHead
from sidecar.model.outbound import OutboundRequest
from sidecar.model.snapshot import Upstream
from sidecar.model.stream import BodySource, ByteStream
from sidecar.policy.deadline import Deadlines


class InboundResponse(Protocol):
    """A final response (or 101). Ends with exactly one `release` or `abort`."""

    @property
    def head(self) -> ResponseHead:
        """The final head."""
        ...

    @property
    def body(self) -> BodySource:
        """Its body, not read yet."""
        ...

    def tunnel(self) -> ByteStream:
        """The raw connection after a 101 or after 2xx to CONNECT; from now on the caller owns it."""
        ...

    def release(self) -> None:
        """The exchange is over: keep the connection if body, request and protocol allow it, else close it."""
        ...

    def abort(self) -> None:
        """Close the connection now; whatever is unread is lost."""
        ...


class PoolCounts(NamedTuple):
    """The connections of one upstream now. A library that pools by itself is counted from outside."""

    active: int
    """Requests that have a connection or open one."""
    open: int
    """Connections, in use and idle, without those that are being opened."""
    idle: int
    connecting: int
    pending: int
    """Requests in the queue."""
    learned_idle_timeout: float | None = None
    """Seconds after which the server was seen to close idle connections."""


class Transport(Protocol):
    """Sends requests to the endpoints of one upstream."""

    async def send(
        self,
        endpoint: Endpoint,
        request: OutboundRequest,
        attempt: Attempt,
        deadlines: Deadlines,
        on_interim: Callable[[ResponseHead], None],
    ) -> InboundResponse:
        """Send `request` to `endpoint` and wait for the head of the final response.

        Keeps `attempt` up to date (phase, reused, connected_at, sent_at, headers_at) and arms the phase clocks
        (`queue`, `connect`, `responseHeader`, `upgradeHandshake`) on `deadlines`. `on_interim` is called for each 1xx
        but 101. The upload goes on in the background when the response comes first. Raises UpstreamError (by phase),
        StaleConnection, or what `request.body.read()` raised. Cancelled: the connection is closed.
        """
        ...

    async def connect(self, endpoint: Endpoint, attempt: Attempt, deadlines: Deadlines) -> ByteStream:
        """A raw connection for a CONNECT tunnel, outside the pool. Raises UpstreamError."""
        ...

    def configure(self, config: Upstream) -> None:
        """Take on a reload's limits and clocks. Connections that the new settings allow stay; the others are not used again."""
        ...

    def renew(self) -> None:
        """What new connections are secured with has changed: those that are open finish what they do and are not used again."""
        ...

    def retire(self, endpoint: Endpoint) -> None:
        """Close the idle connections of `endpoint`, which has left the upstream; the others close when they are released."""
        ...

    def counts(self) -> PoolCounts:
        """For metrics, the admin surface and `outrider status`."""
        ...

    async def aclose(self) -> None:
        """Close idle connections now and the rest when they are released."""
        ...
