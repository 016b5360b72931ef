"""The guard of the admin surface: who may ask, how much they may send, and what an answer never shows.

A page in a browser is the attacker here: it can make its reader's browser send requests to loopback. By DNS rebinding
they come with the page's own name in `Host`; across origins they come with an `Origin`. Both are refused.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from multidict import CIMultiDictProxy

from sidecar.admin.encode import problem
from sidecar.admin.hosts import is_local

log = logging.getLogger("outrider")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_BODY: Final = 64 * 1024
"""Bytes of the largest request body."""

HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
"""On every answer; a handler that needs others sets them itself."""


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what no honest caller sends; turn whatever goes wrong into JSON without internals."""
    refusal = refuse(request)
    return await _answer(request, handler) if refusal is None else refusal


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Signal `on_response_prepare`: the security headers, also on streamed answers."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "outrider"  # and not the versions of what serves it


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        response = problem(405, "Method Not Allowed", f"{request.method} is not possible here (use {allowed})")
        response.headers["Allow"] = allowed
        return response
    except web.HTTPNotFound:
        return problem(404, "Not Found", "there is no such page (GET / shows what there is)")
    except web.HTTPException as error:
        return problem(error.status, error.reason, error.text or error.reason)
    except ConnectionError:  # the client has gone; the server ends the connection
        raise
    except Exception:
        log.exception("admin request failed", extra={"event": "internal_error", "fields": {"path": request.path}})
        if request.transport is not None and request.writer.output_size > 0:
            request.transport.abort()  # half an answer must not look like a whole one
        return problem(500, "Internal Server Error", "the sidecar could not answer; its log says why")


def refuse(request: web.Request) -> web.Response | None:
    """The refusal of `request`, or None."""
    if "Origin" in request.headers:
        return problem(403, "Forbidden", "requests with an Origin come from a web page and are refused")
    if not request.raw_path.startswith("/"):
        return problem(400, "Bad Request", "the target must be a path: this is not a proxy")
    if not _is_local_file(request) and not known_host(request.headers, _bound(request)):
        return problem(403, "Forbidden", "the Host is not an address of this sidecar (use localhost or 127.0.0.1)")
    if (request.content_length or 0) > MAX_BODY:
        return _too_large()
    return None


def _is_local_file(request: web.Request) -> bool:
    """Whether it came by a unix socket: no browser can, and `Host` means nothing there."""
    sock = request.get_extra_info("socket")
    return sock is not None and sock.family == socket.AF_UNIX


def _bound(request: web.Request) -> str:
    """The address that the connection came to."""
    sockname = request.get_extra_info("sockname")
    return str(sockname[0]) if isinstance(sockname, tuple) else ""


def known_host(headers: CIMultiDictProxy[str], bound: str) -> bool:
    """Whether there is one `Host`, and it is ours."""
    values = headers.getall("Host", [])
    return len(values) == 1 and is_local(values[0], bound)


async def read_body(request: web.Request) -> bytes:
    """The whole body. Raises HTTPRequestEntityTooLarge beyond `MAX_BODY`, also when it is chunked."""
    body = bytearray()
    async for chunk in request.content.iter_chunked(MAX_BODY):
        body += chunk
        if len(body) > MAX_BODY:
            raise web.HTTPRequestEntityTooLarge(MAX_BODY, len(body), text=f"the body is larger than {MAX_BODY} bytes")
    return bytes(body)


def _too_large() -> web.Response:
    response = problem(413, "Content Too Large", f"the body is larger than {MAX_BODY} bytes")
    response.force_close()
    return response
