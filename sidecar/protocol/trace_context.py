"""`traceparent` and `tracestate` (W3C Trace Context, level 2): what is valid, and what may travel on."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

SAMPLED: Final = 0x01
RANDOM: Final = 0x02
"""Level 2: the trace id was made at random. Travels on unchanged, like the id that it speaks of."""
MAX_MEMBERS: Final = 32
MAX_STATE: Final = 4096
"""Bytes of `tracestate` that travel on; the recommendation asks for 512 at least (section 3.3.1.5)."""
_LONG_MEMBER: Final = 128
"""Members above this size are the first to go (section 3.3.1.5)."""

_IDS: Final = rb"(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
_traceparent: Final = re.compile(rb"00-" + _IDS).fullmatch
_of_the_future: Final = re.compile(rb"(?!00|ff)[0-9a-f]{2}-" + _IDS + rb"(?:-.*)?").fullmatch
_member: Final = re.compile(
    rb"([a-z0-9][-_0-9a-z*/@]{0,255})=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])"
).fullmatch
_FLAGS: Final = {b"%02x" % number: number & (SAMPLED | RANDOM) for number in range(256)}


class SpanParent(NamedTuple):
    """A span of somebody else: ids in lower-case hex (32 and 16 digits), `flags` as on the wire, `state` valid or b""."""

    trace: bytes
    span: bytes
    flags: int
    state: bytes = b""


def parse_traceparent(value: bytes, state: bytes | None = None) -> SpanParent | None:
    """What `traceparent`, and `tracestate` with it, say; None when `traceparent` is not valid (section 3.2).

    Two lines of it, which arrive joined by a comma, are not valid. Of a version above 00 the part that version 00
    knows counts (section 4.3). Flags other than sampled and random are not passed on (section 3.2.2.5.3).
    """
    match = _traceparent(value) or _of_the_future(value)
    if match is None:
        return None
    trace, span, flags = match.groups()
    return SpanParent(trace, span, _FLAGS[flags], clean_tracestate(state) if state else b"")


@lru_cache(maxsize=256)
def clean_tracestate(value: bytes) -> bytes:
    """The members of `tracestate` as they travel on; b"" when one breaks the grammar, or there are two of a key, or more than 32.

    Of more than 4 KiB the longest members are left out first, then those on the right, the oldest (section 3.3.1.5).
    """
    members: list[bytes] = []
    keys: set[bytes] = set()
    for piece in value.split(b","):
        text = piece.strip(b" \t")
        if not text:
            continue  # empty members are allowed (section 3.3.1.1)
        match = _member(text)
        if match is None or match[1] in keys:
            return b""
        keys.add(match[1])
        members.append(text)
    if len(members) > MAX_MEMBERS:
        return b""
    return _fitting(members)


def _fitting(members: list[bytes]) -> bytes:
    joined = b",".join(members)
    while len(joined) > MAX_STATE:
        too_long = [index for index, member in enumerate(members) if len(member) > _LONG_MEMBER]
        del members[too_long[-1] if too_long else -1]
        joined = b",".join(members)
    return joined
