"""Reaching upstreams through an HTTP proxy (`proxyURL`): the CONNECT that makes a tunnel (RFC 9110 section 9.3.6)."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Final

from sidecar.errors import BadMessage, UpstreamError
from sidecar.model.endpoint import Endpoint
from sidecar.model.reason import Phase, Reason
from sidecar.model.snapshot import HttpProxy
from sidecar.protocol.head import END_OF_HEAD, parse_response_head

MAX_HEAD: Final = 16 * 1024
"""Most bytes of a proxy's answer."""
MAX_INTERIM: Final = 16
"""Most interim answers before it."""
_UNAUTHORIZED: Final = 407
_TIMED_OUT: Final = 504


async def ask_for_tunnel(sock: socket.socket, endpoint: Endpoint, proxy: HttpProxy) -> None:
    """Have the proxy behind `sock` connect to `endpoint`; its name is looked up there. Raises UpstreamError, OSError; then `sock` is closed.

    Not a byte beyond the proxy's answer is read: what follows belongs to whoever is at the tunnel's other end.
    """
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(sock, connect_request(endpoint, proxy))
        await _answered(sock, endpoint)
    except BaseException:
        sock.close()
        raise


async def _answered(sock: socket.socket, endpoint: Endpoint) -> None:
    """The final answer, and it is good. Raises UpstreamError, OSError."""
    for _ in range(MAX_INTERIM + 1):
        if _judge(await _head(sock), endpoint):
            return
    raise UpstreamError(Reason.HTTP_PROTOCOL_ERROR, "too many interim answers of the proxy to CONNECT", phase=Phase.CONNECT)


def connect_request(endpoint: Endpoint, proxy: HttpProxy) -> bytes:
    """The CONNECT for `endpoint`."""
    authority = endpoint.label.encode("ascii")
    lines = [b"CONNECT ", authority, b" HTTP/1.1\r\nHost: ", authority, b"\r\n"]
    if proxy.authorization is not None:
        lines += (b"Proxy-Authorization: ", proxy.authorization, b"\r\n")
    return b"".join((*lines, b"\r\n"))


async def _head(sock: socket.socket) -> bytes:
    """The head of the next answer and not a byte more."""
    head = b""
    while len(head) < MAX_HEAD:
        await _readable(sock)
        try:
            seen = sock.recv(MAX_HEAD, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            continue
        end = (head + seen).find(END_OF_HEAD) + len(END_OF_HEAD)
        if end >= len(END_OF_HEAD):
            return head + sock.recv(end - len(head))
        if not seen:
            raise ConnectionResetError(errno.ECONNRESET, "the proxy closed the connection without an answer to CONNECT")
        head += sock.recv(len(seen))
    raise UpstreamError(Reason.HTTP_PROTOCOL_ERROR, "the proxy's answer to CONNECT is too long", phase=Phase.CONNECT)


def _judge(block: bytes, endpoint: Endpoint) -> bool:
    """Whether the tunnel is there; False: an interim answer, the final one follows. Raises UpstreamError when it is refused."""
    try:
        status = parse_response_head(block, b"CONNECT").status
    except BadMessage as error:
        raise UpstreamError(Reason.HTTP_PROTOCOL_ERROR, f"the proxy's answer to CONNECT: {error.detail}", phase=Phase.CONNECT) from None
    if status < 300:
        return status >= 200
    detail = f"{endpoint.label}: the proxy answered CONNECT with {status}"
    if status == _UNAUTHORIZED:
        raise unauthorized(detail, Phase.CONNECT)
    raise UpstreamError(Reason.CONNECTION_TIMEOUT if status == _TIMED_OUT else Reason.CONNECTION_REFUSED, detail, phase=Phase.CONNECT)


def unauthorized(detail: str, phase: Phase) -> UpstreamError:
    """407: it is our credentials that are missing or wrong, and no client of ours is to be asked for others."""
    return UpstreamError(Reason.PROXY_CONFIGURATION_ERROR, f"{detail} (the credentials of proxyURL)", phase=phase)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
