"""Peers that speak TLS as OpenSSL itself does over a socket, alerts included, or not at all; and an upstream connection to them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from support.certificates import Pair
from support.tls import CA

from sidecar.http1.upstream_connection import UpstreamConnection
from sidecar.model.endpoint import Endpoint
from sidecar.model.tls import UpstreamTls
from sidecar.tls.contexts import HTTP1, ClientContext, client_context
from sidecar.tls.material import CaBundle
from sidecar.tls.store import Security
from sidecar.upstream.connect import open_connection

Play = Callable[[socket.socket], None]


class Peer:
    """Accepts on a free loopback port, in a thread, and gives each connection to `play`, one after the other; then closes it."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._sock = socket.create_server(("127.0.0.1", 0))
        self._sock.settimeout(0.05)
        self._ended = threading.Event()
        self.port: int = self._sock.getsockname()[1]
        self.errors: list[Exception] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self._sock.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._sock.accept()
            except TimeoutError:
                continue
            client.settimeout(10.0)
            with client:
                try:
                    self._play(client)
                except (OSError, ValueError) as error:
                    self.errors.append(error)


def shaking(context: ssl.SSLContext, then: Callable[[ssl.SSLSocket], None] = lambda _: None) -> Play:
    """A server of TLS: shakes hands, then `then`; closed without a close_notify unless that sends one."""

    def play(sock: socket.socket) -> None:
        secured = context.wrap_socket(sock, server_side=True)
        try:
            then(secured)
        finally:
            with contextlib.suppress(OSError):
                secured.detach() if secured.fileno() < 0 else secured.close()

    return play


def answering(*answers: bytes, keep: bool = True) -> Callable[[ssl.SSLSocket], None]:
    """Reads a request, answers, and so on; `keep` False: only as many as there are answers."""

    def then(secured: ssl.SSLSocket) -> None:
        sent = 0
        while keep or sent < len(answers):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := secured.recv(65536)):
                    return
                head += data
            secured.sendall(answers[min(sent, len(answers) - 1)])
            sent += 1

    return then


def reset(sock: socket.socket) -> None:
    """RST instead of FIN when it is closed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def context(tls: UpstreamTls | None = None, *, ca: Pair = CA, certificate: Any = None) -> ClientContext:
    """Of an upstream that believes `ca` alone."""
    return client_context(tls or UpstreamTls(system_ca=False), HTTP1, [CaBundle(ca.pem)], certificate)


async def connect(port: int, made: ClientContext | None = None, name: str = "127.0.0.1") -> UpstreamConnection:
    """A connection to a peer. Raises UpstreamError."""
    async with asyncio.timeout(15.0):
        return await open_connection(Endpoint("127.0.0.1", port, tls=True), ["127.0.0.1"], Security(made or context(), name))


async def gone(connection: UpstreamConnection) -> None:
    """Close and let the loop forget it."""
    connection.abort()
    await asyncio.sleep(0.01)
