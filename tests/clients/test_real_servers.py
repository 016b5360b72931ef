"""Servers that people run, behind the data plane: aiohttp and Python's own http.server."""

from __future__ import annotations

import http.server
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvloop
from aiohttp import web
from support import RawClient
from support.engine import Engine, upstream

MIB = 1024 * 1024


@asynccontextmanager
async def aiohttp_server(app: web.Application) -> AsyncIterator[int]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, lingering_time=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def _echo(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    async for piece in request.content.iter_any():
        await answer.write(piece)
    await answer.write_eof()
    return answer


async def _plain(request: web.Request) -> web.Response:
    return web.json_response({"path": request.raw_path, "headers": dict(request.headers)})


async def _early(_request: web.Request) -> web.Response:
    return web.Response(status=413, text="too much")


def test_aiohttp_echoes_a_stream_while_it_comes() -> None:
    """The answer begins before the request has ended, and both go on together."""

    async def main() -> None:
        app = web.Application(client_max_size=64 * MIB)
        app.router.add_post("/echo", _echo)
        async with aiohttp_server(app) as port, Engine(upstream(port)) as engine, await RawClient.open(engine.port()) as client:
            await client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            for number in range(20):
                await client.send(b"5\r\nhell%c\r\n" % (97 + number))
                if number == 0:
                    await client.read_head()
                assert await client.read_exactly(10) == b"5\r\nhell%c\r\n" % (97 + number)
            await client.send(b"0\r\n\r\n")
            assert await client.read_exactly(5) == b"0\r\n\r\n"
            assert (await client.request("/none")).status == 404

    uvloop.run(main())


def test_aiohttp_sees_what_was_sent() -> None:
    async def main() -> None:
        app = web.Application()
        app.router.add_get("/{tail:.*}", _plain)
        async with aiohttp_server(app) as port, Engine(upstream(port)) as engine, await RawClient.open(engine.port()) as client:
            for _ in range(3):
                answer = await client.request("/a%2Fb?c=%20", headers="X-Odd-Case: 1\r\n")
                assert b'"/a%2Fb?c=%20"' in answer.body
                assert b'"X-Odd-Case": "1"' in answer.body
                assert b'"Via": "1.1 outrider"' in answer.body
            assert engine.registry.statuses()[0].connections_idle == 1

    uvloop.run(main())


def test_an_early_answer_of_aiohttp_reaches_a_client_that_is_still_sending() -> None:
    async def main() -> None:
        app = web.Application()
        app.router.add_post("/early", _early)
        async with aiohttp_server(app) as port, Engine(upstream(port)) as engine, await RawClient.open(engine.port()) as client:
            await client.send(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % MIB + b"x" * 1000)
            answer = await client.read_response()
            assert (answer.status, answer.body) == (413, b"too much")

    uvloop.run(main())


class _Handler(http.server.BaseHTTPRequestHandler):
    """HTTP/1.0: every answer ends with its connection."""

    timeout = 5

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"from " + self.path.encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def http_server() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_http_server_of_python_speaks_1_0_and_the_client_keeps_its_connection() -> None:
    async def main(port: int) -> None:
        async with Engine(upstream(port)) as engine, await RawClient.open(engine.port()) as client:
            for number in range(5):
                assert (await client.request(f"/{number}")).body == b"from /%d" % number
            body = b"y" * 300_000
            assert (await client.request("/", method="POST", body=body)).body == body
            assert engine.registry.statuses()[0].connections_idle == 0

    with http_server() as port:
        uvloop.run(main(port))
