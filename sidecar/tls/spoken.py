"""What was agreed on in a handshake."""

from __future__ import annotations

import functools
import ssl

from sidecar.model.tls import Secured


def spoken(connection: ssl.SSLObject) -> Secured:
    """Of an established connection. Equal ones are one object: thousands of idle connections share a handful."""
    cipher = connection.cipher()
    return _shared(
        connection.version() or "",
        "" if cipher is None else cipher[0],
        bool(connection.session_reused),
        connection.selected_alpn_protocol() or "",
    )


@functools.lru_cache(64)
def _shared(version: str, cipher: str, resumed: bool, protocol: str) -> Secured:  # noqa: FBT001  # a key
    return Secured(version, cipher, resumed, protocol)
