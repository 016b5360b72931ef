"""Bodies read from a connection: by length, chunked, or until close (RFC 9112 sections 6 and 7)."""

from __future__ import annotations

from abc import abstractmethod
from typing import Final

from sidecar.errors import BadMessage, PeerGone, ProxyError, UpstreamError
from sidecar.http1.connection import RX_LIMIT, Connection
from sidecar.model.head import CHUNKED, UNTIL_CLOSE, Field
from sidecar.model.reason import Phase, Reason, Rejection
from sidecar.protocol.chunked import ChunkedDecoder

_NONE: Final[bytes] = b""


class Body:  # not an ABC: its isinstance is asked for each response, and costs five times as much
    """Implements BodySource. `left` counts down a body of known length; `size` counts what has been read."""

    __slots__ = ("_piece", "connection", "decoder", "done", "error", "left", "length", "size", "trailers")

    def __init__(self, connection: Connection, length: int, blame: Reason) -> None:
        self.connection = connection
        self.length = length
        self.left = length
        self.size = 0
        self.decoder = ChunkedDecoder(blame) if length == CHUNKED else None
        self.done = length == 0
        self.error: ProxyError | PeerGone | None = None
        self.trailers: list[Field] = []
        self._piece = _NONE

    def ready(self) -> bool:
        """Whether `read` would return (or raise) without waiting."""
        if not self._piece and not self.done and self.error is None:
            self._pull()
        return bool(self._piece) or self.done or self.error is not None

    async def read(self) -> bytes:
        """The next piece; b"" once complete. Raises ProxyError (or PeerGone) as the subclass defines."""
        while not self.ready():
            await self.connection.arrival()
        piece, self._piece = self._piece, _NONE
        if not piece and self.error is not None:
            raise self.error
        return piece

    def whole(self) -> bytes:
        """All of the body when it has all come and nobody has read from it yet, else b""."""
        connection = self.connection
        if self._piece or self.size or self.left <= 0 or len(connection.rx) < self.left:
            return _NONE
        piece = connection.take(self.left)
        self.size, self.left, self.done = self.left, 0, True
        return piece

    def bulk_left(self) -> int:
        """Bytes that are certain to follow; 0 when the body cannot be handed over, or some of it waits to be read first."""
        connection = self.connection
        if self.decoder is not None or self.done or self.error is not None or self._piece or connection.rx or connection.closed:
            return 0
        return max(self.left, 0)

    def moved(self, size: int) -> None:
        """A relay took `size` bytes past us."""
        self.left -= size
        self.size += size
        self.done = self.left == 0

    def _pull(self) -> None:
        connection = self.connection
        if connection.failure is not None:
            self.error = connection.failure
        elif connection.rx:
            try:
                self._consume(connection)
            except BadMessage as error:
                self.error = self._malformed(error)
        elif connection.eof:
            self._ended()

    def _consume(self, connection: Connection) -> None:
        if self.decoder is not None:
            self._piece, used = self.decoder.decode(connection.rx)
            connection.rx = connection.rx[used:]
            if self.decoder.done:
                self.done, self.trailers = True, self.decoder.trailers
            elif not self._piece and connection.eof:
                self._ended()
        elif self.left == UNTIL_CLOSE:
            self._piece = connection.take(RX_LIMIT)
        else:
            self._piece = connection.take(self.left)
            self.left -= len(self._piece)
            self.done = self.left == 0
        self.size += len(self._piece)

    @abstractmethod
    def _ended(self) -> None:
        """The peer's FIN (or loss) came, and nothing is left to read."""

    @abstractmethod
    def _malformed(self, error: BadMessage) -> ProxyError:
        """What a broken rule of the grammar means on this side."""


class RequestBody(Body):
    """A client's body. `limit` 0: unlimited."""

    __slots__ = ("limit",)

    def __init__(self, connection: Connection, length: int, limit: int) -> None:
        super().__init__(connection, length, Reason.HTTP_REQUEST_ERROR)
        self.limit = limit

    def _consume(self, connection: Connection) -> None:
        super()._consume(connection)
        if self.limit and self.size > self.limit:
            raise BadMessage(Rejection.BODY_TOO_LARGE, f"body exceeds maxRequestBody {self.limit}", reason=Reason.REQUEST_TOO_LARGE)

    def _ended(self) -> None:
        self.error = PeerGone("the client ended its connection inside the request body")

    def _malformed(self, error: BadMessage) -> ProxyError:
        self._piece = _NONE
        return error


class ResponseBody(Body):
    """An upstream's body."""

    __slots__ = ()

    def __init__(self, connection: Connection, length: int) -> None:
        super().__init__(connection, length, Reason.HTTP_PROTOCOL_ERROR)

    def _ended(self) -> None:
        if self.left == UNTIL_CLOSE and self.connection.error is None:
            self.done = True
        else:
            self.error = UpstreamError(Reason.HTTP_RESPONSE_INCOMPLETE, f"upstream ended after {self.size} body bytes", phase=Phase.BODY)

    def _malformed(self, error: BadMessage) -> ProxyError:
        return UpstreamError(Reason.HTTP_PROTOCOL_ERROR, error.detail, phase=Phase.BODY, rejection=error.rejection)
