"""Text that came from elsewhere, made harmless for one log line; and the time as log lines show it.

Whatever a peer sends, a line stays one line: quotes, control characters (ESC, DEL, C1), U+2028 and its kin and bytes
that are not UTF-8 are escaped, so nothing can forge a second line or talk to a terminal.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Hashable, Sized
from typing import ClassVar, Final, Generic, Protocol, TypeVar


class Key(Hashable, Sized, Protocol):
    """What can be remembered: bytes, text, tuples of them."""


K = TypeVar("K", bound=Key)

_HARMFUL: Final = 1
_MARKS: Final = bytes(not 0x20 <= c < 0x7F or c in b'"\\' for c in range(0x100))
"""`_HARMFUL` for all but printable ASCII without the two characters that mean something inside a JSON string."""


def harmless(value: bytes) -> bool:
    """Whether `value` may stand in a JSON string as it is: to mark and to look costs half of what it does to delete what is good."""
    return _HARMFUL not in value.translate(_MARKS)


def escaped(value: bytes) -> bytes:
    """The inside of a JSON string, ASCII only; a byte that is not UTF-8 becomes a visible hexadecimal escape."""
    if harmless(value):
        return value
    # json with ensure_ascii also escapes DEL, C1 controls and line separators, which orjson and msgspec leave as they are.
    return json.dumps(value.decode("utf-8", "backslashreplace"))[1:-1].encode()


def shortened(value: bytes, limit: int) -> bytes:
    """At most `limit` bytes of a peer's value, `...` after what was cut."""
    return value if len(value) <= limit else value[:limit] + b"..."


def printable(value: str) -> str:
    """For people on a terminal: what is not printable (bidirectional overrides included) is shown as an escape."""
    if value.isprintable():
        return value
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)


def utc_seconds(seconds: float) -> str:
    """`2026-01-31T12:34:56`, from Unix seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def utc(seconds: float) -> str:
    """`2026-01-31T12:34:56.789Z`, from Unix seconds."""
    milliseconds = int(seconds * 1000)
    return f"{utc_seconds(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


class Rendered(dict[K, bytes], Generic[K]):
    """Values that come again and again, rendered once.

    Peers cannot make it grow: it remembers no long values, and when there are LIMIT of them it forgets them all.
    """

    LIMIT: ClassVar = 512
    LONGEST: ClassVar = 256

    def __init__(self, render: Callable[[K], bytes]) -> None:
        super().__init__()
        self._render = render

    def __missing__(self, key: K) -> bytes:
        rendered = self._render(key)
        if len(key) <= self.LONGEST:
            if len(self) >= self.LIMIT:
                self.clear()
            self[key] = rendered
        return rendered
