"""A connection as raw bytes: one side of a tunnel (implements ByteStream)."""

from __future__ import annotations

from sidecar.errors import PeerGone
from sidecar.http1.connection import RX_LIMIT, Connection


class RawStream:
    """What has already been read from the connection comes first."""

    __slots__ = ("connection",)

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def read(self) -> bytes:
        """Some bytes; b"" after the peer's FIN. Raises PeerGone when it vanished without one."""
        connection = self.connection
        while not connection.rx:
            if connection.error is not None or (connection.closed and not connection.eof):
                raise PeerGone("the peer of a tunnel is gone")
            if connection.eof:
                return b""
            await connection.arrival()
        return connection.take(RX_LIMIT)

    async def write(self, data: bytes) -> None:
        """Send `data` and wait while the peer is slow. Raises PeerGone when it is gone."""
        connection = self.connection
        if connection.closed:
            raise PeerGone("the peer of a tunnel is gone")
        connection.send(data)
        await connection.drain()

    def write_eof(self) -> None:
        """FIN; reading goes on."""
        self.connection.send_eof()

    def close(self) -> None:
        """Send what is buffered, then close."""
        self.connection.close()

    def abort(self) -> None:
        """Close at once (RST)."""
        self.connection.abort()
