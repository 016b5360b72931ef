"""Tunnels: after a 101 or a CONNECT both directions are opaque bytes until both have ended (RFC 9110 section 9.3.6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from sidecar.errors import PeerGone
from sidecar.model.endpoint import Endpoint
from sidecar.model.exchange import Attempt, Exchange
from sidecar.model.head import Field, ResponseHead
from sidecar.model.stream import BodySource, ByteStream
from sidecar.policy.deadline import Deadlines
from sidecar.protocol.websocket import MessageCounter
from sidecar.tasks import cancel_and_wait, create_task
from sidecar.upstream.transport import Transport


class _NoBody:
    """The body of an answer to CONNECT: none (RFC 9110 section 9.3.6)."""

    __slots__ = ("length", "trailers")

    def __init__(self) -> None:
        self.length = 0
        self.trailers: list[Field] = []

    def ready(self) -> bool:
        return True

    async def read(self) -> bytes:
        return b""


class Connected:
    """An established CONNECT in the shape of a response (implements InboundResponse)."""

    __slots__ = ("_stream", "body", "head")

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self.head = ResponseHead(200, b"Connection Established", 1, [])
        self.body: BodySource = _NoBody()

    def tunnel(self) -> ByteStream:
        """The raw connection."""
        return self._stream

    def release(self) -> None:
        """A tunnel's connection is never kept."""
        self._stream.close()

    def abort(self) -> None:
        """Close at once."""
        self._stream.abort()


async def connect(transport: Transport, endpoint: Endpoint, attempt: Attempt, deadlines: Deadlines) -> Connected:
    """Answer a CONNECT: a connection of its own to `endpoint`. Raises UpstreamError."""
    return Connected(await transport.connect(endpoint, attempt, deadlines))


class Meter:
    """Keeps an exchange's record of its tunnel up to date, and `tunnelIdle` from firing while bytes move.

    Messages of a WebSocket are counted where spans are recorded: it costs 1 µs for each.
    """

    __slots__ = ("_deadlines", "_exchange", "_from_client", "_to_client")

    def __init__(self, exchange: Exchange, deadlines: Deadlines) -> None:
        self._exchange = exchange
        self._deadlines = deadlines
        counted = exchange.tunnel == "websocket" and exchange.trace is not None and exchange.trace.sampled
        self._from_client = MessageCounter() if counted else None
        self._to_client = MessageCounter() if counted else None

    def sent(self, data: bytes) -> None:
        """These bytes went to the upstream."""
        self._exchange.bytes_in += len(data)
        self._deadlines.moved_at = monotonic()
        if self._from_client is not None:
            self._exchange.messages_in += self._from_client.feed(data)

    def received(self, data: bytes) -> None:
        """These bytes went to the client."""
        self._exchange.bytes_out += len(data)
        self._deadlines.moved_at = monotonic()
        if self._to_client is not None:
            self._exchange.messages_out += self._to_client.feed(data)


async def tunnel(client: ByteStream, upstream: ByteStream, sent: Callable[[bytes], None], received: Callable[[bytes], None]) -> None:
    """Carry bytes until both sides have sent FIN; each direction ends by itself (half-close is kept).

    `sent` hears of bytes to the upstream, `received` of bytes to the client. Raises PeerGone when a side vanishes;
    both are then aborted. Cancelled: the same.
    """
    tasks = {
        create_task(_carry(client, upstream, sent), name="tunnel to upstream"),
        create_task(_carry(upstream, client, received), name="tunnel to client"),
    }
    gone: PeerGone | None = None
    try:
        await asyncio.wait(tasks)  # bounded by `tunnelIdle`; when a side vanishes both directions end
        gone = next((error for task in tasks if (error := task.result()) is not None), None)
    finally:
        if any(not task.done() for task in tasks):
            client.abort()
            upstream.abort()
        await cancel_and_wait(tasks)
    if gone is not None:
        raise gone
    client.close()
    upstream.close()


async def _carry(source: ByteStream, destination: ByteStream, moved: Callable[[bytes], None]) -> PeerGone | None:
    try:
        while data := await source.read():
            moved(data)
            await destination.write(data)
        destination.write_eof()
    except PeerGone as error:
        source.abort()
        destination.abort()
        return error
    return None
