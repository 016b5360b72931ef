"""JSON in pieces: an answer of megabytes (5,000 routes with all their defaults) must not hold the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

_SLICE: Final = 64
"""List items that are encoded at a stretch: below a millisecond for the largest of ours."""
_FLUSH: Final = 32 * 1024
_encode = msgspec.json.encode


def pieces(value: object) -> Iterator[bytes]:
    """The JSON text of `value`, cut between the items of its mappings and long lists."""
    if isinstance(value, dict) and value:
        opener = b"{"
        for key, item in value.items():
            yield opener + _encode(str(key)) + b":"
            yield from pieces(item)
            opener = b","
        yield b"}"
    elif isinstance(value, list | tuple) and len(value) > _SLICE:
        for start in range(0, len(value), _SLICE):
            yield (b"," if start else b"[") + _encode(value[start : start + _SLICE])[1:-1]
        yield b"]"
    else:
        yield _encode(value)


async def json_response(request: web.Request, value: object) -> web.StreamResponse:
    """Answer 200 with `value`."""
    return await text_response(request, pieces(value), {"Content-Type": "application/json"})


async def text_response(request: web.Request, parts: Iterator[bytes], headers: Mapping[str, str]) -> web.StreamResponse:
    """Answer 200 with `parts`: a small answer in one piece, others streamed with the loop free in between."""
    first = bytearray()
    for piece in parts:
        first += piece
        if len(first) >= _FLUSH:
            break
    else:
        return web.Response(body=bytes(first), headers=headers)
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    await _stream(response, first, parts)
    return response


async def _stream(response: web.StreamResponse, buffer: bytearray, parts: Iterator[bytes]) -> None:
    for piece in parts:
        if len(buffer) >= _FLUSH:
            await response.write(bytes(buffer))
            await asyncio.sleep(0)
            buffer.clear()
        buffer += piece
    await response.write(bytes(buffer))
    await response.write_eof()


def problem(status: int, title: str, detail: str, **extra: Any) -> web.Response:
    """A refusal (RFC 9457): `detail` says what is wrong and what to do instead."""
    body = _encode({"type": "about:blank", "title": title, "status": status, "detail": detail, **extra})
    return web.Response(status=status, body=body, content_type="application/problem+json")
