"""A client library as a guest on a connection of ours: what it writes, what it hears, and what is ours around it.

The socket, the pool, the clocks, the request's head as it goes out and the reading of the response are Native's, so the
rules of HTTP/1.1 have one home (protocol/, http1/) whatever client carries a request. The guest frames the request's
body, hears the response as we have understood it, and hands its body on (docs/decisions/0028).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Final, Protocol, TypeVar

from sidecar.errors import OutriderError, PeerGone, ProxyError, UpstreamError
from sidecar.http1.stream import RawStream
from sidecar.http1.upstream_connection import Response, UpstreamConnection
from sidecar.model.exchange import Attempt
from sidecar.model.head import CHUNKED, Field, ResponseHead
from sidecar.model.outbound import OutboundRequest
from sidecar.model.reason import Phase, Reason
from sidecar.model.stream import BodySource
from sidecar.policy.deadline import Deadlines
from sidecar.protocol.chunked import encode_chunk, last_chunk
from sidecar.protocol.head import END_OF_HEAD

Answer = TypeVar("Answer")
LAST_CHUNK: Final = b"0\r\n\r\n"


class Wire:
    """What a guest has instead of a socket, for one exchange."""

    def __init__(self, connection: UpstreamConnection, request: OutboundRequest, attempt: Attempt, deadlines: Deadlines) -> None:
        self.connection = connection
        self.request = request
        self.attempt = attempt
        self._deadlines = deadlines
        self.uploading = request.length != 0
        """Some of the request's body has not been written yet."""
        self._guests_head: bytes | None = b""
        """What the guest has written of its own head; None once it has written all of it."""
        self._head_out = False
        self._left = request.length
        self._read_up = False
        """All of a chunked body has been read: what the guest writes next is the end of it."""

    # -- the request

    def write(self, data: bytes) -> None:
        """Take what the guest writes.

        Its head is dropped for ours: no library keeps targets, values and the order and case of names byte for byte
        (docs/clients.md says what each would do to them). Its last chunk is dropped for one with the trailers.
        """
        if self._guests_head is not None:
            written = self._guests_head + data
            end = written.find(END_OF_HEAD) + 4
            if end < 4:
                self._guests_head = written
                return
            self._guests_head, data = None, written[end:]
            self._send_head()
        if self.uploading and data:
            self._write_body(data)

    def _send_head(self) -> None:
        if self._head_out:
            return
        self._head_out = True
        self.connection.send(b"".join(self.connection.render(self.request)))
        if not self.uploading:
            self.connection.sent(self.request, self.attempt, self._deadlines)

    def _write_body(self, data: bytes) -> None:
        if self._left != CHUNKED:
            self.connection.send(data)
            self._left -= len(data)
            if self._left == 0:
                self._uploaded()
        elif self._read_up and data.endswith(LAST_CHUNK):
            body = self.request.body
            assert body is not None
            self.connection.send(data.removesuffix(LAST_CHUNK) + last_chunk(body.trailers))
            self._uploaded()
        else:
            self.connection.send(data)

    def _uploaded(self) -> None:
        self.uploading = False
        self.connection.upload = None
        self.connection.sent(self.request, self.attempt, self._deadlines)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The request's body for the guest, as fast as the upstream takes it. What stops it is told to whoever waits."""
        body, connection = self.request.body, self.connection
        assert body is not None
        if not body.ready():
            self._send_head()  # aiohttp holds its head back until the first bytes of the body, which may wait for the answer to the head
        try:
            while piece := await body.read():
                yield piece
                await connection.drain()
                if connection.closed:
                    raise ConnectionAbortedError("the upstream closed its connection")
        except (ProxyError, PeerGone) as error:
            self.fail(error)
            raise
        self._read_up = True

    # -- the response

    def fail(self, error: ProxyError | PeerGone) -> None:
        """It is pointless to wait for the response: `error` says why, unless the upstream has gone and says more."""
        connection = self.connection
        if not connection.closed and connection.failure is None:
            connection.failure = error
            connection.wake()

    def guest_failed(self, error: Exception) -> None:
        """The library gave up on its own."""
        if isinstance(error, OutriderError):
            return  # it was told so by us
        self.fail(UpstreamError(Reason.HTTP_PROTOCOL_ERROR, f"{type(error).__name__}: {error}", phase=Phase.HEADERS))


async def answered(asking: asyncio.Task[Answer | None], connection: UpstreamConnection) -> Answer:
    """What the library made of a response whose head has come. Raises what stopped it."""
    answer = await asking
    if answer is None:
        raise connection.failure or UpstreamError(Reason.CONNECTION_TERMINATED, "the upload broke", phase=Phase.BODY)
    return answer


def plain_head(head: ResponseHead) -> bytes:
    """`head` as bytes for a guest: what our strict reading made of it, so that there is no second opinion."""
    parts = [b"HTTP/1.%d %d %s\r\n" % (head.minor, head.status, head.reason)]
    for name, _, value in head.fields:
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


def framed(native: Incoming, piece: bytes) -> bytes:
    """A piece of a response's body in the framing that its head announces; b"" is the end of it."""
    if native.length != CHUNKED:
        return piece
    return b"".join(encode_chunk(piece)) if piece else LAST_CHUNK


class Incoming(BodySource, Protocol):
    """A response's body as we read it."""

    @property
    def done(self) -> bool:
        """It is complete and has been read."""
        ...


class GuestBody(ABC):
    """Implements BodySource over what a guest hands on of `native`: when there is something is native's to know."""

    def __init__(self, native: Incoming) -> None:
        self.native = native
        self.length = native.length

    @property
    def trailers(self) -> list[Field]:
        """As read by us: no library hands them on."""
        return self.native.trailers

    @trailers.setter
    def trailers(self, _fields: list[Field]) -> None:
        raise AttributeError("trailers are the upstream's")

    def ready(self) -> bool:
        """Whether `read` would not wait."""
        return self.native.ready()

    @abstractmethod
    async def read(self) -> bytes:
        """The next piece. Raises UpstreamError."""


class GuestResponse(ABC):
    """Implements InboundResponse: the guest is sent away before the connection goes back to the pool or is closed."""

    def __init__(self, native: Response, body: BodySource) -> None:
        self._native = native
        self.head = native.head
        self.body = body

    def tunnel(self) -> RawStream:
        """The raw connection after a 101: no guest has a part in a tunnel."""
        self._dismiss()
        return self._native.tunnel()

    def release(self) -> None:
        """See InboundResponse."""
        self._dismiss()
        self._native.release()

    def abort(self) -> None:
        """See InboundResponse."""
        self._dismiss()
        self._native.abort()

    @abstractmethod
    def _dismiss(self) -> None:
        """The guest's part is over; harmless when it is already."""
