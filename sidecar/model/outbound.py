"""A request as it is to leave us, whatever transport carries it."""

from __future__ import annotations

from sidecar.model.head import Field
from sidecar.model.stream import BodySource


class OutboundRequest:
    """Hop-by-hop fields are already gone. On the wire: `fields`, then `own`, then `attempt_own`, then the framing."""

    __slots__ = ("attempt_own", "body", "fields", "length", "method", "own", "target", "upgrade", "wants_trailers")

    def __init__(
        self, method: bytes, target: bytes, fields: list[Field], own: list[tuple[bytes, bytes]], length: int, body: BodySource | None
    ) -> None:
        self.method = method
        self.target = target
        """The request-target, raw."""
        self.fields = fields
        """The client's end-to-end lines in their order, `Content-Length` included, `Transfer-Encoding` not."""
        self.own = own
        """(name, value) lines that we write."""
        self.attempt_own: list[tuple[bytes, bytes]] = []
        """Those of ours that differ from one attempt to the next."""
        self.length = length
        """Body length: 0, n or `CHUNKED`."""
        self.body = body
        """None when `length` is 0."""
        self.upgrade = b""
        """The `Upgrade` token that is asked for, else b""."""
        self.wants_trailers = False
        """`TE: trailers` is to be sent, with our own `Connection: TE`."""
