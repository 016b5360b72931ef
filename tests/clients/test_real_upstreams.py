"""Servers that people run as upstreams, each through every client that can speak to it: keep-alive, large bodies, trailers.

A server that is not on this machine (nginx, HAProxy, Node, Envoy) or not installed (gunicorn, hypercorn, uvicorn) is skipped, and says so.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import uvloop
from support import RawClient
from support.engine import Engine, upstream
from support.envoy import envoy_command, origin_command
from support.ports import free_port

from sidecar.model.snapshot import Client, HttpProtocol

KIB = 1024
LARGE = bytes(range(256)) * 8 * KIB
"""2 MiB."""

APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    text = body or scope["raw_path"] or scope["path"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(text)).encode()), (b"x-version", scope["http_version"].encode())]})
    await send({"type": "http.response.body", "body": text})

def wsgi(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)) or environ["PATH_INFO"].encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

NODE = """
const http = require(process.argv[2]);
const serve = (request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    const body = parts.length ? Buffer.concat(parts) : Buffer.from(request.url);
    if (process.argv[2] === 'http') response.setHeader('Trailer', 'x-sum');
    response.write(body);
    response.addTrailers({'x-sum': String(body.length)});
    response.end();
  });
};
http.createServer(serve).listen(Number(process.argv[3]), '127.0.0.1');
"""

NGINX = """
{user} daemon off; worker_processes 1; pid {folder}/pid; error_log stderr;
events {{ worker_connections 256; }}
http {{
  access_log off; client_max_body_size 0; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e; keepalive_requests 7;
  server {{ listen 127.0.0.1:{port}{http2}; location / {{ return 200 $request_uri; }} location /large {{ root {folder}; }} }}
}}
"""

HAPROXY = """
defaults
  mode http
  timeout client 5s
  timeout server 5s
  timeout connect 1s
frontend one
  bind 127.0.0.1:{port}{http2}
  http-request return status 200 content-type text/plain lf-string %[path]
"""


@contextmanager
def running(command: list[str], port: int, folder: Path) -> Iterator[int]:
    with (folder / "output").open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "output").read_text()
            assert time.monotonic() < deadline, "it does not listen"
            time.sleep(0.05)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def program(name: str) -> str:
    if found := shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        return found
    pytest.skip(f"needs {name} (apt-get install {name})")


def module(name: str) -> list[str]:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name} (pip install {name})")
    return [sys.executable, "-m", name]


@contextmanager
def server(name: str, protocol: HttpProtocol, folder: Path) -> Iterator[int]:
    port, beside = free_port(), ExitStack()
    http2 = protocol is not HttpProtocol.HTTP1
    (folder / "served_app.py").write_text(APP)
    (folder / "node.js").write_text(NODE)
    (folder / "large").write_bytes(LARGE)
    if name == "nginx":
        (folder / "nginx.conf").write_text(
            NGINX.format(user="user root;" if os.geteuid() == 0 else "", folder=folder, port=port, http2=" http2" if http2 else "")
        )
        command = [program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    elif name == "haproxy":
        (folder / "haproxy.cfg").write_text(HAPROXY.format(port=port, http2=" proto h2" if http2 else ""))
        command = [program("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]
    elif name == "envoy":
        origin = free_port()
        command = envoy_command(folder, port, origin)
        beside.enter_context(running(origin_command(folder, origin), origin, folder))
    elif name == "node":
        command = [program("node"), str(folder / "node.js"), "http2" if http2 else "http", str(port)]
    elif name == "uvicorn":
        command = [*module("uvicorn"), "served_app:app", "--port", str(port), "--log-level", "warning", "--timeout-keep-alive", "1"]
    elif name == "gunicorn":
        command = [
            *module("gunicorn"),
            "served_app:wsgi",
            "-b",
            f"127.0.0.1:{port}",
            "-k",
            "gthread",
            "--threads",
            "4",
            "--keep-alive",
            "1",
        ]
    else:
        command = [*module("hypercorn"), "served_app:app", "-b", f"127.0.0.1:{port}", "--keep-alive", "1"]
    with beside, running(command, port, folder):
        yield port


ECHOES = ("uvicorn", "gunicorn", "hypercorn", "node", "envoy")
"""They answer with the body that they get; the others have none for it."""
TRAILERS = ("node", "envoy")
CASES = [
    *((name, client, HttpProtocol.HTTP1) for name in ("nginx", "haproxy", *ECHOES) for client in Client),
    *((name, Client.HTTPX, HttpProtocol.H2C) for name in ("nginx", "haproxy", "hypercorn", "node", "envoy")),
]


@pytest.mark.parametrize(
    ("name", "client", "protocol"), [pytest.param(*case, id=f"{case[0]}-{case[1].value}-{case[2].value}") for case in CASES]
)
def test_a_server_that_people_run_is_a_good_upstream(name: str, client: Client, protocol: HttpProtocol, tmp_path: Path) -> None:
    """Forty requests by four clients, with the server's idle limit and its requests per connection in between, then large bodies."""

    async def ask(engine: Engine, number: int) -> None:
        async with await RawClient.open(engine.port(), timeout=60) as asking:
            for turn in range(10):
                answer = await asking.request(f"/{number}/{turn}")
                assert (answer.status, answer.body) == (200, b"/%d/%d" % (number, turn))
                if turn == 5:
                    await asyncio.sleep(1.0 + 0.05 * number)  # about when its idle limit ends

    async def main(port: int) -> None:
        async with Engine(upstream(port, client=client, protocol=protocol)) as engine:
            await asyncio.gather(*(ask(engine, number) for number in range(4)))
            async with await RawClient.open(engine.port(), timeout=60) as asking:
                if name in ECHOES:
                    for size in (1, 100 * KIB, len(LARGE)):
                        answer = await asking.request("/", method="POST", body=LARGE[:size])
                        assert answer.body == LARGE[:size]
                        if name in TRAILERS:
                            assert answer.trailers == [(b"x-sum", b"%d" % size)]
                        if name == "envoy":
                            assert answer.get("x-protocol") == ("HTTP/1.1" if protocol is HttpProtocol.HTTP1 else "HTTP/2")
                elif name == "nginx":
                    assert (await asking.request("/large")).body == LARGE
            assert {exchange.reason for exchange in engine.seen.finished} == {None}

    with server(name, protocol, tmp_path) as port:
        uvloop.run(main(port))
