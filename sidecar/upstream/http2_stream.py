"""One exchange over HTTP/2: a stream of a connection (RFC 9113 sections 5 and 8)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from sidecar.errors import BadMessage, PeerGone, ProxyError, RefusedStream, StaleConnection, UpstreamError
from sidecar.http1.upstream_connection import MAX_HEAD, MAX_INTERIM
from sidecar.model.exchange import Attempt
from sidecar.model.head import CHUNKED, Field, ResponseHead
from sidecar.model.outbound import OutboundRequest
from sidecar.model.reason import Phase, Reason, Rejection
from sidecar.policy.deadline import Deadlines
from sidecar.protocol.fields import reject
from sidecar.protocol.http2 import Header, request_headers, response_head, response_trailers, trailer_headers
from sidecar.tasks import create_task

if TYPE_CHECKING:
    from sidecar.upstream.http2_connection import Http2Connection

SMALL_PIECE: Final = 1024
"""Octets below which pieces that wait are joined."""
_CREDIT: Final = 32 * 1024
"""Octets that have been read before the server hears of it."""


class Stream:
    """Implements BodySource for the response's body. Ends with exactly one `finish`."""

    def __init__(
        self,
        connection: Http2Connection,
        request: OutboundRequest,
        attempt: Attempt,
        deadlines: Deadlines,
        on_interim: Callable[[ResponseHead], None],
    ) -> None:
        self._connection = connection
        self._request = request
        self._attempt = attempt
        self._deadlines = deadlines
        self._on_interim = on_interim
        self._number = 0
        self._head: ResponseHead | None = None
        self._interims = 0
        self._interim_bytes = 0
        self._pieces: deque[bytes] = deque()
        self._left = 0
        """Octets of a body of known length that have not come."""
        self._uncredited = 0
        self._ended = False
        self._error: ProxyError | PeerGone | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._window: asyncio.Future[None] | None = None
        self._upload: asyncio.Task[None] | None = None
        self._finished = False
        self.length = 0
        self.trailers: list[Field] = []

    # -- the request

    async def exchange(self) -> ResponseHead:
        """Send the request and wait for the head of the final response. Raises as Transport.send."""
        request, attempt = self._request, self._attempt
        attempt.phase = Phase.SEND
        endpoint = self._connection.endpoint
        authority = b"localhost" if endpoint.unix_path else endpoint.label.encode("ascii")
        headers = request_headers(request, b"https" if endpoint.tls else b"http", authority)
        self._number = self._connection.begin(self, headers, ended=request.length == 0)
        if request.length == 0:
            self._connection.connection.sent(request, attempt, self._deadlines)
        else:
            self._upload = create_task(self._send_body(), name="upload")
        while self._head is None:
            if self._error is not None:
                raise self._error
            await self._change()
        self._deadlines.disarm_phase()
        attempt.headers_at, attempt.phase = monotonic(), Phase.BODY
        return self._head

    async def _send_body(self) -> None:
        body = self._request.body
        assert body is not None
        try:
            while piece := await body.read():
                await self._send(piece)
            if self._error is None:
                self._connection.end(self._number, trailer_headers(body.trailers))
        except (ProxyError, PeerGone) as error:
            self._connection.reset(self._number)
            self.fail(error)
            return
        except ProtocolError:  # the stream is closed: the server wants no more of it (section 8.1), or the connection has ended
            self._upload = None
            return
        self._upload = None
        self._connection.connection.sent(self._request, self._attempt, self._deadlines)

    async def _send(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            room = self._connection.window(self._number)
            if room <= 0:
                self._window = self._connection.connection.loop.create_future()
                await self._window
                continue
            await self._connection.send_data(self._number, bytes(view[:room]))
            view = view[room:]

    def window_opened(self) -> None:
        """There may be room to send."""
        window, self._window = self._window, None
        if window is not None and not window.done():
            window.set_result(None)

    # -- what the connection hears

    def headers(self, headers: list[Header], *, ended: bool) -> None:
        """A head, interim or final."""
        try:
            head = response_head(headers, self._request.method, ended=ended)
            if head.status < 200:
                self._interim(head, sum(len(name) + len(value) for name, value in headers))
                return
        except BadMessage as error:
            self._malformed(error)
            return
        self._head, self.length, self._left = head, head.length, max(head.length, 0)
        self._wake()

    def _interim(self, head: ResponseHead, size: int) -> None:
        self._interims += 1
        self._interim_bytes += size
        if self._interims > MAX_INTERIM or self._interim_bytes > MAX_HEAD or head.status == 101:  # section 8.6: there is no 101
            raise BadMessage(Rejection.TOO_MANY_INTERIM, "too many or too large interim responses", reason=Reason.HTTP_PROTOCOL_ERROR)
        self._on_interim(head)

    def _malformed(self, error: BadMessage) -> None:
        """Section 8.1.1: an error of the stream, not of the connection."""
        self._connection.reset(self._number, ErrorCodes.PROTOCOL_ERROR)
        self.fail(UpstreamError(error.reason, error.detail, phase=self._phase(), rejection=error.rejection))

    def data(self, data: bytes, flow: int) -> None:
        """Some of the body, and so many octets of the window."""
        self._uncredited += flow - len(data)  # padding
        if self.length != CHUNKED:
            self._left -= len(data)
            if self._left < 0:
                self._malformed(reject(Rejection.BAD_CONTENT_LENGTH, "more body than its length", reason=Reason.HTTP_PROTOCOL_ERROR))
                return
        if data:
            pieces = self._pieces
            if pieces and len(pieces[-1]) < SMALL_PIECE and len(data) < SMALL_PIECE:
                pieces[-1] += data  # or each octet that waits would be an object
            else:
                pieces.append(data)
            self._wake()

    def trailing(self, headers: list[Header]) -> None:
        """Trailers."""
        try:
            self.trailers = response_trailers(headers)
        except BadMessage as error:
            self._malformed(error)

    def end(self) -> None:
        """The response is complete, if as much has come as its head said."""
        if self._left > 0:
            self.fail(UpstreamError(Reason.HTTP_RESPONSE_INCOMPLETE, f"{self._left} octets are missing", phase=Phase.BODY))
        self._ended = True
        self._wake()

    def was_reset(self, code: int) -> None:
        """RST_STREAM: with REFUSED_STREAM the request has not been looked at (section 8.7)."""
        if self._ended:  # it only wants no more of the request
            self._stop_upload()
        elif code == ErrorCodes.REFUSED_STREAM and self._head is None and not self._interims:
            self.fail(RefusedStream(Reason.CONNECTION_TERMINATED, "RST_STREAM REFUSED_STREAM", phase=Phase.SEND))
        elif self._head is None and code == ErrorCodes.HTTP_1_1_REQUIRED:
            self.fail(UpstreamError(Reason.HTTP_PROTOCOL_ERROR, "the server wants HTTP/1.1 for this", phase=Phase.HEADERS))
        else:
            self.fail(self._broke_off(Reason.CONNECTION_TERMINATED, f"RST_STREAM, error {int(code)}"))

    def lost(self, reason: Reason, detail: str) -> UpstreamError:
        """What the end of the connection means here."""
        if self._attempt.reused and self._head is None and not self._interims:
            return StaleConnection(reason, detail, phase=Phase.HEADERS)
        return self._broke_off(reason, detail)

    def broken(self, reason: Reason, detail: str) -> UpstreamError:
        """What a broken rule of the connection means here."""
        return UpstreamError(reason, detail, phase=self._phase())

    def _broke_off(self, reason: Reason, detail: str) -> UpstreamError:
        if self._head is None and not self._interims:
            return UpstreamError(reason, detail, phase=Phase.HEADERS)
        return UpstreamError(Reason.HTTP_RESPONSE_INCOMPLETE, detail, phase=self._phase())

    def _phase(self) -> Phase:
        return Phase.HEADERS if self._head is None else Phase.BODY

    def fail(self, error: ProxyError | PeerGone) -> None:
        """Nothing more will come, except of a response that is complete already. The first error counts."""
        if self._error is None and not self._ended:
            self._error = error
        self._stop_upload()
        self._wake()

    # -- the response

    @property
    def done(self) -> bool:
        """All of it has come and been read."""
        return self._ended and self._error is None and not self._pieces

    @property
    def held(self) -> int:
        """Octets that have come and have not been read."""
        return sum(map(len, self._pieces))

    def ready(self) -> bool:
        """Whether `read` would not wait."""
        return bool(self._pieces) or self._ended or self._error is not None

    async def read(self) -> bytes:
        """What has come of the body. Raises UpstreamError, or what stopped the upload."""
        while not self.ready():
            await self._change()
        if self._pieces:
            piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            self._uncredited += len(piece)
            if self._uncredited >= _CREDIT and not self._ended:
                self._connection.credit(self._number, self._uncredited)
                self._uncredited = 0
            return piece
        if self._error is not None:
            raise self._error
        return b""

    async def _change(self) -> None:
        self._waiter = waiter = self._connection.connection.loop.create_future()
        await waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- the end

    def _stop_upload(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.cancel()

    def finish(self) -> bool:
        """The exchange is over; what is unfinished is cancelled (section 5.4.2). False: it was over already."""
        if self._finished:
            return False
        self._finished = True
        unfinished = not self._ended or self._upload is not None
        self.fail(UpstreamError(Reason.CONNECTION_TERMINATED, "given up", phase=Phase.BODY))
        self._pieces.clear()
        if self._number:
            if unfinished:
                self._connection.reset(self._number)
            self._connection.leave(self._number)
        return True
