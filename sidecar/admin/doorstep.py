"""`POST /drain` as `outrider drain` sends it, answered before the admin surface is loaded and without loading it.

It is the first that most sidecars are ever asked, when their pod ends, perhaps on a starved node or near their memory
limit: 100 ms of CPU or 15 MiB too much, and the pod would leave without having drained. Anything else, and everything
that is written in another way, is for the surface itself and its guard.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from sidecar.admin.hosts import is_local

_REQUEST: Final = b"POST /drain HTTP/1.1"
_KNOWN: Final = frozenset({b"host", b"accept", b"accept-encoding", b"connection", b"user-agent", b"content-length"})
"""A request with any other field may be one that a page in a browser sent."""


def answer(request: bytes, drain: Callable[[], tuple[bool, int]]) -> bytes | None:
    """The answer to a whole request, after which the connection is closed; None: not ours to answer.

    `drain` begins the drain; whether it is done and how much is in flight.
    """
    block, end, rest = request.partition(b"\r\n\r\n")
    first, *lines = block.split(b"\r\n")
    if first != _REQUEST or not end or rest:
        return None
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or name not in _KNOWN or name in fields:
            return None
        fields[name] = value.strip()
    if fields.get(b"content-length", b"0") != b"0" or not is_local(fields.get(b"host", b"").decode("latin-1")):
        return None
    drained, in_flight = drain()
    content = json.dumps({"drained": drained, "inFlight": in_flight}).encode()
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nServer: outrider\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)
    )
