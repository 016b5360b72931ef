"""`x-request-id` (product.md 3.9): which given ones are kept, and new ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_VARIANT: Final = 0x8000_0000_0000_0000
_is_valid: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}").fullmatch


def valid(value: bytes) -> bool:
    """Whether a believed peer's id is kept."""
    return _is_valid(value) is not None


def maker(getrandbits: Callable[[int], int]) -> Callable[[], bytes]:
    """A source of random UUIDs (RFC 9562 version 4) as text. `getrandbits` is `random.Random.getrandbits`.

    The first 60 random bits are drawn once, the last 62 anew for each id: a third of the cost, and still two ids of one
    source meet only after some two thousand million of them.
    """
    prefix = b"%08x-%04x-4%03x-" % (getrandbits(32), getrandbits(16), getrandbits(12))

    def new() -> bytes:
        return prefix + (_VARIANT | getrandbits(62)).to_bytes(8, "big").hex("-", 6).encode()

    return new
