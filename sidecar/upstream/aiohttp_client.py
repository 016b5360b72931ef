"""AiohttpTransport: `client: Aiohttp`. A session of aiohttp over connections of ours.

Each setting and override below guards against something that aiohttp 3.14 does; tests/contract/test_aiohttp_defects.py
shows each of them with a bare session, and fails when a release has mended it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from time import monotonic
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from multidict import CIMultiDict
from yarl import URL

from sidecar.errors import UpstreamError
from sidecar.http1.upstream_connection import Done, Response, UpstreamConnection
from sidecar.model.endpoint import Endpoint
from sidecar.model.exchange import Attempt
from sidecar.model.head import CHUNKED, UNTIL_CLOSE, ResponseHead
from sidecar.model.outbound import OutboundRequest
from sidecar.model.reason import Phase, Reason
from sidecar.model.snapshot import Upstream
from sidecar.observe.observer import Observer
from sidecar.policy.deadline import Deadlines
from sidecar.protocol.head import MAX_RESPONSE_BYTES, MAX_RESPONSE_FIELDS
from sidecar.tasks import create_task
from sidecar.upstream.guest import GuestBody, GuestResponse, Wire, answered, framed, plain_head
from sidecar.upstream.native import Addresses, ConnectFailed, PooledTransport, Secure, in_the_clear
from sidecar.upstream.transport import InboundResponse

_SKIPPED: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_NO_TIMEOUTS: Final = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
_wire: ContextVar[AiohttpWire] = ContextVar("wire")


class AiohttpWire(Wire):
    """With the protocol object that aiohttp reads from, a new one for each exchange.

    aiohttp's own keeps what came too much of one response (`_tail`, the queue of messages) and hands it to the next request
    on the connection.
    """

    def __init__(self, connection: UpstreamConnection, request: OutboundRequest, attempt: Attempt, deadlines: Deadlines) -> None:
        super().__init__(connection, request, attempt, deadlines)
        self.protocol: ResponseHandler | None = None
        self._heard = b""

    def plug_in(self) -> ResponseHandler:
        """The protocol object, once: aiohttp sends a GET on a reused connection twice without a word to anybody."""
        if self.protocol is not None:
            raise ConnectionAbortedError("this request has been sent already")
        self.protocol = protocol = ResponseHandler(self.connection.loop)
        protocol.connection_made(_Writer(self))
        if self._heard:
            protocol.data_received(self._heard)
        return protocol

    def hear(self, data: bytes) -> None:
        """Tell aiohttp what has come, also when it has not asked yet."""
        if self.protocol is not None:
            self.protocol.data_received(data)
        else:
            self._heard += data

    def end(self) -> None:
        """The connection's end is the body's."""
        assert self.protocol is not None
        self.protocol.connection_lost(None)


class _Writer(asyncio.Transport):
    """What aiohttp takes for the socket. It can neither close the connection nor stop reading: the pool and the relay decide."""

    def __init__(self, wire: AiohttpWire) -> None:
        super().__init__()
        self._wire = wire

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio.WriteTransport."""
        self._wire.write(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """See asyncio.WriteTransport."""
        self._wire.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        """See asyncio.BaseTransport."""
        return self._wire.connection.closed

    def close(self) -> None:
        """Nothing: see above."""

    def abort(self) -> None:
        """Nothing: see above."""

    def pause_reading(self) -> None:
        """Nothing: aiohttp hears only what is about to be read."""

    def resume_reading(self) -> None:
        """Nothing: see above."""


class _Connector(aiohttp.BaseConnector):
    """Hands each request the connection that the pool gave it.

    aiohttp's own pool has a queue without bound or clock, trusts a connection on which a server has spoken unasked, takes
    the oldest idle connection first, and knows no greatest age.
    """

    async def connect(self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout) -> Connection:  # noqa: ARG002, ASYNC109 - aiohttp's signature
        """The connection of the exchange in whose task this runs."""
        return Connection(self, req.connection_key, _wire.get().plug_in(), self._loop)

    def _release(self, *_arguments: Any, **_options: Any) -> None:
        """Nothing: what becomes of a connection is decided by GuestResponse."""


class AiohttpTransport(PooledTransport):
    """Sends requests to the endpoints of one upstream with aiohttp."""

    def __init__(
        self, config: Upstream, addresses: Addresses, observer: Observer, connect_failed: ConnectFailed, secure: Secure = in_the_clear
    ) -> None:
        super().__init__(config, addresses, observer, connect_failed, secure)
        self._session: aiohttp.ClientSession | None = _new_session()

    async def aclose(self) -> None:
        """See Transport.aclose."""
        session, self._session = self._session, None
        await super().aclose()
        if session is not None:
            await session.close()

    async def _exchange(
        self,
        connection: UpstreamConnection,
        request: OutboundRequest,
        attempt: Attempt,
        deadlines: Deadlines,
        on_interim: Callable[[ResponseHead], None],
        done: Done,
    ) -> InboundResponse:
        wire = AiohttpWire(connection, request, attempt, deadlines)
        connection.begin(attempt)
        asking = create_task(self._ask(wire), name="aiohttp request")
        if wire.uploading:
            connection.upload = asking
        native: Response | None = None
        try:
            # Interim responses are read here because aiohttp drops them, and heads because it forgets the case of names,
            # decodes values, passes on an unasked 101 and takes statuses that are none.
            head = await connection.final_head(request, attempt, deadlines, on_interim)
            attempt.headers_at, attempt.phase = monotonic(), Phase.BODY
            native = Response(connection, head, done)
            wire.hear(plain_head(head))
            answer = await answered(asking, connection)
        except BaseException:
            asking.cancel()
            asking.add_done_callback(_close_answer)
            if native is not None:
                native.abort()
            else:
                connection.stop_upload()
                connection.abort()
                done(connection, False)
            raise
        return AiohttpResponse(native, AiohttpBody(native, wire, answer), answer)

    async def _ask(self, wire: AiohttpWire) -> aiohttp.ClientResponse | None:
        """Aiohttp's answer; None when it failed and whoever waits has been told."""
        _wire.set(wire)
        request = wire.request
        session = self._session or _new_session()
        try:
            return await session.request(
                request.method.decode("latin-1"),
                _url(wire.connection.endpoint, request.target),
                headers=_headers(request),
                data=wire.pieces() if wire.uploading else None,
                chunked=True if request.length == CHUNKED else None,
                allow_redirects=False,
            )
        except Exception as error:  # noqa: BLE001 - whatever aiohttp raises ends the exchange, not us
            wire.guest_failed(error)
            return None
        finally:
            if session is not self._session:  # closed meanwhile, or before: a session holds nothing of an exchange
                session.detach()


make = AiohttpTransport


def _close_answer(asking: asyncio.Task[aiohttp.ClientResponse | None]) -> None:
    """Aiohttp may have answered just before nobody waited any more."""
    if not asking.cancelled() and (answer := asking.result()) is not None:
        answer.close()


def _new_session() -> aiohttp.ClientSession:
    """Decompressing, redirects, cookies, the environment's proxies and netrc are off; so are aiohttp's clocks: ours count."""
    return aiohttp.ClientSession(
        connector=_Connector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_SKIPPED,
        auto_decompress=False,
        trust_env=False,
        timeout=_NO_TIMEOUTS,
        max_line_size=MAX_RESPONSE_BYTES,
        max_field_size=MAX_RESPONSE_BYTES,
        max_headers=MAX_RESPONSE_FIELDS,
    )


def _url(endpoint: Endpoint, target: bytes) -> URL:
    """For aiohttp's own records; what goes out is the target itself. Not decoded: yarl would write it anew."""
    scheme = "https" if endpoint.tls else "http"
    authority = "localhost" if endpoint.unix_path else endpoint.label
    path = target.decode("latin-1") if target.startswith(b"/") else "/"
    return URL(f"{scheme}://{authority}{path}", encoded=True)


def _headers(request: OutboundRequest) -> CIMultiDict[str]:
    """All fields but `Expect`, for which aiohttp would wait by itself and without end."""
    headers: CIMultiDict[str] = CIMultiDict()
    for name, lower, value in request.fields:
        if lower != b"expect":
            headers.add(name.decode("latin-1"), value.decode("latin-1"))
    for name, value in (*request.own, *request.attempt_own):
        headers.add(name.decode("latin-1"), value.decode("latin-1"))
    return headers


class AiohttpBody(GuestBody):
    """aiohttp is fed when somebody reads, so that nothing piles up in it."""

    def __init__(self, native: Response, wire: AiohttpWire, answer: aiohttp.ClientResponse) -> None:
        super().__init__(native)
        self._wire = wire
        self._content = answer.content
        self._fed_up = native.length == 0

    async def read(self) -> bytes:
        """The next piece. Raises UpstreamError."""
        while True:
            try:
                piece: bytes = self._content.read_nowait(-1)
            except aiohttp.ClientError as error:
                raise UpstreamError(Reason.HTTP_PROTOCOL_ERROR, f"aiohttp: {error}", phase=Phase.BODY) from None
            if piece or self._fed_up:
                return piece
            data = await self.native.read()
            self._fed_up = not data
            if data or self.native.length == CHUNKED:
                self._wire.hear(framed(self.native, data))
            elif self.native.length == UNTIL_CLOSE:
                self._wire.end()


class AiohttpResponse(GuestResponse):
    """A response that aiohttp hands on."""

    def __init__(self, native: Response, body: AiohttpBody, answer: aiohttp.ClientResponse) -> None:
        super().__init__(native, body)
        self._answer = answer

    def _dismiss(self) -> None:
        self._answer.close()  # stops what is left of the upload, too
