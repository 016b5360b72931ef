"""Stage relay: the response's body to the client, as fast as the slower of the two."""

from __future__ import annotations

from time import monotonic
from typing import Final

from sidecar.errors import PeerGone
from sidecar.http1.body import Body
from sidecar.http1.relay import BULK_MIN, relay_bulk
from sidecar.model.stream import BodySource
from sidecar.protocol.chunked import encode_chunk, last_chunk
from sidecar.protocol.hop_by_hop import trailers_allowed
from sidecar.proxy.flight import Flight

FLUSH_BYTES: Final = 64 * 1024
"""What has come together is written together, up to this much."""


def relay_whole(flight: Flight, parts: list[bytes], body: BodySource) -> bool:
    """Write `parts` (the head) and `body` at once if all of it has come: most responses. False: `relay` must go on."""
    whole = body.whole() if isinstance(body, Body) else b""
    if not whole or flight.connection.drained is not None:
        return False
    parts.append(whole)
    flight.exchange.bytes_out += len(whole)
    _write(flight, parts)
    parts.clear()
    return flight.connection.drained is None  # else `relay` waits until the client has taken it


async def relay(flight: Flight, parts: list[bytes], body: BodySource) -> None:
    """Write `parts` (the head) and all of `body`. The head and the body bytes that came with it leave in one write.

    Raises what `body.read` raises, PeerGone when the client is gone. Returns with everything handed to the transport.
    """
    while True:
        complete = await _gather(flight, parts, body)
        if complete and flight.chunked:
            parts.append(last_chunk(trailers_allowed(body.trailers, flight.nominated)))
        _write(flight, parts)
        if flight.connection.drained is not None:
            await flight.connection.drain()
        if complete:
            return
        flight.delivered = flight.exchange.bytes_out == body.length
        parts = []
        if isinstance(body, Body) and not flight.chunked and not body.ready() and body.bulk_left() > BULK_MIN:
            await relay_bulk(body, flight.connection, lambda moved: _moved(flight, moved))
        elif not body.ready():
            piece = await body.read()
            if piece:
                _append(flight, parts, piece)
                flight.exchange.bytes_out += len(piece)


async def _gather(flight: Flight, parts: list[bytes], body: BodySource) -> bool:
    """Append what has come of `body`, without waiting; True when it is complete."""
    size = 0
    while size < FLUSH_BYTES and body.ready():
        piece = await body.read()
        if not piece:
            flight.exchange.bytes_out += size
            return True
        _append(flight, parts, piece)
        size += len(piece)
    flight.exchange.bytes_out += size
    return False


def _append(flight: Flight, parts: list[bytes], piece: bytes) -> None:
    if flight.chunked:
        parts += encode_chunk(piece)
    else:
        parts.append(piece)


def _write(flight: Flight, parts: list[bytes]) -> None:
    connection = flight.connection
    if connection.closed:
        raise PeerGone("the client closed its connection")
    if parts:
        flight.committed = flight.started = True
        connection.send(b"".join(parts))
        flight.deadlines.moved_at = monotonic()


def _moved(flight: Flight, size: int) -> None:
    flight.exchange.bytes_out += size
    flight.deadlines.moved_at = monotonic()
