"""An upstream that does, byte for byte, what a test tells it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from ssl import SSLContext
from types import TracebackType
from typing import Self

from support.wire import LIMIT, Message, Wire

Script = Callable[["Connection"], Awaitable[None]]


class Connection(Wire):
    """One accepted connection; a script plays on it. `requests` holds what `read_request` has read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int, timeout: float) -> None:
        super().__init__(reader, writer, timeout)
        self.number = number
        """0 for the first connection that the upstream accepted."""
        self.requests: list[Message] = []
        self.ended = asyncio.Event()
        """Set when the script is over and the connection closed."""

    async def read_request(self) -> Message:
        """The next whole request. Raises asyncio.IncompleteReadError when the peer has gone."""
        request = await self.read_body(await self.read_head())
        self.requests.append(request)
        return request


class ScriptedUpstream:
    """Listens on a free loopback port (or a unix socket) and plays `script` on every connection.

    A script is a coroutine function of the connection. The peer going away (end of stream or reset) ends it quietly;
    any other error, an assertion too, is raised again where the `async with` block ends. After the script the
    connection is closed. `connections` keeps them all, in order, with the bytes that were received.
    """

    def __init__(
        self,
        script: Script,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        unix_path: str | None = None,
        timeout: float = 10.0,
        ssl: SSLContext | None = None,
    ) -> None:
        self._script = script
        self._host = host
        self._wanted_port = port
        self._unix_path = unix_path
        self._timeout = timeout
        self._ssl = ssl
        self._playing: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._arrived = asyncio.Condition()
        self.connections: list[Connection] = []
        self.errors: list[BaseException] = []

    async def __aenter__(self) -> Self:
        if self._unix_path is not None:
            self._server = await asyncio.start_unix_server(self._accept, self._unix_path, limit=LIMIT)
        else:
            self._server = await asyncio.start_server(self._accept, self._host, self._wanted_port, limit=LIMIT, ssl=self._ssl)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._playing):
            task.cancel()
        await asyncio.gather(*self._playing, return_exceptions=True)
        if self.errors and error is None:
            raise self.errors[0]

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """For a target of the document."""
        return (
            f"unix://{self._unix_path}"
            if self._unix_path is not None
            else f"{'http' if self._ssl is None else 'https'}://{self._host}:{self.port}"
        )

    @property
    def requests(self) -> list[Message]:
        """All requests that scripts have read, connection by connection."""
        return [request for connection in self.connections for request in connection.requests]

    async def connection(self, number: int) -> Connection:
        """The connection with this number; waits for it."""
        async with self._arrived:
            await asyncio.wait_for(self._arrived.wait_for(lambda: len(self.connections) > number), self._timeout)
        return self.connections[number]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._playing.add(task)
        connection = Connection(reader, writer, len(self.connections), self._timeout)
        async with self._arrived:
            self.connections.append(connection)
            self._arrived.notify_all()
        try:
            await self._play(connection)
        finally:
            self._playing.discard(task)
            connection.ended.set()

    async def _play(self, connection: Connection) -> None:
        try:
            await self._script(connection)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        except BaseException as error:  # noqa: BLE001  # raised again at the end of the test's own block
            self.errors.append(error)
        finally:
            await connection.close()


def response(status: str = "200 OK", body: bytes = b"", headers: str = "", *, chunks: Iterable[bytes] | None = None) -> bytes:
    """The bytes of a response: with Content-Length, or chunked when `chunks` is given; `headers` are lines with CRLF."""
    if chunks is None:
        return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body
    coded = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n{headers}\r\n".encode() + coded + b"0\r\n\r\n"


def answer(*answers: bytes, piece: int | None = None) -> Script:
    """A script: the n-th request of the upstream gets the n-th of `answers`, all later ones the last. Keep-alive."""
    served = 0

    async def play(connection: Connection) -> None:
        nonlocal served
        while True:
            await connection.read_request()
            data = answers[min(served, len(answers) - 1)]
            served += 1
            await connection.send(data, piece=piece)

    return play


def in_turn(*scripts: Script) -> Script:
    """A script: the n-th connection plays the n-th of `scripts`, all later ones the last."""

    async def play(connection: Connection) -> None:
        await scripts[min(connection.number, len(scripts) - 1)](connection)

    return play
