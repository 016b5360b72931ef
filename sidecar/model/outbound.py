"""A request as it is to leave us, whatever transport carries it."""

from __future__ import annotations

from sidecar.model.stream import BodySource


class OutboundRequest:
    """Hop-by-hop fields are already removed, our own fields already in."""

    __slots__ = ("attempt_fields", "body", "expect_continue", "fields", "length", "method", "target", "upgrade", "wants_trailers")

    def __init__(self, method: bytes, target: bytes, fields: list[tuple[bytes, bytes]], length: int, body: BodySource | None) -> None:
        self.method = method
        self.target = target
        """The request-target, raw."""
        self.fields = fields
        """(name, value) lines in order, without framing fields: those are the transport's (`length` says which)."""
        self.attempt_fields: list[tuple[bytes, bytes]] = []
        """Lines that differ from one attempt to the next; they follow `fields`."""
        self.length = length
        """Body length: 0, n or `CHUNKED`. 0 with `body` not None: `Content-Length: 0` was there and is kept."""
        self.body = body
        self.upgrade = b""
        """The `Upgrade` token that is asked for, else b""."""
        self.expect_continue = False
        """The client waits for 100: the body is sent when it begins to arrive, never awaited before the response."""
        self.wants_trailers = False
        """`TE: trailers` is to be sent with our own `Connection: TE`."""
