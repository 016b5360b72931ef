"""The error tree. `proxy/reply.py` is the only place where one of these becomes a response."""

from __future__ import annotations

from typing import Final

from sidecar.model.reason import Clock, Phase, Reason, Rejection

STATUS_OF: Final[dict[Reason, int]] = {
    Reason.DNS_TIMEOUT: 504,
    Reason.DNS_ERROR: 502,
    Reason.DESTINATION_NOT_FOUND: 500,
    Reason.DESTINATION_UNAVAILABLE: 503,
    Reason.DESTINATION_IP_PROHIBITED: 403,
    Reason.CONNECTION_REFUSED: 502,
    Reason.CONNECTION_TERMINATED: 502,
    Reason.CONNECTION_TIMEOUT: 504,
    Reason.CONNECTION_READ_TIMEOUT: 504,
    Reason.CONNECTION_WRITE_TIMEOUT: 504,
    Reason.CONNECTION_LIMIT_REACHED: 503,
    Reason.TLS_PROTOCOL_ERROR: 502,
    Reason.TLS_CERTIFICATE_ERROR: 502,
    Reason.TLS_ALERT_RECEIVED: 502,
    Reason.HTTP_REQUEST_ERROR: 400,
    Reason.HTTP_REQUEST_DENIED: 403,
    Reason.HTTP_RESPONSE_INCOMPLETE: 502,
    Reason.HTTP_RESPONSE_HEADER_SECTION_SIZE: 502,
    Reason.HTTP_RESPONSE_TIMEOUT: 504,
    Reason.HTTP_UPGRADE_FAILED: 502,
    Reason.HTTP_PROTOCOL_ERROR: 502,
    Reason.PROXY_INTERNAL_ERROR: 500,
    Reason.PROXY_CONFIGURATION_ERROR: 500,
    Reason.PROXY_LOOP_DETECTED: 502,
    Reason.NO_ROUTE: 404,
    Reason.REQUEST_TIMEOUT: 504,
    Reason.STREAM_IDLE_TIMEOUT: 504,
    Reason.OVERLOADED: 503,
    Reason.CIRCUIT_OPEN: 503,
    Reason.RATE_LIMITED: 429,
    Reason.DRAINING: 503,
    Reason.CLIENT_CLOSED: 499,
    Reason.REQUEST_HEADER_TIMEOUT: 408,
    Reason.REQUEST_BODY_TIMEOUT: 408,
    Reason.REQUEST_TOO_LARGE: 413,
    Reason.HEADER_SECTION_TOO_LARGE: 431,
    Reason.URI_TOO_LONG: 414,
}
"""Status by cause (RFC 9209 section 2.3, product.md 3.5); a rule may choose another at the place it is raised."""


class OutriderError(Exception):
    """Root of everything that we raise on purpose."""


class ProxyError(OutriderError):
    """An exchange cannot go on. `detail` is for our own log; nothing of it reaches an untrusted peer.

    `phase` None: not the upstream's doing. `reusable` False: the client's connection must close after the reply,
    because where the next message would begin is unknown (or must not be believed).
    """

    __slots__ = ("clock", "detail", "direction", "phase", "reason", "rejection", "retry_after", "reusable", "status")

    def __init__(
        self,
        reason: Reason,
        detail: str = "",
        *,
        status: int | None = None,
        clock: Clock | None = None,
        phase: Phase | None = None,
        rejection: Rejection | None = None,
        retry_after: int | None = None,
        reusable: bool = True,
        direction: str = "",
    ) -> None:
        super().__init__(reason.value, detail)
        self.reason = reason
        self.detail = detail
        self.status = STATUS_OF[reason] if status is None else status
        self.clock = clock
        self.phase = phase
        self.rejection = rejection
        self.retry_after = retry_after
        """Seconds for a `Retry-After` header."""
        self.reusable = reusable
        self.direction = direction
        """`read` or `write`, for `streamIdle`."""

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}" if self.detail else self.reason.value


class BadMessage(ProxyError):
    """A peer's bytes break a rule of the grammar or a limit. `rejection` names the rule.

    From a client: the reply closes the connection and nothing more of it is parsed. From an upstream: a 502.
    """

    def __init__(
        self,
        rejection: Rejection,
        detail: str = "",
        *,
        reason: Reason = Reason.HTTP_REQUEST_ERROR,
        status: int | None = None,
        phase: Phase | None = None,
    ) -> None:
        super().__init__(reason, detail, status=status, rejection=rejection, reusable=False, phase=phase)


class UpstreamError(ProxyError):
    """An attempt failed at the upstream; `phase` says where, so that the retry policy knows what has left us."""


class StaleConnection(UpstreamError):
    """A reused keep-alive connection died with zero response bytes (product.md 3.3 e)."""


class RefusedStream(UpstreamError):
    """The upstream said that it has not looked at the request (product.md 3.3 a; HTTP/2 REFUSED_STREAM, GOAWAY)."""


class PeerGone(OutriderError):
    """The client's connection is gone: nobody is there to answer."""


class UsageError(OutriderError):
    """A flag, variable or file of the command line is wrong: one line on stderr, exit 2."""
