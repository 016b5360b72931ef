"""The chunked transfer coding, both ways (RFC 9112 section 7.1). Sans-IO: bytes in, bytes out, no payload kept."""

from __future__ import annotations

import re
from typing import Final

from sidecar.errors import BadMessage
from sidecar.model.head import Field
from sidecar.model.reason import Phase, Reason, Rejection
from sidecar.protocol.fields import GOOD, parse_field

MAX_LINE_BYTES: Final = 4 * 1024
"""Of one chunk-size line with its extensions, and of one trailer line."""
MAX_EXTENSION_BYTES: Final = 16 * 1024
"""Of all extensions of one body: they are read and thrown away, so they must not be the body."""
MAX_TRAILER_BYTES: Final = 8 * 1024
MAX_TRAILER_FIELDS: Final = 64
MAX_SIZE_DIGITS: Final = 15
"""Below 2^60."""

LAST_CHUNK: Final = b"0\r\n\r\n"

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_size_line: Final = re.compile(
    rb"([0-9A-Fa-f]{1,15})(?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb'|"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"))?)*'
).fullmatch
# What a size line may look like before its end has come.
_size_line_begin: Final = re.compile(rb"[0-9A-Fa-f]{0,15}|[0-9A-Fa-f]{1,15}(?:;[\t -~\x80-\xff]*)?\r?").fullmatch

_CACHED_SIZES: Final = 1024
_sizes: Final[dict[bytes, int]] = {}
_known_size: Final = _sizes.get

_SIZE, _DATA, _DATA_END, _TRAILERS = range(4)


class ChunkedDecoder:
    """Decodes one chunked body. `reason` is what malformed bytes are called: http_request_error for a client's.

    `done` once the empty line after the trailers has been read; `trailers` is complete then.
    """

    __slots__ = ("_extensions", "_held", "_left", "_reason", "_state", "_trailer_bytes", "done", "trailers")

    def __init__(self, reason: Reason = Reason.HTTP_REQUEST_ERROR) -> None:
        self.done = False
        self.trailers: list[Field] = []
        self._reason = reason
        self._state = _SIZE
        self._left = 0
        self._held = b""
        self._extensions = 0
        self._trailer_bytes = 0

    def decode(self, data: bytes) -> tuple[bytes, int]:
        """Payload that is in `data`, and how many of its bytes belong to this body (all of them until `done`).

        Raises BadMessage at the first byte that breaks the grammar or a limit; nothing after it may be read.
        """
        held = len(self._held)
        if held:
            data = self._held + data
            self._held = b""
        out: list[bytes] = []
        position = 0
        size = len(data)
        while not self.done:
            state = self._state
            if state == _SIZE:
                position = _whole_chunks(data, position, out)
            if state == _DATA:
                stop = position + self._left
                if stop > size:
                    if position < size:
                        out.append(data[position:])
                        self._left = stop - size
                    position = size
                    break
                out.append(data[position:stop])
                position = stop
                self._state = _DATA_END
            elif state == _DATA_END:
                if not data.startswith(b"\r\n", position):
                    self._hold_data_end(data, position)
                    position = size
                    break
                position += 2
                self._state = _SIZE
            else:
                end = data.find(b"\r\n", position)
                if end < 0:
                    self._hold_line(data, position)
                    position = size
                    break
                if state == _SIZE:
                    line = data[position:end]
                    left = _known_size(line)
                    if left is None:
                        left = self._learn_size(line)
                    self._left = left
                    self._state = _DATA if left else _TRAILERS
                else:
                    self._trailer(data[position:end])
                position = end + 2
        return (out[0] if len(out) == 1 else b"".join(out)), position - held

    def _learn_size(self, line: bytes) -> int:
        """Size on a chunk line not seen before; its extensions are counted and dropped."""
        if len(line) > MAX_LINE_BYTES:
            raise self._bad(Rejection.CHUNK_LINE_TOO_LONG, "a chunk line is too long")
        match = _size_line(line)
        if match is None:
            raise self._bad(Rejection.BAD_CHUNK, "not a chunk size")
        digits = match[1]
        left = int(digits, 16)
        extension = len(line) - len(digits)
        if extension:
            self._extensions += extension
            if self._extensions > MAX_EXTENSION_BYTES:
                raise self._bad(Rejection.CHUNK_LINE_TOO_LONG, "too many chunk extensions")
        else:
            if len(_sizes) >= _CACHED_SIZES:
                _sizes.clear()
            _sizes[line] = left
        return left

    def _hold_data_end(self, data: bytes, position: int) -> None:
        rest = data[position : position + 2]
        if rest not in (b"", b"\r"):
            raise self._bad(Rejection.BAD_CHUNK, "a chunk is longer than its size")
        self._held = rest

    def _hold_line(self, data: bytes, position: int) -> None:
        """Keep a line whose end has not come, unless it is wrong already."""
        rest = data[position:]
        if self._state == _SIZE:
            if len(rest) > MAX_LINE_BYTES + 1:
                raise self._bad(Rejection.CHUNK_LINE_TOO_LONG, "a chunk line is too long")
            if not _size_line_begin(rest):
                raise self._bad(Rejection.BAD_CHUNK, "not a chunk size")
        else:
            self._check_trailer_bytes(rest)
            if rest.translate(None, GOOD) not in (b"", b"\r") or (b"\r" in rest and not rest.endswith(b"\r")):
                raise self._bad(Rejection.BAD_TRAILER, "a control character in a trailer")
        self._held = rest

    def _trailer(self, line: bytes) -> None:
        if not line:
            self.done = True
            return
        self._check_trailer_bytes(line)
        self._trailer_bytes += len(line) + 2
        if len(self.trailers) >= MAX_TRAILER_FIELDS or line.translate(None, GOOD):
            raise self._bad(Rejection.BAD_TRAILER, "too many trailers, or a control character in one")
        try:
            self.trailers.append(parse_field(line, self._reason))
        except BadMessage as error:
            raise self._bad(Rejection.BAD_TRAILER, error.detail) from None

    def _check_trailer_bytes(self, line: bytes) -> None:
        if self._trailer_bytes + len(line) > MAX_TRAILER_BYTES:
            raise self._bad(Rejection.BAD_TRAILER, "the trailer section is too long")

    def _bad(self, rejection: Rejection, detail: str) -> BadMessage:
        phase = None if self._reason is Reason.HTTP_REQUEST_ERROR else Phase.BODY
        return BadMessage(rejection, detail, reason=self._reason, phase=phase)


def _whole_chunks(data: bytes, position: int, out: list[bytes]) -> int:
    """The fast path: appends the chunks that are whole in `data` and of a size seen before; returns where they end."""
    while True:
        end = data.find(b"\r\n", position, position + MAX_SIZE_DIGITS + 2)
        if end < 0:
            return position
        left = _known_size(data[position:end])
        if not left:
            return position
        stop = end + 2 + left
        if data[stop : stop + 2] != b"\r\n":
            return position
        out.append(data[end + 2 : stop])
        position = stop + 2


def encode_chunk(data: bytes) -> tuple[bytes, bytes, bytes]:
    """`data` as one chunk, in three pieces so that nobody copies it. Never call it with b"": that would end the body."""
    return b"%x\r\n" % len(data), data, b"\r\n"


def last_chunk(trailers: list[Field]) -> bytes:
    """The end of a body, with its trailer section."""
    if not trailers:
        return LAST_CHUNK
    return b"".join([b"0\r\n", *[b"%b: %b\r\n" % (name, value) for name, _, value in trailers], b"\r\n"])
