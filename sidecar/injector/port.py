"""The webhooks' port: TLS on a socket of ours, with a certificate that may change at any time, over one aiohttp application."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Final, cast

from aiohttp import web

from sidecar.server.sockets import SocketAddress, bound_address, close_socket, open_socket

if TYPE_CHECKING:
    from sidecar.tls.material import KeyPair

MAX_CONNECTIONS: Final = 512
"""API servers keep a handful each. Whoever comes when all are taken is turned away."""
HANDSHAKE_SECONDS: Final = 5.0
KEEPALIVE_SECONDS: Final = 120.0
"""Longer than the 90 s for which Go's clients keep an idle connection: they close, so that no request meets a closing one."""
LAST_ANSWERS_SECONDS: Final = 5.0


class Port:
    """Listens from the moment it is made; `serve`, then `aclose`. Without a certificate every handshake fails."""

    def __init__(self, address: SocketAddress) -> None:
        """Raises BindError."""
        self._sock = open_socket(address)
        self.address = bound_address(self._sock)
        """Where it listens."""
        self._context = _context()
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    def show(self, pair: KeyPair) -> None:
        """The certificate for new connections; those that are open keep theirs. Raises Unusable."""
        pair.load_into(self._context)

    async def serve(self, app: web.Application) -> None:
        """Begin to accept."""
        self._runner = runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=LAST_ANSWERS_SECONDS,
            keepalive_timeout=KEEPALIVE_SECONDS,
            lingering_time=0,  # app.py does that, while it is still known who asked
        )
        await runner.setup()
        server = runner.server
        assert server is not None

        def connect() -> asyncio.BaseProtocol:
            return server() if len(server.connections) < MAX_CONNECTIONS else _Refused()

        self._server = await asyncio.get_running_loop().create_server(
            connect, sock=self._sock, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_SECONDS, ssl_shutdown_timeout=1.0
        )

    async def aclose(self) -> None:
        """Stop listening; answers under way have a few seconds."""
        if self._server is None:
            close_socket(self._sock)
        else:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._server is not None:
            await self._server.wait_closed()


class _Refused(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.num_tickets = 0  # API servers keep connections; nobody resumes
    return context
