"""Message heads as the engine hands them on: raw bytes, order, case and duplicates kept."""

from __future__ import annotations

from typing import Final

Field = tuple[bytes, bytes, bytes]
"""One header line: name as received, name in lower case, value without surrounding blanks."""

CHUNKED: Final = -1
"""Body length of a message whose body is chunked."""
UNTIL_CLOSE: Final = -2
"""Body length of a response that ends when its connection does (RFC 9112 section 6.3 rule 8)."""


class RequestHead:
    """A request line and its header section, framing already decided (RFC 9112 section 6.3).

    `length` is the body's: 0 none, n bytes exactly, or `CHUNKED`. `host` is the authority that the request is for,
    lower case without userinfo: the target's in absolute-form, else `Host` (b"" when HTTP/1.0 sent none).
    `path` is the origin-form target (path and query, raw) that goes on; b"*" for asterisk-form; b"" for CONNECT,
    whose target stays in `target` and `host`. `scheme` is b"" unless the target was absolute.
    """

    __slots__ = (
        "connection_tokens",
        "expect_continue",
        "fields",
        "host",
        "keep_alive",
        "length",
        "method",
        "minor",
        "path",
        "scheme",
        "size",
        "target",
        "upgrade",
    )

    def __init__(self, method: bytes, target: bytes, minor: int, fields: list[Field]) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        """HTTP/1.`minor`."""
        self.fields = fields
        self.host = b""
        self.path = target
        self.scheme = b""
        self.length = 0
        self.keep_alive = True
        self.expect_continue = False
        self.upgrade = b""
        """Value of `Upgrade` when `Connection: upgrade` nominates it, else b""."""
        self.connection_tokens: tuple[bytes, ...] = ()
        """Lower-case names that `Connection` nominates, without close, keep-alive and upgrade."""
        self.size = 0
        """Bytes of the head on the wire."""


class ResponseHead:
    """A status line and its header section; `length` is n, 0, `CHUNKED` or `UNTIL_CLOSE`."""

    __slots__ = ("connection_tokens", "fields", "keep_alive", "length", "minor", "reason", "size", "status", "upgrade")

    def __init__(self, status: int, reason: bytes, minor: int, fields: list[Field]) -> None:
        self.status = status
        self.reason = reason
        self.minor = minor
        self.fields = fields
        self.length = 0
        self.keep_alive = True
        self.upgrade = b""
        self.connection_tokens: tuple[bytes, ...] = ()
        self.size = 0
