"""Servers for the contract, over HTTP/1.1 and HTTP/2, with one way of being told what to do."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from ssl import SSLContext
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from support.upstream import Connection, ScriptedUpstream
from support.wire import Message

Fields = Iterable[tuple[bytes, bytes]]
PATIENCE = 60.0
"""Seconds for which a server waits for a client. One that gave up sooner than the test would be taken for a server that closes."""


class Served(ABC):
    """One request, as its server has it."""

    number: int
    """Of the connection, in the order of their coming."""
    method: bytes
    target: bytes
    authority: bytes
    fields: list[tuple[bytes, bytes]]
    trailers: list[tuple[bytes, bytes]]

    @abstractmethod
    async def some(self) -> bytes:
        """Some bytes of the body; b"" at its end."""

    async def body(self) -> bytes:
        """All of the body."""
        whole = b""
        while piece := await self.some():
            whole += piece
        return whole

    @abstractmethod
    async def interim(self, status: int, fields: Fields = ()) -> None:
        """A 1xx."""

    @abstractmethod
    async def start(self, status: int = 200, fields: Fields = (), length: int | None = None) -> None:
        """The head; `length` None: of unknown length."""

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Some of the body; waits while the peer is slow."""

    @abstractmethod
    async def end(self, trailers: Fields = ()) -> None:
        """The end of the body."""

    async def answer(self, status: int = 200, fields: Fields = (), body: bytes = b"") -> None:
        """All of a response."""
        await self.start(status, fields, len(body))
        if body:
            await self.send(body)
        await self.end()

    @abstractmethod
    def reset(self) -> None:
        """End this exchange alone, where the protocol can; else the connection."""

    @abstractmethod
    def vanish(self) -> None:
        """End the connection with a reset."""

    @abstractmethod
    async def close(self) -> None:
        """End the connection with a FIN."""

    @abstractmethod
    async def raw(self, data: bytes) -> None:
        """These bytes, whatever they are."""

    async def transport_bytes(self) -> bytes:
        """What comes on the connection, whatever it is; b"" at its end."""
        raise NotImplementedError

    @property
    @abstractmethod
    def transport(self) -> asyncio.Transport:
        """Of the connection, for pausing."""


Script = Callable[[Served], Awaitable[None]]


class Peer(ABC):
    """A server on a free port of this machine that plays its script for each request."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.served: list[Served] = []
        self.errors: list[BaseException] = []

    async def play(self, served: Served) -> None:
        """Play; what goes wrong in the script, assertions too, is raised at the end of the test's block."""
        self.served.append(served)
        try:
            await self.script(served)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            raise
        except BaseException as error:
            self.errors.append(error)
            raise ConnectionAbortedError from error

    @property
    @abstractmethod
    def port(self) -> int: ...

    @property
    @abstractmethod
    def connections(self) -> int:
        """How many have been accepted."""

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None: ...


# -- HTTP/1.1


class Http1Served(Served):
    def __init__(self, connection: Connection, head: Message) -> None:
        self.connection = connection
        self.number = connection.number
        self.method, self.target, _ = head.start.split(b" ")
        self.fields, self.trailers = head.fields, []
        self.authority = (head.get("host") or "").encode()
        coding, length = head.get("transfer-encoding"), head.get("content-length")
        self._left = -1 if coding else int(length or 0)
        self._chunked = False

    async def some(self) -> bytes:
        if self._left == 0:
            return b""
        if self._left > 0:
            data = await self.connection.read_some(min(self._left, 65536))
            if not data:
                raise asyncio.IncompleteReadError(b"", self._left)
            self._left -= len(data)
            return data
        size = int((await self.connection.read_until(b"\r\n")).split(b";")[0], 16)
        if size:
            return (await self.connection.read_exactly(size + 2))[:-2]
        while (line := await self.connection.read_until(b"\r\n")) != b"\r\n":
            name, _, value = line.removesuffix(b"\r\n").partition(b":")
            self.trailers.append((name, value.strip()))
        self._left = 0
        return b""

    async def _send(self, data: bytes) -> None:
        if self.connection._writer.is_closing():
            raise ConnectionResetError("the client has gone")  # uvloop's own error is no OSError
        await self.connection.send(data)

    async def interim(self, status: int, fields: Fields = ()) -> None:
        await self._send(b"HTTP/1.1 %d Interim\r\n%s\r\n" % (status, _lines(fields)))

    async def start(self, status: int = 200, fields: Fields = (), length: int | None = None) -> None:
        self._chunked = length is None
        bodiless = status in (204, 304)
        framing = b"" if bodiless else b"Transfer-Encoding: chunked\r\n" if length is None else b"Content-Length: %d\r\n" % length
        await self._send(b"HTTP/1.1 %d Status\r\n%s%s\r\n" % (status, _lines(fields), framing))

    async def send(self, data: bytes) -> None:
        await self._send(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)

    async def end(self, trailers: Fields = ()) -> None:
        if self._chunked:
            await self._send(b"0\r\n%s\r\n" % _lines(trailers))

    def reset(self) -> None:
        self.vanish()

    def vanish(self) -> None:
        self.connection.reset()
        raise ConnectionAbortedError

    async def close(self) -> None:
        await self.connection.close()
        raise ConnectionAbortedError

    async def raw(self, data: bytes) -> None:
        await self._send(data)

    async def transport_bytes(self) -> bytes:
        return await self.connection.read_some()

    @property
    def transport(self) -> asyncio.Transport:
        return self.connection._writer.transport


def _lines(fields: Fields) -> bytes:
    return b"".join(b"%s: %s\r\n" % pair for pair in fields)


class Http1Peer(Peer):
    def __init__(self, script: Script, *, ssl: SSLContext | None = None) -> None:
        super().__init__(script)
        self._server = ScriptedUpstream(self._serve, ssl=ssl, timeout=PATIENCE)

    @property
    def quiet(self) -> bool:
        """No connection is open."""
        return all(connection.ended.is_set() for connection in self._server.connections)

    async def _serve(self, connection: Connection) -> None:
        while True:
            await self.play(Http1Served(connection, await connection.read_head()))

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def connections(self) -> int:
        return len(self._server.connections)

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        await self._server.__aexit__(kind, error, None)
        if self.errors and error is None:
            raise self.errors[0]


# -- HTTP/2


class Http2Served(Served):
    def __init__(self, connection: Http2Connection, stream: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.connection = connection
        self.stream = stream
        self.number = connection.number
        pseudo = dict(pair for pair in headers if pair[0].startswith(b":"))
        self.method, self.target, self.authority = pseudo[b":method"], pseudo.get(b":path", b""), pseudo.get(b":authority", b"")
        self.scheme = pseudo.get(b":scheme", b"")
        self.fields = [pair for pair in headers if not pair[0].startswith(b":")]
        self.trailers = []
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self.ended = False
        self.window = asyncio.Event()
        self.cancelled: int | None = None
        """The error code of a reset by the client."""

    async def some(self) -> bytes:
        if self.ended and self.pieces.empty():
            return b""
        piece = await asyncio.wait_for(self.pieces.get(), 20)
        if piece:
            self.connection.h2.acknowledge_received_data(len(piece), self.stream)
            self.connection.flush()
        else:
            self.ended = True
        return piece

    async def interim(self, status: int, fields: Fields = ()) -> None:
        await self._headers([(b":status", b"%d" % status), *fields])

    async def start(self, status: int = 200, fields: Fields = (), length: int | None = None) -> None:
        framing = [(b"content-length", b"%d" % length)] if length is not None and status not in (204, 304) else []
        await self._headers([(b":status", b"%d" % status), *((name.lower(), value) for name, value in fields), *framing])

    async def _headers(self, headers: list[tuple[bytes, bytes]], *, end: bool = False) -> None:
        self._check()
        self.connection.h2.send_headers(self.stream, headers, end_stream=end)
        await self.connection.drain()

    async def send(self, data: bytes) -> None:
        while data:
            self._check()
            room = min(self.connection.h2.local_flow_control_window(self.stream), self.connection.h2.max_outbound_frame_size)
            if room <= 0:
                self.window.clear()
                await self.window.wait()
                continue
            self.connection.h2.send_data(self.stream, data[:room])
            data = data[room:]
            await self.connection.drain()

    def _check(self) -> None:
        gone = self.connection.closed or self.connection.h2.state_machine.state is h2.connection.ConnectionState.CLOSED
        if self.cancelled is not None or gone:
            raise ConnectionResetError("the client has cancelled")

    async def end(self, trailers: Fields = ()) -> None:
        self._check()
        if pairs := list(trailers):
            await self._headers(pairs, end=True)
        else:
            self.connection.h2.end_stream(self.stream)
            await self.connection.drain()

    def reset(self, code: int = 2) -> None:
        self.connection.h2.reset_stream(self.stream, code)
        self.connection.flush()
        raise ConnectionAbortedError

    def vanish(self) -> None:
        self.connection.transport.abort()
        raise ConnectionAbortedError

    async def close(self) -> None:
        self.connection.transport.close()
        raise ConnectionAbortedError

    async def raw(self, data: bytes) -> None:
        self.connection.flush()
        self.connection.transport.write(data)

    @property
    def transport(self) -> asyncio.Transport:
        return self.connection.transport


class Http2Connection(asyncio.Protocol):
    """One connection of a client that speaks HTTP/2."""

    transport: asyncio.Transport

    def __init__(self, peer: Http2Peer) -> None:
        self.peer = peer
        self.number = len(peer.all)
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding=None, normalize_inbound_headers=False, **peer.lenient)
        )
        self.streams: dict[int, Http2Served] = {}
        self.closed = False
        self.writable = asyncio.Event()
        self.writable.set()
        peer.all.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # typed for every kind of transport
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=self.peer.settings)
        self.h2.initiate_connection()
        self.flush()

    def connection_lost(self, _error: Exception | None) -> None:
        self.closed = True
        self.writable.set()
        for served in self.streams.values():
            served.window.set()
            served.pieces.put_nowait(b"")
        self.peer.cancel(self.number)

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def flush(self) -> None:
        if not self.closed and (data := self.h2.data_to_send()):
            self.transport.write(data)

    async def drain(self) -> None:
        self.flush()
        await asyncio.sleep(0)
        await self.writable.wait()

    def data_received(self, data: bytes) -> None:
        if self.peer.deaf:
            return
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self.peer.errors.append(error)
            self.transport.abort()
            return
        for event in events:
            self.heard(event)
        self.flush()

    def heard(self, event: h2.events.Event) -> None:
        self.peer.events.append(event)
        if isinstance(event, h2.events.RequestReceived):
            served = self.streams[event.stream_id] = Http2Served(self, event.stream_id, [(bytes(n), bytes(v)) for n, v in event.headers])
            self.peer.begin(served)
        elif isinstance(event, h2.events.DataReceived):
            if event.data:
                self.streams[event.stream_id].pieces.put_nowait(bytes(event.data))
        elif isinstance(event, h2.events.TrailersReceived):
            self.streams[event.stream_id].trailers = [(bytes(n), bytes(v)) for n, v in event.headers]
        elif isinstance(event, h2.events.StreamEnded):
            self.streams[event.stream_id].pieces.put_nowait(b"")
        elif isinstance(event, h2.events.StreamReset):
            self.streams[event.stream_id].cancelled = event.error_code
            self.streams[event.stream_id].window.set()
            self.peer.cancel_stream(self.number, event.stream_id)
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            for served in self.streams.values():
                served.window.set()


class Http2Peer(Peer):
    """`settings`: what the server announces. `lenient`: switches of h2's own checks. `deaf`: it reads nothing of what comes."""

    def __init__(
        self,
        script: Script,
        *,
        settings: dict[int, int] | None = None,
        lenient: dict[str, bool] | None = None,
        ssl: SSLContext | None = None,
    ) -> None:
        super().__init__(script)
        self._ssl = ssl
        self.settings = {h2.settings.SettingCodes(code): value for code, value in (settings or {}).items()}
        self.lenient = lenient or {}
        self.deaf = False
        self.all: list[Http2Connection] = []
        self.events: list[h2.events.Event] = []
        self._tasks: dict[asyncio.Task[None], tuple[int, int]] = {}
        self._server: asyncio.Server | None = None

    def begin(self, served: Http2Served) -> None:
        task = asyncio.get_running_loop().create_task(self._play(served))
        self._tasks[task] = served.number, served.stream
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _play(self, served: Http2Served) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, h2.exceptions.StreamClosedError):
            await self.play(served)

    def cancel(self, number: int) -> None:
        for task, (connection, _) in list(self._tasks.items()):
            if connection == number:
                task.cancel()

    def cancel_stream(self, number: int, stream: int) -> None:
        for task, place in list(self._tasks.items()):
            if place == (number, stream):
                task.cancel()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """For a target of the document."""
        return f"{'https' if self._ssl else 'http'}://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        return len(self.all)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(lambda: Http2Connection(self), "127.0.0.1", 0, ssl=self._ssl)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self.all:
            connection.transport.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        if self.errors and error is None:
            raise self.errors[0]
