"""The upstreams of the soak: plain, over TLS, over HTTP/2, and one that gets copies. All answer by what the target says: /ID/SIZE/HOW."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar, Final

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
from soak.test_mixed import Server, body_for
from support.ports import free_port
from support.tls import server as tls_server

ENDPOINTS: Final = {"app": 3, "secure": 2, "h2": 2, "shadow": 1}
"""Servers of each upstream."""
PAUSE: Final = 1024 * 1024
"""Bytes that an HTTP/2 server writes ahead."""


class Upgrading(Server):
    """Says 100 to those who wait for it, and speaks WebSocket's handshake: after it, every byte comes back."""

    tunnel = b""
    """Whose bytes these are, after an upgrade."""
    cut: ClassVar[set[str]] = set()
    """Requests whose tunnels were open when their connection ended here."""

    def connection_lost(self, error: Exception | None) -> None:
        if self.tunnel:
            Upgrading.cut.add(self.tunnel.decode())
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        if self.tunnel:
            self._write(data)
        else:
            if b"\r\nexpect: 100-continue\r\n" in data.lower():
                self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
            super().data_received(data)

    def _answer(self, method: bytes, target: bytes, body: bytes) -> None:
        if not target.endswith(b"/websocket"):
            super()._answer(method, target, body)
            return
        self.tunnel = tag = target.split(b"/")[1]
        self._write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nx-tag: " + tag + b"\r\n\r\n")


class Shadow(Server):
    """Gets the copies of mirrored requests. What it answers must reach nobody."""

    copies: ClassVar[Counter[bytes]] = Counter()
    mixed_up: ClassVar[list[str]] = []

    def _answer(self, method: bytes, target: bytes, body: bytes) -> None:
        tag = target.split(b"/")[1]
        Shadow.copies[method] += 1
        if body != body_for(tag, len(body)):
            Shadow.mixed_up.append(f"{tag.decode()}: the copy's body of {len(body)} bytes is another's")
        self._write(b"HTTP/1.1 200 OK\r\nx-tag: a-copy\r\nContent-Length: 6\r\n\r\ncopied")


class Http2Server(asyncio.Protocol):
    """The same over HTTP/2 by prior knowledge."""

    malformed: ClassVar[list[str]] = []
    """What the sidecar sent and must not."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as asyncio's own
        self.transport = transport
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self.coming: dict[int, tuple[bytes, bytes, bytearray]] = {}
        self.going: dict[int, memoryview] = {}
        self.h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            for event in self.h2.receive_data(data):
                with contextlib.suppress(
                    h2.exceptions.StreamClosedError, h2.exceptions.StreamIDTooLowError
                ):  # reset a moment after it was asked
                    self._heard(event)
        except h2.exceptions.ProtocolError as error:
            Http2Server.malformed.append(f"the sidecar broke the rules of HTTP/2: {error!r}")
            self.transport.abort()
            return
        self._pump()

    def _heard(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            fields = {bytes(name): bytes(value) for name, value in event.headers}
            self.coming[event.stream_id] = fields[b":method"], fields[b":path"], bytearray()
            if b"expect" in fields:
                self.h2.send_headers(event.stream_id, [(b":status", b"100")])
        elif isinstance(event, h2.events.DataReceived):
            self.coming[event.stream_id][2].extend(event.data)
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self._answer(event.stream_id, *self.coming.pop(event.stream_id))
        elif isinstance(event, h2.events.StreamReset):
            self.coming.pop(event.stream_id, None)
            self.going.pop(event.stream_id, None)

    def _answer(self, stream: int, method: bytes, target: bytes, body: bytearray) -> None:
        _, tag, size, how = target.split(b"/")
        if method == b"POST":
            Server.seen[tag] += 1
            if body != body_for(tag, len(body)):
                self.h2.send_headers(stream, [(b":status", b"418")], end_stream=True)
                return
        if how in (b"flaky", b"dies") and tag not in Server.flaky:
            Server.flaky.add(tag)
            if how == b"dies":
                self.h2.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
            else:
                self._send(stream, [(b":status", b"503")], b"busy")
            return
        answer = body_for(tag, int(size))
        fields = [(b":status", b"200"), (b"x-tag", tag), (b"x-got", b"%d" % len(body))]
        if how != b"chunked":
            fields.append((b"content-length", b"%d" % len(answer)))
        self._send(stream, fields, b"" if method == b"HEAD" else answer)

    def _send(self, stream: int, fields: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.h2.send_headers(stream, fields, end_stream=not body)
        if body:
            self.going[stream] = memoryview(body)

    def resume_writing(self) -> None:
        self._pump()

    def _pump(self) -> None:
        for stream in list(self.going):
            while (left := self.going[stream]) and self.transport.get_write_buffer_size() < PAUSE:
                room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(left))
                if room <= 0:
                    break
                self.h2.send_data(stream, left[:room].tobytes(), end_stream=room == len(left))
                self.going[stream] = left[room:]
                self._flush()
            if not left:
                del self.going[stream]
        self._flush()

    def _flush(self) -> None:
        if (data := self.h2.data_to_send()) and not self.transport.is_closing():
            self.transport.write(data)


def tracked(kind: Any, opened: set[asyncio.BaseTransport]) -> Any:
    """`kind`, a protocol, that keeps its transports in `opened` while they live."""

    class Tracked(kind):  # type: ignore[misc]  # a base that is chosen
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            opened.add(transport)

        def connection_lost(self, error: Exception | None) -> None:
            opened.discard(self.transport)
            super().connection_lost(error)

    return Tracked


PROTOCOLS: Final[dict[str, Callable[[], Any]]] = {"app": Upgrading, "secure": Upgrading, "h2": Http2Server, "shadow": Shadow}


class Upstreams:
    """Servers on fixed ports that can be taken away."""

    def __init__(self) -> None:
        self._servers: dict[int, asyncio.Server] = {}
        self._open: dict[int, set[asyncio.BaseTransport]] = {}
        self._kinds: dict[int, str] = {}
        self.ports: dict[str, list[int]] = {kind: [] for kind in ENDPOINTS}
        """By upstream."""

    async def start(self) -> None:
        """All of them."""
        Server.seen, Server.flaky = Counter(), set()
        Shadow.copies, Shadow.mixed_up, Http2Server.malformed, Upgrading.cut = Counter(), [], [], set()
        for kind, count in ENDPOINTS.items():
            for _ in range(count):
                port = free_port()
                self.ports[kind].append(port)
                self._kinds[port] = kind
                await self.up(port)

    async def up(self, port: int) -> None:
        """Listen again."""
        kind, opened = self._kinds[port], self._open.setdefault(port, set())
        loop, ssl = asyncio.get_running_loop(), tls_server() if self._kinds[port] == "secure" else None
        self._servers[port] = await loop.create_server(
            tracked(PROTOCOLS[kind], opened), "127.0.0.1", port, reuse_address=True, backlog=1024, ssl=ssl
        )

    async def down(self, port: int) -> None:
        """As a crash: nobody listens, and every connection is reset."""
        server = self._servers.pop(port, None)
        if server is not None:
            server.close()
        for transport in list(self._open[port]):
            transport.abort()  # type: ignore[attr-defined]  # uvloop's transports are none by name

    def one(self, rng: random.Random) -> int:
        """Any server's port."""
        return rng.choice(sorted(self._kinds))

    async def stop(self) -> None:
        """All of them."""
        for port in list(self._servers):
            with contextlib.suppress(OSError):
                await self.down(port)
        await asyncio.sleep(0.1)
