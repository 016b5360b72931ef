"""A sidecar process, an upstream that answers by target, and crowds of clients that behave badly; all of it bounded."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

from support import Connection, ScriptedUpstream, Sidecar, response

KIB = 1024
MIB = 1024 * KIB
PATIENCE = 30.0
"""Seconds that anything here may take; nothing needs a tenth of it on a quiet machine."""


async def answers(connection: Connection) -> None:
    """`/bytes/N` is N bytes, `/never` is no answer, anything else `ok`; bodies are read."""
    while True:
        request = await connection.read_request()
        _, target, _ = request.start.split(b" ")
        if target.startswith(b"/never"):
            await connection.read_until_close()
            return
        size = int(target.rpartition(b"/")[2] or 2) if target.startswith(b"/bytes/") else 2
        if size <= MIB:
            await connection.send(response(body=b"ok" if size == 2 else bytes(size)))
            continue
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(0, size, 64 * KIB):
            if connection._writer.is_closing():  # uvloop would raise RuntimeError
                return
            await connection.send(bytes(64 * KIB))


@contextlib.asynccontextmanager
async def chain(
    *,
    prefix: list[str] | None = None,
    listener: dict[str, Any] | None = None,
    upstream: dict[str, Any] | None = None,
    **more: Any,
) -> AsyncIterator[tuple[Sidecar, ScriptedUpstream]]:
    """One inbound listener to one upstream; `listener` and `upstream` are fields of the document, `more` of its top."""
    async with ScriptedUpstream(answers, timeout=600.0) as server:
        document = {
            "apiVersion": "outrider.dev/v1alpha1",
            "kind": "SidecarConfig",
            "listeners": [{"name": "inbound", "port": 0, "bind": "127.0.0.1", **(listener or {})}],
            "upstreams": [{"name": "app", "targets": [{"url": server.url}], **(upstream or {})}],
            "telemetry": {"accessLog": {"sample": 0, "always": []}},
            **more,
        }
        async with Sidecar(document, prefix=prefix or ()) as sidecar:
            yield sidecar, server


async def until(true: Callable[[], Any], what: str) -> None:
    """Poll until `true`. AssertionError after `PATIENCE`."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not true():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {PATIENCE} s: {what}") from None


class Crowd:
    """Connections of raw sockets, many and cheap. `async with Crowd(port) as crowd`."""

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        self._port = port
        self._receive_buffer = receive_buffer
        self.sockets: list[socket.socket] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for one in self.sockets:
            one.close()

    async def join(self, count: int, first_words: bytes = b"") -> None:
        """`count` more connections, each of which says `first_words`."""
        loop = asyncio.get_running_loop()
        for _ in range(count):
            one = socket.socket()
            one.setblocking(False)
            if self._receive_buffer:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
            self.sockets.append(one)
            await loop.sock_connect(one, ("127.0.0.1", self._port))
            if first_words:
                await loop.sock_sendall(one, first_words)

    def ended(self) -> int:
        """How many the other side has ended."""
        return sum(_has_ended(one) for one in self.sockets)


def _has_ended(one: socket.socket) -> bool:
    try:
        while data := one.recv(MIB):
            del data
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


async def ask(port: int, path: str = "/") -> tuple[int, bytes]:
    """Status and body of one request on a connection of its own; (0, b"") when there was no answer."""

    def blocking() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        with contextlib.closing(connection):
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException):
                return 0, b""

    return await asyncio.to_thread(blocking)


def rss(pid: int) -> int:
    """Resident memory, bytes."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * KIB


def descriptors(pid: int) -> int:
    """Open files."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def metrics(sidecar: Sidecar) -> dict[str, float]:
    """Every sample of `/metrics`: `name{labels}` -> value."""
    _, body = await ask(sidecar.status_port, "/metrics")
    lines = (line for line in body.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
