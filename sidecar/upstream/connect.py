"""Opening connections to upstreams: TCP over a list of addresses (RFC 8305), unix sockets, the TLS handshake; errors become ours here."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from sidecar.errors import UpstreamError
from sidecar.http1.connection import as_protocol
from sidecar.http1.upstream_connection import UpstreamConnection
from sidecar.model.endpoint import Endpoint
from sidecar.model.reason import Phase, Reason
from sidecar.model.snapshot import HttpProxy
from sidecar.tasks import create_task
from sidecar.tls.failures import meaning
from sidecar.tls.store import Security
from sidecar.tls.stream import TlsStream
from sidecar.upstream.http_proxy import ask_for_tunnel

log = logging.getLogger("outrider")

STAGGER: Final = 0.25
"""Seconds before the next address is tried beside the one before (RFC 8305 section 5, Connection Attempt Delay)."""
MAX_ADDRESSES: Final = 8
"""More are not tried for one connection: each costs a socket."""
_UNIX_RETRY: Final = 0.005
_LOG_EVERY: Final = 60.0
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_UNREACHABLE: Final = frozenset(
    {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
)
_TERMINATED: Final = frozenset({errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE})
_exhaustion_logged_at = [-_LOG_EVERY]


async def open_connection(
    endpoint: Endpoint,
    addresses: Sequence[str],
    security: Security | None = None,
    proxy: HttpProxy | None = None,
    *,
    tunnel: bool = False,
) -> UpstreamConnection:
    """A fresh connection to `endpoint`: to its unix socket, or to the first of `addresses` that answers; with TLS if `security` says how.

    With a `proxy` the addresses are the proxy's. It is asked for a tunnel where TLS is spoken or `tunnel` is True; otherwise
    it is given the requests themselves, and the connection is `proxied`. Raises UpstreamError with phase CONNECT.
    Cancelled: every socket that it had made is closed.
    """
    try:
        port = endpoint.port if proxy is None else proxy.port
        sock = await (_connect_unix(endpoint.unix_path) if endpoint.unix_path else _connect_tcp(addresses, port))
        if proxy is not None and (tunnel or security is not None):
            await ask_for_tunnel(sock, endpoint, proxy)
        connection = await (_adopt(sock) if security is None else _adopt_secure(sock, endpoint, security))
    except OSError as error:
        raise connect_error(error, endpoint) from None
    connection.endpoint = endpoint
    if proxy is not None and security is None and not tunnel:
        connection.proxied = proxy
    return connection


def tls_error(error: Exception, endpoint: Endpoint) -> UpstreamError:
    """What a failed handshake means."""
    reason, words = meaning(error)
    return UpstreamError(reason, f"{endpoint.label}: {words}", phase=Phase.CONNECT)


def connect_error(error: OSError, endpoint: Endpoint) -> UpstreamError:
    """What a failed connect means (http.md 4.9): refused and unreachable 502, timed out 504, out of descriptors 503."""
    detail = f"{endpoint.label}: {error.strerror or error}"
    code = error.errno
    if code in _EXHAUSTED:
        _log_exhaustion(detail)
        return UpstreamError(Reason.CONNECTION_LIMIT_REACHED, detail, phase=Phase.CONNECT, retry_after=1)
    if isinstance(error, TimeoutError):
        return UpstreamError(Reason.CONNECTION_TIMEOUT, detail, phase=Phase.CONNECT)
    if code in _UNREACHABLE:
        return UpstreamError(Reason.DESTINATION_UNAVAILABLE, detail, status=502, phase=Phase.CONNECT)
    if code in _TERMINATED:
        return UpstreamError(Reason.CONNECTION_TERMINATED, detail, phase=Phase.CONNECT)
    return UpstreamError(Reason.CONNECTION_REFUSED, detail, phase=Phase.CONNECT)


def _log_exhaustion(detail: str) -> None:
    """Once a minute at most: the same thing happens to every request then."""
    now = asyncio.get_running_loop().time()
    if now - _exhaustion_logged_at[0] >= _LOG_EVERY:
        _exhaustion_logged_at[0] = now
        log.error("cannot open a socket: %s", detail, extra={"event": "sockets_exhausted"})


async def _adopt(sock: socket.socket) -> UpstreamConnection:
    """Hand a connected socket to the loop."""
    connection = UpstreamConnection()
    await _hand_over(sock, as_protocol(connection), connection.abort)
    return connection


async def _adopt_secure(sock: socket.socket, endpoint: Endpoint, security: Security) -> UpstreamConnection:
    """The same, and wait for the end of the TLS handshake. Raises UpstreamError when it fails."""
    connection = UpstreamConnection()
    context, name = security
    shaken: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    session = context.session(endpoint.label, name)
    stream = TlsStream(context, connection, partial(_shaken, shaken), server_name=name, session=session)
    await _hand_over(sock, as_protocol(stream), stream.abort)
    try:
        error = await shaken
    except asyncio.CancelledError:
        stream.abort()
        raise
    if error is not None:
        if session is not None:
            context.forget_session(endpoint.label, name)
        raise tls_error(error, endpoint)
    return connection


def _shaken(outcome: asyncio.Future[Exception | None], _stream: TlsStream, error: Exception | None) -> None:
    if not outcome.done():
        outcome.set_result(error)


async def _hand_over(sock: socket.socket, protocol: asyncio.BufferedProtocol, abort: Callable[[], None]) -> None:
    """Make `protocol` that of `sock`.

    By what is meant for accepted sockets, because there the transport owns the descriptor from the start. uvloop's
    `create_connection(sock=...)` attaches the socket after it has waited, to a transport that may be closed by then: the
    socket would later close a number that is somebody else's (decision 0044). In a task of its own: interrupted half-way,
    neither loop says whether the protocol was told of its connection.
    """
    loop = asyncio.get_running_loop()
    opening = create_task(loop.connect_accepted_socket(lambda: protocol, sock), name="adopt socket")
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(partial(_abort_adopted, abort))
        raise


def _abort_adopted(abort: Callable[[], None], opened: asyncio.Task[object]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        abort()


async def _connect_tcp(addresses: Sequence[str], port: int) -> socket.socket:
    if len(addresses) == 1:
        return await _connect_address(addresses[0], port)
    return await _race(interleave(addresses)[:MAX_ADDRESSES], port)


def interleave(addresses: Sequence[str]) -> list[str]:
    """Families take turns, beginning with the first address's (RFC 8305 section 4); order is kept within each."""
    first_is_v6 = ":" in addresses[0]
    mine = deque(address for address in addresses if (":" in address) is first_is_v6)
    other = deque(address for address in addresses if (":" in address) is not first_is_v6)
    turns = []
    while mine or other:
        if mine:
            turns.append(mine.popleft())
        if other:
            turns.append(other.popleft())
    return turns


async def _race(addresses: Sequence[str], port: int) -> socket.socket:
    """Each address begins `STAGGER` after the one before, or as soon as one has failed; the first to connect wins."""
    waiting = deque(addresses)
    running: set[asyncio.Task[socket.socket | OSError]] = set()
    failure: OSError = OSError(errno.EHOSTUNREACH, "no address to connect to")
    winner: socket.socket | None = None
    try:
        while winner is None:
            if waiting:
                address = waiting.popleft()
                running.add(create_task(_try_address(address, port), name=f"connect {address}"))
            elif not running:
                raise failure
            done, running = await asyncio.wait(running, timeout=STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                result = task.result()
                if isinstance(result, OSError):
                    failure = result
                elif winner is None:
                    winner = result
                else:
                    result.close()
        return winner
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_close_loser)


def _close_loser(task: asyncio.Task[socket.socket | OSError]) -> None:
    """A loser may have connected just before it was cancelled."""
    if not task.cancelled() and isinstance(result := task.result(), socket.socket):
        result.close()


async def _try_address(address: str, port: int) -> socket.socket | OSError:
    try:
        return await _connect_address(address, port)
    except OSError as error:
        return error


async def _connect_address(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await _connect_socket(sock, (address, port))
        if sock.getsockname() == sock.getpeername():
            # On loopback, a connect to an ephemeral port where nobody listens can meet itself.
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connected to itself: nobody listens there")  # noqa: TRY301  # the socket is closed below
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_socket(sock: socket.socket, address: tuple[str, int]) -> None:
    """As the loops' sock_connect, but uvloop's sends even a literal address through getaddrinfo in a thread."""
    code = sock.connect_ex(address)
    if code == errno.EINPROGRESS:
        loop = asyncio.get_running_loop()
        writable: asyncio.Future[None] = loop.create_future()
        loop.add_writer(sock, _wake, writable)
        try:
            await writable
        finally:
            loop.remove_writer(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _wake(writable: asyncio.Future[None]) -> None:
    if not writable.done():
        writable.set_result(None)


async def _connect_unix(path: str) -> socket.socket:
    """A unix connect never is in progress: EAGAIN means a full backlog, which the loops would take for success."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                await asyncio.sleep(_UNIX_RETRY)
            else:
                return sock
    except BaseException:
        sock.close()
        raise
