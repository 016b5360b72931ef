"""`Via` (RFC 9110 section 7.6.3): our own entry, and how loops show."""

from __future__ import annotations

import re
from typing import Final

PSEUDONYM: Final = b"outrider"
MAX_OWN_ENTRIES: Final = 8
"""More of them than this: 502 `proxy_loop_detected` (product.md 3.9)."""

_ENTRY: Final = (b"1.0 " + PSEUDONYM, b"1.1 " + PSEUDONYM)
_own: Final = re.compile(rb"(?:^|,)[ \t]*(?:[A-Za-z]+/)?[0-9.]+[ \t]+" + PSEUDONYM + rb"(?=[ \t]*(?:[,(]|$))", re.IGNORECASE).findall


def append(existing: bytes | None, minor: int = 1) -> bytes:
    """Value of the one `Via` line to send: what came (lines joined by a comma and a blank), then our entry.

    `minor` is of the message received, HTTP/1.`minor`.
    """
    return existing + b", " + _ENTRY[minor] if existing else _ENTRY[minor]


def own_entries(existing: bytes) -> int:
    """How often the message has passed a proxy of our name."""
    return len(_own(existing)) if PSEUDONYM in existing.lower() else 0


def is_loop(existing: bytes) -> bool:
    """Whether it has passed too often."""
    return own_entries(existing) > MAX_OWN_ENTRIES
