"""The status surface (interface.md section 2) on our own engine: probes and metrics, nothing that changes state.

It shares nothing with the traffic but the event loop, so no limit, queue or drain of a listener reaches it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from sidecar.errors import PeerGone, ProxyError
from sidecar.http1.connection import as_protocol
from sidecar.http1.idle import IdleQueue
from sidecar.http1.server_connection import Owner, ServerConnection, ServerSettings
from sidecar.model.head import RequestHead
from sidecar.protocol.head import HeadLimits
from sidecar.protocol.http_date import imf_fixdate
from sidecar.protocol.status_line import REASON_PHRASES, status_line
from sidecar.server.acceptor import Acceptor
from sidecar.server.lifecycle import Check
from sidecar.server.port import TURNS
from sidecar.server.sockets import SocketAddress, open_socket

_LIMITS: Final = HeadLimits(max_bytes=8 * 1024, max_fields=64, max_target=1024)
_HEADER_TIMEOUT: Final = 5.0
_IDLE_TIMEOUT: Final = 60.0
_WRITE_TIMEOUT: Final = 10.0
_MAX_CONNECTIONS: Final = 512
_SPARES: Final = 4
"""Probes that come at the same time are answered also when traffic has taken every other file descriptor."""
_TEXT: Final = b"text/plain; charset=utf-8"

Checks = Callable[[], Sequence[Check]]
Page = tuple[bytes, bytes | None, bytes]
"""(Content-Type, Content-Encoding or None, body)."""
Scrape = Callable[[bytes, bytes], Awaitable[Page]]
"""`Accept` and `Accept-Encoding` -> the metrics. Lets traffic through while it renders."""


class StatusServer:
    """Listens from the moment it is made until `aclose`, also while the process drains."""

    def __init__(self, address: SocketAddress, checks: dict[str, Checks], metrics: Scrape) -> None:
        """`checks` by path. Raises BindError."""
        self._checks = checks
        self._metrics = metrics
        idle = IdleQueue(asyncio.get_running_loop(), _IDLE_TIMEOUT)
        settings = ServerSettings(_LIMITS, _HEADER_TIMEOUT, 0, idle)  # a body is never read
        self._owner = Owner("status", settings, self._serve, _ignore, self._closed)
        self._left = asyncio.Event()
        self._acceptor = Acceptor(
            open_socket(address), lambda: as_protocol(ServerConnection(self._owner)), name="status", limit=_MAX_CONNECTIONS, spares=_SPARES
        )
        self._acceptor.start()

    @property
    def address(self) -> SocketAddress:
        """Where it listens."""
        return self._acceptor.address

    def _closed(self, _connection: ServerConnection) -> None:
        self._acceptor.released()
        self._left.set()

    async def aclose(self) -> None:
        """Stop listening; idle connections end, others are cut."""
        await self._acceptor.aclose()
        for connection in list(self._owner.connections):
            connection.drain_soon()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        for connection in list(self._owner.connections):
            connection.abort()
        while self._owner.connections:
            self._left.clear()
            await self._left.wait()
        self._owner.settings.idle.close()

    async def _serve(self, connection: ServerConnection) -> None:
        try:
            while (head := await connection.next_request()) is not None:
                keep = head.keep_alive and head.length == 0
                await self._send(connection, await self._answer(head, keep=keep))
                if not keep:
                    await connection.linger()
                    return
        except ProxyError as error:
            connection.send(_response(error.status, _words(error.status), head_only=False, keep=False))
            await connection.linger()
        except (PeerGone, TimeoutError):
            connection.abort()

    async def _send(self, connection: ServerConnection, answer: bytes) -> None:
        connection.send(answer)
        async with asyncio.timeout(_WRITE_TIMEOUT):
            await connection.drain()

    async def _answer(self, head: RequestHead, *, keep: bool) -> bytes:
        path, _, query = head.path.decode("latin-1").partition("?")
        head_only = head.method == b"HEAD"
        checks = self._checks.get(path)
        if checks is None and path != "/metrics":
            return _response(404, _words(404), head_only=head_only, keep=keep)
        if head.method not in (b"GET", b"HEAD"):
            return _response(405, _words(405), head_only=False, keep=keep, extra=b"Allow: GET, HEAD\r\n")
        if checks is not None:
            status, body = render_checks(checks(), verbose="verbose" in query.split("&") or "verbose=" in query)
            return _response(status, body, head_only=head_only, keep=keep)
        return await self._scrape(head, head_only=head_only, keep=keep)

    async def _scrape(self, head: RequestHead, *, head_only: bool, keep: bool) -> bytes:
        content_type, encoding, body = await self._metrics(_field(head, b"accept"), _field(head, b"accept-encoding"))
        extra = b"Vary: Accept, Accept-Encoding\r\n"
        if encoding is not None:
            extra += b"Content-Encoding: " + encoding + b"\r\n"
        return _response(200, body, head_only=head_only, keep=keep, content_type=content_type, extra=extra)


def render_checks(checks: Sequence[Check], *, verbose: bool) -> tuple[int, bytes]:
    """200 `ok`, or 503 and one line per failing check; `verbose` lists all."""
    failing = [check for check in checks if not check.ok]
    shown = checks if verbose else failing
    lines = [f"[+] {check.name}: ok" if check.ok else f"[-] {check.name}: {check.detail}" for check in shown]
    if not failing:
        lines.append("ok")
    return 503 if failing else 200, ("\n".join(lines) + "\n").encode()


def _field(head: RequestHead, name: bytes) -> bytes:
    return b",".join(value for _, lower, value in head.fields if lower == name)


def _words(status: int) -> bytes:
    return REASON_PHRASES.get(status, b"refused").lower() + b"\n"


def _response(status: int, body: bytes, *, head_only: bool, keep: bool, content_type: bytes = _TEXT, extra: bytes = b"") -> bytes:
    pieces = [
        status_line(status),
        b"Date: %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n" % (imf_fixdate(time.time()), content_type, len(body)),
        b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n",
        extra,
        b"\r\n" if keep else b"Connection: close\r\n\r\n",
        b"" if head_only else body,
    ]
    return b"".join(pieces)


def _ignore(_connection: ServerConnection) -> None:
    """Probes are not counted."""
