"""Counting the messages in a stream of WebSocket frames (RFC 6455 section 5.2), without touching a byte of it."""

from __future__ import annotations

from typing import Final

_FIN: Final = 0x80
_OPCODE: Final = 0x0F
_CONTROL: Final = 0x08
"""Opcodes from here on are of control frames (close, ping, pong): no messages."""
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F
_EXTENDED: Final = {126: 2, 127: 8}
"""Length fields that announce so many bytes with the real length."""
_MAX_HEADER: Final = 14


class MessageCounter:
    """Follows the frames of one direction. Bytes that are no WebSocket frames make wrong counts, and nothing worse."""

    __slots__ = ("_header", "_left")

    def __init__(self) -> None:
        self._left = 0
        """Bytes of the current frame's payload that are still to come."""
        self._header = b""
        """The beginning of a frame's header whose rest has not come."""

    def feed(self, data: bytes) -> int:
        """How many messages have their last frame begin in `data`, which may begin and stop anywhere."""
        if self._left >= len(data):  # the middle of a large frame
            self._left -= len(data)
            return 0
        if self._header:
            data, self._header = self._header + data, b""
        at, messages = self._left, 0
        while at < len(data):
            end = _header_end(data, at)
            if end is None:
                self._header = data[at : at + _MAX_HEADER]
                at = len(data)
                break
            first = data[at]
            if first & _FIN and (first & _OPCODE) < _CONTROL:
                messages += 1
            at = end + _payload(data, at)
        self._left = max(at - len(data), 0)
        return messages


def _header_end(data: bytes, at: int) -> int | None:
    """Where the payload begins of the frame that begins at `at`; None while that is not known."""
    if len(data) < at + 2:
        return None
    second = data[at + 1]
    end = at + 2 + _EXTENDED.get(second & _LENGTH, 0) + (4 if second & _MASKED else 0)
    return end if len(data) >= end else None


def _payload(data: bytes, at: int) -> int:
    length = data[at + 1] & _LENGTH
    extended = _EXTENDED.get(length)
    return length if extended is None else int.from_bytes(data[at + 2 : at + 2 + extended], "big")
