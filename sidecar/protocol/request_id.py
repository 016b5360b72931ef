"""`x-request-id` (product.md 3.9): which given ones are kept, and new ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_is_valid: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}").fullmatch
_RANDOM: Final = ~((0xF << 76) | (0x3 << 62)) & ((1 << 128) - 1)
_VERSION_4: Final = (4 << 76) | (2 << 62)


def valid(value: bytes) -> bool:
    """Whether a believed peer's id is kept."""
    return _is_valid(value) is not None


def new(getrandbits: Callable[[int], int]) -> bytes:
    """Text of a random UUID (RFC 9562 version 4). `getrandbits` is `random.Random.getrandbits`."""
    text = b"%032x" % (getrandbits(128) & _RANDOM | _VERSION_4)
    return b"%b-%b-%b-%b-%b" % (text[:8], text[8:12], text[12:16], text[16:20], text[20:])
