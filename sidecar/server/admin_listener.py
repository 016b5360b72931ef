"""Listens on the admin address from the start; the surface itself is loaded when somebody first asks.

aiohttp.web costs 13 MiB and 100 ms of CPU: most sidecars never need it, and none needs it before it is ready. What was
already sent waits in the socket while it is being imported.
"""

from __future__ import annotations

import asyncio
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


class AdminListener:
    """`load` imports and makes the application; it is called once, in a thread."""

    def __init__(self, address: SocketAddress, load: Callable[[], Application]) -> None:
        """Raises BindError."""
        self._loop = asyncio.get_running_loop()
        self._load = load
        self._sock = open_socket(address, mode=_OWNER_ONLY)
        self.address = bound_address(self._sock)
        """Where it listens."""
        self._acceptor: Acceptor | None = None
        self._runner: web.AppRunner | None = None
        self._loading: asyncio.Task[None] | None = None
        self._loop.add_reader(self._sock.fileno(), self._first_visitor)

    def _first_visitor(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._loading = create_task(self._serve(), name="admin surface")

    async def _serve(self) -> None:
        try:
            app = await asyncio.to_thread(self._load)
        except Exception:
            self._sock.close()  # who waits is told now, not by a time-out
            raise
        from aiohttp import web  # noqa: PLC0415  # has just been imported by `load`, off the loop

        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_SECONDS)
        await runner.setup()
        assert runner.server is not None
        self._runner = runner
        self._acceptor = Acceptor(self._sock, runner.server, name="admin")
        self._acceptor.start()

    async def aclose(self) -> None:
        """Stop listening; answers under way have a second."""
        if self._loading is None:
            self._loop.remove_reader(self._sock.fileno())
        else:
            await cancel_and_wait([self._loading])
        if self._acceptor is None:
            if self._sock.fileno() >= 0:
                close_socket(self._sock)
        else:
            await self._acceptor.aclose()
        if self._runner is not None:
            await self._runner.cleanup()
