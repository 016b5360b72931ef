"""The status surface (interface.md section 2) on our own engine: probes and metrics, nothing that changes state.

It shares nothing with the traffic but the event loop, so no limit, queue or drain of a listener reaches it.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from sidecar.errors import PeerGone, ProxyError
from sidecar.http1.idle import IdleQueue
from sidecar.http1.server_connection import Owner, ServerConnection, ServerSettings
from sidecar.model.head import RequestHead
from sidecar.protocol.head import HeadLimits
from sidecar.server.acceptor import Acceptor
from sidecar.server.lifecycle import Check
from sidecar.server.sockets import SocketAddress, open_socket

_LIMITS: Final = HeadLimits(max_bytes=8 * 1024, max_fields=64, max_target=1024)
_HEADER_TIMEOUT: Final = 5.0
_IDLE_TIMEOUT: Final = 60.0
_WRITE_TIMEOUT: Final = 10.0
_MAX_CONNECTIONS: Final = 512
_TEXT: Final = "text/plain; charset=utf-8"
_THREAD_FROM: Final = 32 * 1024
"""Bytes from which compressing is too long for the loop."""

Checks = Callable[[], Sequence[Check]]
Render = Callable[[str], tuple[bytes, str]]
"""`Accept` -> the metrics and their Content-Type."""


class StatusServer:
    """Listens from the moment it is made until `aclose`, also while the process drains."""

    def __init__(self, address: SocketAddress, checks: dict[str, Checks], metrics: Render) -> None:
        """`checks` by path. Raises BindError."""
        self._checks = checks
        self._metrics = metrics
        idle = IdleQueue(asyncio.get_running_loop(), _IDLE_TIMEOUT)
        settings = ServerSettings(_LIMITS, _HEADER_TIMEOUT, 1, idle)
        self._owner = Owner("status", settings, self._serve, _ignore, self._closed)
        self._left = asyncio.Event()
        self._acceptor = Acceptor(open_socket(address), lambda: ServerConnection(self._owner), name="status", limit=_MAX_CONNECTIONS)
        self._acceptor.start()

    @property
    def address(self) -> SocketAddress:
        """Where it listens."""
        return self._acceptor.address

    def _closed(self, _connection: ServerConnection) -> None:
        self._acceptor.released()
        self._left.set()

    async def aclose(self) -> None:
        """Stop listening and cut what is open."""
        await self._acceptor.aclose()
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
            return _response(405, _words(405), head_only=False, keep=keep, extra="Allow: GET, HEAD\r\n")
        if checks is not None:
            status, body = render_checks(checks(), verbose="verbose" in query.split("&") or "verbose=" in query)
            return _response(status, body, head_only=head_only, keep=keep)
        return await self._scrape(head, head_only=head_only, keep=keep)

    async def _scrape(self, head: RequestHead, *, head_only: bool, keep: bool) -> bytes:
        body, content_type = self._metrics(_field(head, b"accept"))
        extra = "Vary: Accept, Accept-Encoding\r\n"
        if accepts_gzip(_field(head, b"accept-encoding")):
            body = await asyncio.to_thread(gzip.compress, body, 1) if len(body) > _THREAD_FROM else gzip.compress(body, 1)
            extra += "Content-Encoding: gzip\r\n"
        return _response(200, body, head_only=head_only, keep=keep, content_type=content_type, extra=extra)


def render_checks(checks: Sequence[Check], *, verbose: bool) -> tuple[int, bytes]:
    """200 `ok`, or 503 and one line per failing check; `verbose` lists all."""
    failing = [check for check in checks if not check.ok]
    shown = checks if verbose else failing
    lines = [f"[+] {check.name}: ok" if check.ok else f"[-] {check.name}: {check.detail}" for check in shown]
    if not failing:
        lines.append("ok")
    return 503 if failing else 200, ("\n".join(lines) + "\n").encode()


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether `Accept-Encoding` allows gzip (RFC 9110 section 12.5.3): named, or `*`, and not with a weight of 0."""
    weights: dict[str, float] = {}
    for item in accept_encoding.lower().split(","):
        coding, _, parameters = item.partition(";")
        weights[coding.strip()] = _weight(parameters)
    return weights.get("gzip", weights.get("*", 0.0)) > 0.0


def _weight(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    try:
        return float(value) if name.strip() == "q" else 1.0
    except ValueError:
        return 0.0


def _field(head: RequestHead, name: bytes) -> str:
    return ",".join(value.decode("latin-1") for _, lower, value in head.fields if lower == name)


def _words(status: int) -> bytes:
    return HTTPStatus(status).phrase.lower().encode() + b"\n"


def _response(status: int, body: bytes, *, head_only: bool, keep: bool, content_type: str = _TEXT, extra: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nDate: {formatdate(usegmt=True)}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{extra}"
    )
    if not keep:
        head += "Connection: close\r\n"
    return head.encode("latin-1") + b"\r\n" + (b"" if head_only else body)


def _ignore(_connection: ServerConnection) -> None:
    """Probes are not counted."""
