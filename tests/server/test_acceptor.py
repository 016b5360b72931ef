"""The accept loop: limits, exhaustion, the backlog at the end."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from sidecar.server.acceptor import Acceptor, Share
from sidecar.server.sockets import SocketAddress, close_socket, open_socket
from sidecar.workers.seats import Seats


class Echo(asyncio.Protocol):
    """Answers `x` to whatever comes and tells the acceptor when it is gone."""

    acceptor: Acceptor

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by name

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"x")

    def connection_lost(self, error: Exception | None) -> None:
        self.acceptor.released()


def start(limit: int = 0, sock: socket.socket | None = None, spares: int = 0, share: Share | None = None) -> Acceptor:
    def make() -> Echo:
        protocol = Echo()
        protocol.acceptor = acceptor
        return protocol

    acceptor = Acceptor(sock or open_socket(SocketAddress("127.0.0.1", 0)), make, name="test", limit=limit, spares=spares, share=share)
    acceptor.start()
    return acceptor


class Client:
    """A connection that asks once."""

    def __init__(self, acceptor: Acceptor) -> None:
        self.sock = socket.create_connection((acceptor.address.host, acceptor.address.port), timeout=5)
        self.sock.setblocking(False)

    async def ask(self) -> bytes:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.sock, b"?")
        return await asyncio.wait_for(loop.sock_recv(self.sock, 10), 30)

    async def waits(self) -> bool:
        await asyncio.get_running_loop().sock_sendall(self.sock, b"?")
        await asyncio.sleep(0.1)
        try:
            self.sock.recv(1)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self.sock.close()


def run(main: Coroutine[Any, Any, None]) -> None:
    uvloop.run(main)


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def test_connections_are_accepted_on_both_loops() -> None:
    async def main() -> None:
        acceptor = start()
        client = Client(acceptor)
        assert await client.ask() == b"x"
        client.close()
        await until(lambda: acceptor.open == 0)
        await acceptor.aclose()

    uvloop.run(main())
    asyncio.run(main())


def test_above_its_limit_accepting_pauses_and_the_rest_wait_in_the_backlog() -> None:
    async def main() -> None:
        acceptor = start(limit=2)
        clients = [Client(acceptor) for _ in range(3)]
        assert [await client.ask() for client in clients[:2]] == [b"x", b"x"]
        assert await clients[2].waits()
        assert acceptor.open == 2
        clients[0].close()
        assert await clients[2].ask() == b"x"
        for client in clients:
            client.close()
        await until(lambda: acceptor.open == 0)
        await acceptor.aclose()

    run(main())


def test_a_raised_limit_lets_in_who_waits() -> None:
    async def main() -> None:
        acceptor = start(limit=1)
        first, second = Client(acceptor), Client(acceptor)
        assert await first.ask() == b"x"
        assert await second.waits()
        acceptor.set_limit(0)
        assert await second.ask() == b"x"
        first.close()
        second.close()
        await until(lambda: acceptor.open == 0)
        await acceptor.aclose()

    run(main())


class Exhausted(socket.socket):
    """A listening socket whose process has no descriptor left, for a while."""

    failures = 2

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_without_a_descriptor_it_rests_says_so_once_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        plain = open_socket(SocketAddress("127.0.0.1", 0))
        acceptor = start(sock=Exhausted(plain.family, plain.type, fileno=plain.detach()))
        client = Client(acceptor)
        assert await client.ask() == b"x"
        client.close()
        await until(lambda: acceptor.open == 0)
        await acceptor.aclose()

    run(main())
    assert [record.getMessage() for record in caplog.records] == ["cannot accept: Too many open files; clients wait"]


def test_a_spare_descriptor_serves_a_connection_when_there_is_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        plain = open_socket(SocketAddress("127.0.0.1", 0))
        acceptor = start(sock=Exhausted(plain.family, plain.type, fileno=plain.detach()), spares=2)
        client = Client(acceptor)
        assert await client.ask() == b"x"
        client.close()
        await until(lambda: acceptor.open == 0)
        await acceptor.aclose()

    run(main())
    assert caplog.records == []


def test_closing_serves_who_already_waits_in_the_backlog() -> None:
    async def main() -> None:
        acceptor = start()
        clients = [Client(acceptor) for _ in range(50)]
        acceptor.close()
        assert [await client.ask() for client in clients] == [b"x"] * 50
        with pytest.raises(ConnectionRefusedError):
            Client(acceptor)
        for client in clients:
            client.close()
        await until(lambda: acceptor.open == 0)
        await acceptor.aclose()

    run(main())


def test_closing_twice_is_harmless() -> None:
    async def main() -> None:
        acceptor = start()
        acceptor.close()
        await acceptor.aclose()
        assert not acceptor.listening

    run(main())


# -- a socket that several processes accept from


class Table:
    """Seats of this process and of another one; `theirs` None: the other takes none."""

    def __init__(self, theirs: int | None) -> None:
        self.mine: int | None = None
        self.theirs = theirs

    def report(self, open_connections: int) -> None:
        self.mine = open_connections

    def leave(self) -> None:
        self.mine = None

    def room(self) -> int:
        assert self.mine is not None
        return (self.mine if self.theirs is None else self.theirs) - self.mine + 1


def test_two_that_share_a_socket_end_up_with_as_many_connections_each() -> None:
    async def main() -> None:
        seats = Seats(2)
        column = seats.new_column()
        sock = open_socket(SocketAddress("127.0.0.1", 0))
        both = [start(sock=sock.dup(), share=seats.seat(column, number)) for number in range(2)]
        for acceptor in both:
            acceptor.sock.setblocking(False)
        clients = []
        for _ in range(20):
            clients.append(Client(both[0]))
            await until(lambda: sum(acceptor.open for acceptor in both) == len(clients))
            assert abs(both[0].open - both[1].open) <= 1
        for client in clients:
            client.close()
        await until(lambda: both[0].open == both[1].open == 0)
        for acceptor in both:
            await acceptor.aclose()
        sock.close()
        seats.close()

    run(main())


def test_what_another_process_does_not_take_is_taken_after_a_moment() -> None:
    async def main() -> None:
        table = Table(theirs=0)  # the other has none, and hangs
        acceptor = start(share=table)
        clients = [Client(acceptor) for _ in range(50)]
        for client in clients:
            assert await client.ask() == b"x"
        assert table.mine == 50
        for client in clients:
            client.close()
        await until(lambda: table.mine == 0)
        await acceptor.aclose()
        assert table.mine is None

    run(main())


def test_nobody_waits_for_one_that_is_full_or_has_stopped() -> None:
    async def main() -> None:
        table = Table(theirs=None)
        acceptor = start(limit=1, share=table)
        first, second = Client(acceptor), Client(acceptor)
        assert await first.ask() == b"x"
        assert table.mine is None  # full
        assert await second.waits()
        first.close()
        await until(lambda: acceptor.open == 1 and table.mine is None)
        second.close()
        await until(lambda: table.mine == 0)
        acceptor.set_limit(-1)
        assert table.mine is None  # none at all: others have them
        third = Client(acceptor)
        assert await third.waits()
        acceptor.set_limit(0)
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(third.sock, 1), 30) == b"x"
        third.close()
        await acceptor.aclose()

    run(main())


def test_closing_a_shared_unix_socket_leaves_its_file_to_whoever_owns_it(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s.sock"
        sock = open_socket(SocketAddress(path=str(path)))
        acceptor = start(sock=sock.dup(), share=Table(None))
        acceptor.sock.setblocking(False)
        await acceptor.aclose()
        assert path.exists()
        close_socket(sock)
        assert not path.exists()

    run(main())
