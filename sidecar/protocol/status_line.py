"""Status lines, rendered once."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

REASON_PHRASES: Final[dict[int, bytes]] = {status.value: status.phrase.encode("ascii") for status in HTTPStatus} | {
    413: b"Content Too Large",
    414: b"URI Too Long",
    422: b"Unprocessable Content",
    499: b"Client Closed Request",
}
"""As registered (RFC 9110 section 15); the interpreter's own table differs between versions."""

_LINES: Final[dict[tuple[int, bytes], bytes]] = {
    (status, phrase): b"HTTP/1.1 %d %b\r\n" % (status, phrase) for status, phrase in REASON_PHRASES.items()
}
_line: Final = _LINES.get


def status_line(status: int, phrase: bytes | None = None) -> bytes:
    """`HTTP/1.1 status phrase` with its line end; `phrase` is the upstream's own, None: the registered one."""
    if phrase is None:
        phrase = REASON_PHRASES.get(status, b"")
    return _line((status, phrase)) or b"HTTP/1.1 %d %b\r\n" % (status, phrase)
