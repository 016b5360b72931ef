"""Protocol upgrades (RFC 9110 section 7.8): what may be asked for through us, and whether a 101 answers it."""

from __future__ import annotations

from typing import Final

# h2c is gone (RFC 9113 section 3.1) and a known way past a proxy's rules; TLS inside a tunnel is the client's to do by CONNECT.
_REFUSED: Final = (b"h2c", b"h2", b"http", b"tls")


def tokens(value: bytes) -> list[bytes]:
    """The protocols that an `Upgrade` value lists, as written."""
    return [token for part in value.split(b",") if (token := part.strip(b" \t"))]


def forwardable(value: bytes) -> bytes:
    """`value` less the protocols that we do not carry; b"" when none is left and the request is an ordinary one."""
    if value == b"websocket":
        return value
    return b", ".join(token for token in tokens(value) if token.lower().partition(b"/")[0] not in _REFUSED)


def accepted(asked: bytes, answered: bytes) -> bool:
    """Whether the `Upgrade` of a 101 names protocols, all of them among those that we asked for."""
    names = {token.lower() for token in tokens(answered)}
    return bool(names) and names <= {token.lower() for token in tokens(asked)}
