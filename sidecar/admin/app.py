"""The admin surface (interface.md section 2): one aiohttp application over an `AdminContext`.

What it is bound to, and when it stops, is the composition root's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
from aiohttp import web

from sidecar.admin import views
from sidecar.admin.board import Board
from sidecar.admin.context import LOG_LEVELS, AdminContext
from sidecar.admin.encode import json_response, problem, text_response
from sidecar.admin.guard import MAX_BODY, Handler, add_headers, guard, read_body
from sidecar.admin.history import History
from sidecar.admin.page import CONTENT_SECURITY_POLICY, QUESTION, page_parts
from sidecar.admin.parts import PARTS, news
from sidecar.admin.quiet import quiet_server_log
from sidecar.errors import UsageError
from sidecar.proxy.explain import Scene, explain, question, render

CONTEXT: Final = web.AppKey("context", AdminContext)
BOARD: Final = web.AppKey("board", Board)


def make_app(context: AdminContext) -> web.Application:
    """The application. It starts nothing before somebody looks at the page, and ends that in its clean-up. Serve it with `access_log=None`."""
    quiet_server_log()
    app = web.Application(middlewares=[guard, _refreshed], client_max_size=MAX_BODY)
    app[CONTEXT] = context
    history = History(context.traffic, refresh=lambda: context.refresh("/metrics", ""))
    app[BOARD] = Board(context, history)

    async def stop_measuring(_app: web.Application) -> None:
        await history.aclose()

    app.on_cleanup.append(stop_measuring)
    app.on_response_prepare.append(add_headers)
    for path, view in views.VIEWS.items():
        app.router.add_get(path, partial(_view, view))
    app.router.add_get("/", _page)
    app.router.add_get("/page", _parts)
    app.router.add_get("/config", _config)
    app.router.add_get("/explain", _explain)
    app.router.add_get("/why", _why)
    app.router.add_get("/metrics", _metrics)
    app.router.add_put("/log-level", _set_log_level)
    app.router.add_post("/drain", _drain)
    app.router.add_post("/quitquitquit", _quit)
    return app


@web.middleware
async def _refreshed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Behind the guard: what other processes know is here when it is asked for."""
    if request.path != "/metrics":  # which sees to it itself
        await request.app[CONTEXT].refresh(request.path, request.query.get("request_id", ""))
    return await handler(request)


async def _view(view: Callable[[AdminContext], object], request: web.Request) -> web.StreamResponse:
    return await json_response(request, view(request.app[CONTEXT]))


async def _config(request: web.Request) -> web.StreamResponse:
    active = request.app[CONTEXT].config()
    # Filling in the defaults of thousands of routes takes a while; everything that it reads is immutable.
    document = None if active is None else await asyncio.to_thread(active.document)
    return await json_response(request, {**views.config_head(active), "document": document})


async def _metrics(request: web.Request) -> web.StreamResponse:
    return web.Response(body=await request.app[CONTEXT].metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def _page(request: web.Request) -> web.StreamResponse:
    asked = {name: request.query.get(name, "") for name in (*QUESTION, "filter", "refresh")}
    answer = None
    if asked["url"]:
        found = await _explanation(request)
        answer = found if isinstance(found, str) else render(found)
    parts = page_parts(await request.app[BOARD].look(asked["filter"]), asked, answer, request.host)
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": CONTENT_SECURITY_POLICY}
    return await text_response(request, (part.encode("utf-8", "replace") for part in parts), headers)


async def _parts(request: web.Request) -> web.StreamResponse:
    """What the page's script asks for again and again."""
    view = await request.app[BOARD].look(request.query.get("filter", ""))
    parts = {}
    for name, part in PARTS.items():
        parts[name] = part(view).encode("utf-8", "replace").decode()
        await asyncio.sleep(0)
    return await json_response(request, {"parts": parts, "news": news(view)})


async def _explain(request: web.Request) -> web.StreamResponse:
    found = await _explanation(request)
    if isinstance(found, str):
        return problem(400, "Bad Request", found)
    return await json_response(request, found)


async def _explanation(request: web.Request) -> dict[str, Any] | str:
    """The explanation, or what is wrong with the question."""
    context = request.app[CONTEXT]
    query = request.query
    active = context.config()
    if active is None:
        return "there is nothing to explain: no valid document has come yet"
    if not query.get("url"):
        return "which URL? (add ?method=GET&url=http://HOST/PATH; header=name:value may be repeated, listener=NAME)"
    scene = Scene(
        snapshot=active.snapshot,
        routers=active.routers,
        origin=active.origin,
        source=active.source,
        revision=active.revision,
        upstreams={status.name: status for status in context.upstreams()},
    )
    headers = [line for line in query.getall("header", []) if line]
    try:
        asked = question(query.get("method") or "GET", query["url"], headers, query.get("listener"))
        # Judging thousands of rules takes a while; everything that it reads is immutable.
        return await asyncio.to_thread(explain, asked, scene)
    except UsageError as error:
        return str(error)


async def _why(request: web.Request) -> web.StreamResponse:
    context = request.app[CONTEXT]
    request_id = request.query.get("request_id", "")
    if records := context.why(request_id):
        active = context.config()
        return await json_response(request, {"activeRevision": None if active is None else active.snapshot.revision, "records": records})
    if request_id:
        told = "the last failures, retries and slowest requests are kept, this one is not among them (the access log has every request_id)"
        return problem(404, "Not Found", told)
    return problem(404, "Not Found", "nothing has failed since the sidecar started")


async def _set_log_level(request: web.Request) -> web.StreamResponse:
    try:
        body = msgspec.json.decode(await read_body(request))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # the last: thousands of brackets
        body = None
    level = body.get("level") if isinstance(body, dict) else None
    if level not in LOG_LEVELS:
        return problem(400, "Bad Request", f'the body must be {{"level": LEVEL}} with one of {", ".join(LOG_LEVELS)}')
    context = request.app[CONTEXT]
    context.set_log_level(level)
    return await json_response(request, {"level": context.get_log_level()})


async def _drain(request: web.Request) -> web.StreamResponse:
    status = request.app[CONTEXT].drain()
    return await json_response(request, {"drained": status.drained, "inFlight": status.in_flight})


async def _quit(request: web.Request) -> web.StreamResponse:
    response = web.json_response({"state": "stopping"})
    await response.prepare(request)
    await response.write_eof()
    request.app[CONTEXT].quit()
    return response
