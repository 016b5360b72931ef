"""One HTTP/2 connection to an endpoint: frames in, frames out, and what its streams are told (RFC 9113).

The state machine is h2's. What h2 leaves to its user is here: windows that open as bodies are read, so that a stream keeps
at most `WINDOW` octets; a GOAWAY after which the streams that it spares go on; limits on what costs the peer nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from time import monotonic
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import DenialOfServiceError, FrameDataMissingError, ProtocolError
from h2.settings import SettingCodes, Settings

from sidecar.errors import BadMessage, RefusedStream
from sidecar.http1.connection import BUFFER
from sidecar.http1.upstream_connection import UpstreamConnection
from sidecar.model.endpoint import Endpoint
from sidecar.model.reason import Phase, Reason
from sidecar.policy.deadline import NEVER
from sidecar.protocol.head import MAX_RESPONSE_BYTES
from sidecar.protocol.http2 import GOAWAY, SETTINGS, Frame, FrameSplitter, Header, goaway, known_settings
from sidecar.tls.failures import meaning
from sidecar.upstream.http2_stream import Stream

WINDOW: Final = 128 * 1024
"""Octets that a server may send on one stream before somebody reads them."""
_CONNECTION_WINDOW: Final = 16 * 1024 * 1024
_CONNECTION_CREDIT: Final = 4 * 1024 * 1024
TABLE: Final = 4096
"""Octets of our compression table at most, whatever the server allows: each field is looked for in it one by one, and it stays."""
STREAMS: Final = 100
"""Streams at once while the server has not said how many it takes, and at most."""
_FREE_FRAMES: Final = 1000.0
_FREE_PER_SECOND: Final = 20.0
"""Frames that carry nothing (PING, SETTINGS, empty DATA, unknown ones): so many at once, so many per second on top."""
_FREE_PER_USEFUL: Final = 4.0
"""And so many for each frame that carries something, in either direction: a WINDOW_UPDATE or two are due for it."""


class Http2Connection:
    """Implements Sink (http1/connection.py). `on_change` hears when there may be room for streams, or the connection has gone."""

    def __init__(self, connection: UpstreamConnection, on_change: Callable[[Http2Connection], None]) -> None:
        self.connection = connection
        self.streams: dict[int, Stream] = {}
        self.requests = 0
        """Streams that it has had."""
        self.idle_since = monotonic()
        self.too_old_at = NEVER
        self.generation = 0
        """Of the settings that it was made with; the pool's affair."""
        self.leaving = False
        """No new stream: the server said GOAWAY, or the pool wants it gone. It closes with its last stream."""
        self._on_change = on_change
        self._max_streams = STREAMS
        self._frames = FrameSplitter()
        self._free = _FREE_FRAMES
        self._free_at = monotonic()
        self._uncredited = 0
        self._h2 = H2Connection(
            H2Configuration(client_side=True, header_encoding=None, validate_inbound_headers=False, normalize_inbound_headers=False)
        )
        self._h2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_RESPONSE_BYTES,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW)
        connection.sink = self
        connection.parked = False
        self.flush()
        if connection.rx:  # what came before we listened
            self._receive(connection.take(len(connection.rx)))

    @property
    def endpoint(self) -> Endpoint:
        """Where it leads."""
        return self.connection.endpoint

    @property
    def closed(self) -> bool:
        """Nothing can be sent any more."""
        return self.connection.closed or self.connection.eof

    @property
    def room(self) -> int:
        """How many more streams it takes now."""
        return 0 if self.leaving or self.closed else self._max_streams - len(self.streams)

    # -- what streams ask for

    def begin(self, stream: Stream, headers: list[Header], *, ended: bool) -> int:
        """Send a request's headers; the stream's number."""
        number = self._h2.get_next_available_stream_id()
        self._h2.send_headers(number, headers, end_stream=ended)
        self.streams[number] = stream
        self.requests += 1
        self._useful()
        self.flush()
        return number

    def window(self, number: int) -> int:
        """Octets of DATA that may be sent on the stream in one frame now."""
        return min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)

    async def send_data(self, number: int, data: bytes) -> None:
        """Send what `window` has room for, and wait while the connection is slow."""
        self._h2.send_data(number, data)
        self._useful()
        self.flush()
        await self.connection.drain()

    def end(self, number: int, trailers: list[Header]) -> None:
        """The request is complete."""
        if trailers:
            self._h2.send_headers(number, trailers, end_stream=True)
        else:
            self._h2.end_stream(number)
        self.flush()

    def credit(self, number: int, octets: int) -> None:
        """So many octets of the stream have been read: the server may send as many more."""
        with contextlib.suppress(ProtocolError):  # it has ended meanwhile
            self._h2.increment_flow_control_window(octets, number)
            self.flush()

    def reset(self, number: int, code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """The stream is of no interest any more."""
        with contextlib.suppress(ProtocolError):  # the server thinks so, too
            self._h2.reset_stream(number, code)
            self.flush()

    def leave(self, number: int) -> None:
        """The stream is over, for us too."""
        self.streams.pop(number, None)
        self.idle_since = monotonic()
        self._on_change(self)

    def close(self) -> None:
        """Say goodbye and close; streams end with what they have."""
        if not self.closed:
            with contextlib.suppress(ProtocolError):
                self._h2.close_connection()
            self.flush()
        self.connection.close()

    def flush(self) -> None:
        """Send what h2 has to say."""
        self.connection.send(self._h2.data_to_send())

    # -- what comes

    def feed(self, size: int) -> None:
        """See Sink."""
        self._receive(bytes(BUFFER[:size]))

    def ended(self) -> None:
        """See Sink."""
        error = self.connection.error
        reason, detail = (Reason.CONNECTION_TERMINATED, "FIN") if error is None else meaning(error)
        self._lost(reason, f"upstream closed the connection ({detail})")
        self.connection.close()

    @property
    def awaiting(self) -> bool:
        """See Sink: frames are taken whoever waits for what."""
        return True

    def held(self) -> int:
        """See Sink."""
        return sum(stream.held for stream in self.streams.values())

    def _receive(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                self._take(frame)
        except BadMessage as error:
            self._broken(error.reason, error.detail)
        except DenialOfServiceError as error:
            self._broken(Reason.HTTP_RESPONSE_HEADER_SECTION_SIZE, str(error))
        except (ProtocolError, FrameDataMissingError) as error:
            self._broken(Reason.HTTP_PROTOCOL_ERROR, f"{type(error).__name__}: {error}")
        else:
            self.flush()

    def _take(self, frame: Frame) -> None:
        if frame.carries:
            self._useful()
        else:
            self._useless()
        if frame.kind == GOAWAY:  # after h2 has heard one it takes nothing more, not even of the streams that are to go on
            self._going_away(*goaway(frame))
            return
        for event in self._h2.receive_data(frame.data if frame.kind != SETTINGS else known_settings(frame)):
            self._heard(event)

    def _useful(self) -> None:
        self._free = min(self._free + _FREE_PER_USEFUL, _FREE_FRAMES)

    def _useless(self) -> None:
        self._free -= 1
        if self._free < 0:
            now = monotonic()
            self._free = min(self._free + (now - self._free_at) * _FREE_PER_SECOND, _FREE_FRAMES)
            self._free_at = now
            if self._free < 0:
                self._h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
                self.flush()
                raise ProtocolError("too many frames that carry nothing")

    def _heard(self, event: Event) -> None:
        if isinstance(event, RemoteSettingsChanged):
            self._settings_changed()
        elif isinstance(event, WindowUpdated):
            for concerned in self._concerned(event.stream_id):
                concerned.window_opened()
        elif (stream := self.streams.get(getattr(event, "stream_id", None) or 0)) is None:
            if isinstance(event, DataReceived):
                self._credit_connection(event.flow_controlled_length)
        elif isinstance(event, DataReceived):
            self._credit_connection(event.flow_controlled_length)
            stream.data(event.data, event.flow_controlled_length)
        elif isinstance(event, InformationalResponseReceived | ResponseReceived):
            # h2 makes an error of the whole connection of a body that has not its length, and of the length of a 304.
            self._h2.streams[event.stream_id]._expected_content_length = None
            stream.headers(event.headers, ended=isinstance(event, ResponseReceived) and event.stream_ended is not None)
        elif isinstance(event, TrailersReceived):
            stream.trailing(event.headers)
        elif isinstance(event, StreamEnded):
            stream.end()
        elif isinstance(event, StreamReset):
            stream.was_reset(ErrorCodes(event.error_code) if event.error_code in set(ErrorCodes) else event.error_code)

    def _concerned(self, number: int | None) -> list[Stream]:
        if not number:
            return list(self.streams.values())
        return [self.streams[number]] if number in self.streams else []

    def _settings_changed(self) -> None:
        self._max_streams = min(self._h2.remote_settings.max_concurrent_streams, STREAMS)
        self._h2.encoder.header_table_size = min(self._h2.remote_settings.header_table_size, TABLE)
        for stream in list(self.streams.values()):
            stream.window_opened()  # the initial window is one of the settings
        self._on_change(self)

    def _credit_connection(self, octets: int) -> None:
        """The connection's window is opened at once: how much is kept is decided stream by stream, so that a slow one holds up no other."""
        self._uncredited += octets
        if self._uncredited >= _CONNECTION_CREDIT:
            self._h2.increment_flow_control_window(self._uncredited)
            self._uncredited = 0

    # -- the end

    def _going_away(self, last: int, code: int) -> None:
        """Section 6.8: streams after `last` have not been looked at; the others go on, unless the connection ends first."""
        self.leaving = True
        for number, stream in list(self.streams.items()):
            if number > last:
                stream.fail(RefusedStream(Reason.CONNECTION_TERMINATED, f"GOAWAY, error {code}, last stream {last}", phase=Phase.SEND))
        self._on_change(self)

    def _broken(self, reason: Reason, detail: str) -> None:
        """The peer broke a rule of the connection: nothing that comes is believed any more."""
        self.flush()  # h2 has written the GOAWAY that says which
        self._lost(reason, detail, broken=True)
        self.connection.abort()

    def _lost(self, reason: Reason, detail: str, *, broken: bool = False) -> None:
        self.leaving = True
        for stream in list(self.streams.values()):
            stream.fail(stream.broken(reason, detail) if broken else stream.lost(reason, detail))
        self._on_change(self)
