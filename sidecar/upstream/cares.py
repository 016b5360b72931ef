"""One DNS question, asked by c-ares on our own event loop: no thread, no inotify watch, nothing left afterwards.

Each question has a channel of its own. That costs a look at resolv.conf (so its edits are noticed), and buys a
question that can be cancelled alone, a fresh source port, and no second cache beside ours.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from sidecar.errors import UpstreamError
from sidecar.model.reason import Phase, Reason

if TYPE_CHECKING:
    import pycares

Record = tuple[str, int]
"""An address and its TTL in seconds."""
_TICK_MIN: Final = 0.01
_TICK_MAX: Final = 1.0


class CaresClient:
    """Asks the servers of resolv.conf (or `servers`, "address:port"), with its search domains, ndots and /etc/hosts."""

    __slots__ = ("servers", "timeout", "tries")

    def __init__(self, servers: Sequence[str] | None = None, *, timeout: float | None = None, tries: int | None = None) -> None:
        self.servers = servers
        self.timeout = timeout
        """Seconds for the first try of each server; None: as resolv.conf says."""
        self.tries = tries

    async def query(self, host: str) -> list[Record]:
        """A and AAAA records of `host` in the order of RFC 6724. Raises UpstreamError DNS_TIMEOUT or DNS_ERROR."""
        question = _Question(self)
        try:
            return await question.ask(host)
        finally:
            question.close()


class _Question:
    """Drives one channel: its sockets through the loop's readers and writers, its time-outs through one timer."""

    __slots__ = ("_answer", "_channel", "_closed", "_loop", "_readers", "_timer", "_writers")

    def __init__(self, client: CaresClient) -> None:
        import pycares  # noqa: PLC0415  # 5 ms and 3 MB that only those who resolve names need

        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[list[Record]] = self._loop.create_future()
        self._readers: set[int] = set()
        self._writers: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        try:
            self._channel = pycares.Channel(
                sock_state_cb=self._socket_state, servers=client.servers, timeout=client.timeout, tries=client.tries
            )
        except pycares.AresError as error:
            raise UpstreamError(Reason.DNS_ERROR, f"resolver: {error}", phase=Phase.CONNECT) from None

    async def ask(self, host: str) -> list[Record]:
        self._channel.getaddrinfo(host, None, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM, callback=self._answered)
        if not self._answer.done():
            self._tick()
        return await self._answer

    def _answered(self, result: pycares.AddrInfoResult | None, code: int | None) -> None:
        if self._answer.done():
            return
        if result is None or not result.nodes:
            self._answer.set_exception(_dns_error(code))
        else:
            self._answer.set_result([(node.addr[0].decode("ascii"), node.ttl) for node in result.nodes])

    def _socket_state(self, fd: int, readable: bool, writable: bool) -> None:  # noqa: FBT001  # c-ares' callback
        if self._closed:
            return  # the last of a channel is taken down on another thread
        if readable and fd not in self._readers:
            self._readers.add(fd)
            self._loop.add_reader(fd, self._channel.process_read_fd, fd)
        elif not readable and fd in self._readers:
            self._readers.discard(fd)
            self._loop.remove_reader(fd)
        if writable and fd not in self._writers:
            self._writers.add(fd)
            self._loop.add_writer(fd, self._channel.process_write_fd, fd)
        elif not writable and fd in self._writers:
            self._writers.discard(fd)
            self._loop.remove_writer(fd)

    def _tick(self) -> None:
        import pycares  # noqa: PLC0415  # loaded by now

        self._channel.process_fd(pycares.ARES_SOCKET_BAD, pycares.ARES_SOCKET_BAD)
        delay = min(max(self._channel.timeout(), _TICK_MIN), _TICK_MAX)  # type: ignore[no-untyped-call]  # pycares has no types there
        self._timer = self._loop.call_later(delay, self._tick)

    def close(self) -> None:
        """Close every socket now. The memory of the channel is freed by pycares' own thread."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._answer.done():
            self._answer.cancel()
        self._channel.cancel()
        self._closed = True
        for fd in self._readers:
            self._loop.remove_reader(fd)
        for fd in self._writers:
            self._loop.remove_writer(fd)
        self._channel.close()


def _dns_error(code: int | None) -> UpstreamError:
    import pycares  # noqa: PLC0415  # loaded by now

    if code is None:
        return UpstreamError(Reason.DNS_ERROR, "the name has no address", phase=Phase.CONNECT)
    timed_out = code == pycares.errno.ARES_ETIMEOUT
    detail = str(pycares.errno.strerror(code))
    return UpstreamError(Reason.DNS_TIMEOUT if timed_out else Reason.DNS_ERROR, detail, phase=Phase.CONNECT)
