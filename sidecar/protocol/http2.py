"""HTTP/2 messages as heads of ours and back (RFC 9113 sections 8.2 and 8.3), and frames as pieces of bytes (section 4.1). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from sidecar.errors import BadMessage
from sidecar.model.head import CHUNKED, Field, ResponseHead
from sidecar.model.outbound import OutboundRequest
from sidecar.model.reason import Reason, Rejection
from sidecar.protocol.fields import reject
from sidecar.protocol.framing import MAX_LENGTH_DIGITS, forbids_length, is_bodyless
from sidecar.protocol.head import MAX_RESPONSE_FIELDS, response_overflow

Header = tuple[bytes, bytes]

_BAD: Final = Reason.HTTP_PROTOCOL_ERROR
_CONNECTION_FIELDS: Final = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
"""Section 8.2.2: they have no meaning here, and a message that has one is malformed."""
_NOT_SENT: Final = _CONNECTION_FIELDS | {b"host", b"te", b"http2-settings"}
_good_name: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+").fullmatch
_good_value: Final = re.compile(rb"(?:[^\x00-\x08\x0a-\x20\x7f](?:[^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)?").fullmatch
_status: Final = re.compile(rb"[1-9][0-9]{2}").fullmatch


def request_headers(request: OutboundRequest, scheme: bytes, authority: bytes) -> list[Header]:
    """Pseudo-header fields first (section 8.3.1), then the fields in their order, names in lower case (section 8.2.1).

    `authority` is for requests that have no Host.
    """
    host = next((value for _, lower, value in request.fields if lower == b"host"), b"") or authority
    headers = [(b":method", request.method), (b":scheme", scheme), (b":authority", host), (b":path", request.target)]
    headers += [(lower, value) for _, lower, value in request.fields if lower not in _NOT_SENT]
    headers += [(name.lower(), value) for name, value in request.own]
    headers += [(name.lower(), value) for name, value in request.attempt_own]
    if request.wants_trailers:
        headers.append((b"te", b"trailers"))
    return headers


def trailer_headers(trailers: Iterable[Field]) -> list[Header]:
    """Trailers as they go out."""
    return [(lower, value) for _, lower, value in trailers if lower not in _NOT_SENT]


def response_head(headers: Sequence[Header], method: bytes, *, ended: bool) -> ResponseHead:
    """A response's head, interim ones too; `ended`: it has no body. Raises BadMessage for what is malformed (section 8.1.1)."""
    if not headers or headers[0][0] != b":status" or not _status(headers[0][1]):
        raise reject(Rejection.BAD_STATUS_LINE, "a response without a status", reason=_BAD)
    status = int(headers[0][1])
    head = ResponseHead(status, b"", 1, _fields(headers[1:]))
    lengths = [value for _, lower, value in head.fields if lower == b"content-length"]
    declared = _declared(lengths)
    bodyless = is_bodyless(status, method)
    if forbids_length(status, method):
        head.fields = [field for field in head.fields if field[1] != b"content-length"]
    if bodyless:
        return head
    if declared and ended:
        raise reject(Rejection.BAD_CONTENT_LENGTH, "a length, and no body", reason=_BAD)
    if declared is None and ended:  # over HTTP/1.1 its end would not be seen
        head.fields.append((b"content-length", b"content-length", b"0"))
    head.length = CHUNKED if declared is None and not ended else declared or 0
    return head


def response_trailers(headers: Sequence[Header]) -> list[Field]:
    """Raises BadMessage."""
    return _fields(headers)


def _fields(headers: Sequence[Header]) -> list[Field]:
    if len(headers) > MAX_RESPONSE_FIELDS:
        raise response_overflow()
    fields = []
    for name, value in headers:
        if not _good_name(name):
            what = "a pseudo-header field out of place" if name[:1] == b":" else "a field name that is none"
            raise reject(Rejection.BAD_FIELD_NAME, what, reason=_BAD)
        if not _good_value(value):
            raise reject(Rejection.BAD_FIELD_VALUE, "a field value with control characters or outer blanks", reason=_BAD)
        if name in _CONNECTION_FIELDS:
            raise reject(Rejection.BAD_FIELD_NAME, "a field of an HTTP/1.1 connection", reason=_BAD)
        fields.append((name, name, value))
    return fields


def _declared(values: Sequence[bytes]) -> int | None:
    if not values:
        return None
    if len(set(values)) > 1 or not values[0].isdigit() or len(values[0]) > MAX_LENGTH_DIGITS:
        raise reject(Rejection.BAD_CONTENT_LENGTH, "Content-Length is not one number", reason=_BAD)
    return int(values[0])


# -- frames

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
FRAME_HEADER: Final = 9
PADDED: Final = 0x8
KNOWN_SETTINGS: Final = frozenset((1, 2, 3, 4, 5, 6, 8))
"""Section 6.5.2, RFC 8441."""
MAX_FRAME: Final = 16384
"""Octets of a payload: what every endpoint takes, and all that we announce (section 4.2)."""


class Frame(NamedTuple):
    """One frame, whole."""

    kind: int
    flags: int
    stream: int
    data: bytes
    """With its header."""

    @property
    def payload(self) -> bytes:
        """Without it."""
        return self.data[FRAME_HEADER:]

    @property
    def carries(self) -> bool:
        """Whether it brings a message further: HEADERS, and DATA that is not padding alone (section 6.1)."""
        if self.kind != DATA:
            return self.kind == HEADERS
        padding = 1 + self.data[FRAME_HEADER] if self.flags & PADDED and len(self.data) > FRAME_HEADER else 0
        return len(self.data) - FRAME_HEADER > padding


class FrameSplitter:
    """Cuts what comes into frames; keeps at most the beginning of one."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole with `data`. Raises BadMessage when one is longer than `MAX_FRAME`."""
        rest = self._rest + data if self._rest else data
        at = 0
        while len(rest) - at >= FRAME_HEADER:
            length = int.from_bytes(rest[at : at + 3], "big")
            if length > MAX_FRAME:
                raise BadMessage(Rejection.HEAD_TOO_LARGE, "a frame longer than 16384 octets, or no HTTP/2 at all", reason=_BAD)
            end = at + FRAME_HEADER + length
            if end > len(rest):
                break
            yield Frame(rest[at + 3], rest[at + 4], int.from_bytes(rest[at + 5 : at + 9], "big") & 0x7FFFFFFF, rest[at:end])
            at = end
        self._rest = rest[at:]


def known_settings(frame: Frame) -> bytes:
    """A SETTINGS frame without the settings that nobody knows, which are to be ignored (section 6.5.2) and not to be kept."""
    payload = frame.payload
    if len(payload) % 6:
        return frame.data  # malformed: h2 says how
    pairs = [payload[at : at + 6] for at in range(0, len(payload), 6)]
    known = b"".join(pair for pair in pairs if int.from_bytes(pair[:2], "big") in KNOWN_SETTINGS)
    return len(known).to_bytes(3, "big") + frame.data[3:FRAME_HEADER] + known


def goaway(frame: Frame) -> tuple[int, int]:
    """Last stream that may have been looked at, and the error code (section 6.8). Raises BadMessage."""
    payload = frame.payload
    if len(payload) < 8 or frame.stream:
        raise BadMessage(Rejection.BAD_FIELD_VALUE, "a GOAWAY that is none", reason=_BAD)
    return int.from_bytes(payload[:4], "big") & 0x7FFFFFFF, int.from_bytes(payload[4:8], "big")
