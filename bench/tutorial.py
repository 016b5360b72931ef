"""A proxy as tutorials write it: `python -m bench.tutorial PORT ORIGIN`. aiohttp serves, httpx asks, bodies are streamed.

No time-outs of its own, no retries, no metrics; an access line for each request, as aiohttp writes it. It is here to show
what the frameworks cost, not as a proxy to run.
"""

from __future__ import annotations

import logging
import sys

import httpx
from aiohttp import web

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "content-length"}


def application(origin: str) -> web.Application:
    client = httpx.AsyncClient(
        base_url=origin, timeout=None, limits=httpx.Limits(max_connections=1024, max_keepalive_connections=256)
    )  # as Envoy has it here

    async def forward(request: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        body = request.content.iter_chunked(65536) if request.body_exists else None
        if "Content-Length" in request.headers:
            headers["Content-Length"] = request.headers["Content-Length"]
        async with client.stream(request.method, request.rel_url.raw_path, headers=headers, content=body) as answer:
            reply = web.StreamResponse(status=answer.status_code)
            for name, value in answer.headers.items():
                if name.lower() not in HOP_BY_HOP - {"content-length"}:
                    reply.headers[name] = value
            await reply.prepare(request)
            async for piece in answer.aiter_raw():
                await reply.write(piece)
            await reply.write_eof()
            return reply

    app = web.Application(client_max_size=1 << 40)
    app.router.add_route("*", "/{path:.*}", forward)
    return app


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    web.run_app(application(f"http://127.0.0.1:{sys.argv[2]}"), host="127.0.0.1", port=int(sys.argv[1]), print=None)
