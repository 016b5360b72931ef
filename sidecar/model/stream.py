"""The body seam: what every source of body bytes offers, whoever reads them from where."""

from __future__ import annotations

from typing import Protocol

from sidecar.model.head import Field


class BodySource(Protocol):
    """A message body in arrival order, read once, with back-pressure: what nobody reads stays with the peer."""

    length: int
    """n, 0, `CHUNKED` or `UNTIL_CLOSE` (model/head.py)."""
    trailers: list[Field]
    """Trailer fields, complete once `read` has returned b""."""

    def ready(self) -> bool:
        """Whether `read` would return without waiting."""
        ...

    async def read(self) -> bytes:
        """The next piece, never empty; b"" once the body is complete, and ever after.

        Raises ProxyError when the body is malformed, truncated or its peer is gone.
        """
        ...


class ByteStream(Protocol):
    """One side of a tunnel."""

    async def read(self) -> bytes:
        """Some bytes; b"" after the peer's FIN. Raises PeerGone when the peer is gone."""
        ...

    async def write(self, data: bytes) -> None:
        """Send `data`, waiting while the peer is slow. Raises PeerGone when the peer is gone."""
        ...

    def write_eof(self) -> None:
        """Send FIN; reading goes on."""
        ...

    def close(self) -> None:
        """Send what is buffered, then close."""
        ...

    def abort(self) -> None:
        """Close at once, both ways (RST)."""
        ...
