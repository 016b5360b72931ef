"""Listens on the admin address from the start; the surface itself is loaded when somebody first asks.

aiohttp.web costs 15 MiB and 100 ms of CPU: most sidecars never need it, and none needs it before it is ready. What was
already sent waits in the socket while it is being imported. Where there is no room for it under the memory limit a first
visitor is told so: loading it would be what gets the process killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sidecar.server.acceptor import Acceptor
from sidecar.server.sockets import SocketAddress, bound_address, close_socket, open_socket
from sidecar.tasks import cancel_and_wait, create_task

if TYPE_CHECKING:
    from aiohttp import web

    Application = web.Application

_OWNER_ONLY: Final = 0o600
"""Permissions of a unix socket: who can open it can stop the sidecar."""
_SHUTDOWN_SECONDS: Final = 1.0
LOADED_BYTES: Final = 16 * 1024 * 1024
"""What loading the surface takes, at most."""
_FIRST_WORD_SECONDS: Final = 2.0
"""How long a visitor may take for its request before it is taken for one that wants the surface."""
_TELL_SECONDS: Final = 2.0
_AT_THE_DOOR: Final = 64
"""Visitors at a time before the surface is there; more wait in the backlog."""
_PEEKED_BYTES: Final = 4096
_NO_ROOM: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"the admin surface is not loaded yet, and the memory limit leaves no room for it (16 MiB): try again when less is in flight, or raise the limit\n"
)


def _plenty() -> int | None:
    """No limit."""
    return None


def _nothing(_request: bytes) -> bytes | None:
    """Everything is for the surface."""
    return None


class AdminListener:
    """`load` imports and makes the application; it is called once, in a thread."""

    def __init__(
        self,
        address: SocketAddress,
        load: Callable[[], Application],
        room: Callable[[], int | None] = _plenty,
        doorstep: Callable[[bytes], bytes | None] = _nothing,
    ) -> None:
        """`room`: bytes left under the memory limit; None: there is no limit. `doorstep`: the answer to a request that needs no surface.

        Raises BindError.
        """
        self._loop = asyncio.get_running_loop()
        self._load = load
        self._room = room
        self._doorstep = doorstep
        self._sock = open_socket(address, mode=_OWNER_ONLY)
        self.address = bound_address(self._sock)
        """Where it listens."""
        self._acceptor: Acceptor | None = None
        self._runner: web.AppRunner | None = None
        self._loading: asyncio.Task[None] | None = None
        self._visits: set[asyncio.Task[None]] = set()
        self._waiting: list[socket.socket] = []
        """Visitors for the surface, while it is being loaded."""
        self._open = False
        self._open_door()

    # -- at the door, until the surface is there

    def _open_door(self) -> None:
        """Take visitors exactly while there is room for another one and no surface that takes them."""
        wanted = self._acceptor is None and self._sock.fileno() >= 0 and len(self._visits) + len(self._waiting) < _AT_THE_DOOR
        if wanted and not self._open:
            self._loop.add_reader(self._sock.fileno(), self._knock)
        elif self._open and not wanted:
            self._loop.remove_reader(self._sock.fileno())
        self._open = wanted

    def _knock(self) -> None:
        try:
            visitor, _ = self._sock.accept()
        except OSError:  # gone again, or no descriptor is left: the next turn of the loop tries again
            return
        visitor.setblocking(False)
        task = create_task(self._meet(visitor), name="admin visitor")
        self._visits.add(task)
        task.add_done_callback(self._met)
        self._open_door()

    def _met(self, task: asyncio.Task[None]) -> None:
        self._visits.discard(task)
        self._open_door()

    async def _meet(self, visitor: socket.socket) -> None:
        stays = False
        try:
            request = await self._first_word(visitor)
            if request is None:
                return
            answer = self._doorstep(request)
            if answer is None and self._loading is None and not self._has_room():
                answer = _NO_ROOM
            if answer is not None:
                await self._tell(visitor, answer)
                return
            stays = True
            self._show_in(visitor)
        finally:
            if not stays:
                visitor.close()

    async def _first_word(self, visitor: socket.socket) -> bytes | None:
        """What it has sent, left where it is; b"" while that is nothing, None: it has gone."""
        arrived = asyncio.Event()
        self._loop.add_reader(visitor.fileno(), arrived.set)
        try:
            async with asyncio.timeout(_FIRST_WORD_SECONDS):
                await arrived.wait()
            return visitor.recv(_PEEKED_BYTES, socket.MSG_PEEK) or None
        except TimeoutError:
            return b""
        except OSError:
            return None
        finally:
            self._loop.remove_reader(visitor.fileno())

    def _has_room(self) -> bool:
        left = self._room()
        return left is None or left >= LOADED_BYTES

    async def _tell(self, visitor: socket.socket, answer: bytes) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_TELL_SECONDS):
                await self._loop.sock_recv(visitor, 64 * 1024)  # closing with bytes unread would take the answer back
                await self._loop.sock_sendall(visitor, answer)

    def _show_in(self, visitor: socket.socket) -> None:
        if self._acceptor is not None:
            self._acceptor.adopt(visitor)
            return
        self._waiting.append(visitor)
        if self._loading is None:
            self._loading = create_task(self._serve(), name="admin surface")

    # -- the surface

    async def _serve(self) -> None:
        try:
            app = await asyncio.to_thread(self._load)
        except Exception:  # who waits is told now, not by a time-out
            self._turn_out()
            raise
        from aiohttp import web  # noqa: PLC0415  # has just been imported by `load`, off the loop

        # Nobody sends us a body that is worth decompressing: a bomb, or an error of zlib's that nobody can answer.
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_SECONDS, auto_decompress=False)
        await runner.setup()
        assert runner.server is not None
        self._runner = runner
        self._acceptor = Acceptor(self._sock, runner.server, name="admin")
        self._open_door()
        while self._waiting:
            self._acceptor.adopt(self._waiting.pop(0))
        self._acceptor.start()

    def _turn_out(self) -> None:
        """Nobody is served: not who waits, and nobody who comes."""
        if self._open:
            self._loop.remove_reader(self._sock.fileno())
            self._open = False
        close_socket(self._sock)
        while self._waiting:
            self._waiting.pop().close()

    async def aclose(self) -> None:
        """Stop listening; answers under way have a second."""
        await cancel_and_wait(set(self._visits))
        if self._loading is not None:
            await cancel_and_wait([self._loading])
        if self._acceptor is not None:
            await self._acceptor.aclose()
        elif self._sock.fileno() >= 0:
            self._turn_out()
        if self._runner is not None:
            await self._runner.cleanup()
