"""The application beside the sidecar: HTTP/1.1 on port 8000 with nothing but the standard library. Runs in the cluster.

GET /                   who answers, with the request's headers
GET /slow?seconds=2     the same, later
POST /echo              the body back
GET /call?url=http://.. asks another service by HTTP_PROXY, and answers what came

Tracing: with OTLP (a collector's base URL) in the environment it continues the caller's trace and tells of it.
On SIGTERM it takes no new connections, ends what it is doing, and exits with 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import secrets
import signal
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import parse_qs, urlsplit

NAME = os.environ.get("HOSTNAME", "application")
SERVICE = os.environ.get("SERVICE", "application")
COLLECTOR = os.environ.get("OTLP", "")

Headers = dict[str, str]


class Application:
    """One server and its connections."""

    def __init__(self) -> None:
        self.ending = asyncio.Event()
        self.idle: set[asyncio.StreamWriter] = set()
        self.connections: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until SIGTERM."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.ending.set)
        server = await asyncio.start_server(self.connected, "0.0.0.0", int(os.environ.get("PORT", "8000")))
        print("listening", flush=True)
        await self.ending.wait()
        server.close()
        for writer in self.idle:
            writer.close()
        if self.connections:
            await asyncio.wait(self.connections, timeout=20)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self.exchange(reader, writer):
                    pass
        finally:
            self.connections.discard(task)
            self.idle.discard(writer)
            writer.close()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether another may follow."""
        self.idle.add(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        self.idle.discard(writer)
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        status, content = await self.answer(method, target, headers, body)
        last = self.ending.is_set()
        writer.write(
            f"HTTP/1.1 {status} {http.client.responses[status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\n{'connection: close' if last else 'connection: keep-alive'}\r\n\r\n".encode()
            + content
        )
        await writer.drain()
        return not last

    async def answer(self, method: str, target: str, headers: Headers, body: bytes) -> tuple[int, bytes]:
        """Status and content."""
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        if path == "/slow":
            await asyncio.sleep(float(query["seconds"][0]))
        elif path == "/echo" and method == "POST":
            return 200, body
        elif path == "/call":
            return await asyncio.to_thread(call, query["url"][0], headers)
        elif path != "/":
            return 404, b"{}"
        return 200, json.dumps({"pod": NAME, "headers": headers}).encode()


def call(url: str, headers: Headers) -> tuple[int, bytes]:
    """Ask another service, as the proxy variables say."""
    mine, theirs = Span("call", headers.get("traceparent", ""), kind=2), Span("", "", kind=3)
    theirs.trace, theirs.parent, theirs.name = mine.trace, mine.span, "GET"
    request = urllib.request.Request(url, headers={"traceparent": f"00-{theirs.trace}-{theirs.span}-01"} if COLLECTOR else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            status, content = response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read().decode(errors="replace")
    except OSError as error:
        status, content = 0, str(error)
    if COLLECTOR:
        tell([theirs.ended(), mine.ended()])
    return 200, json.dumps({"pod": NAME, "status": status, "answer": content}).encode()


class Span:
    """A span, as OTLP's JSON has it."""

    def __init__(self, name: str, traceparent: str, *, kind: int) -> None:
        parts = traceparent.split("-")
        self.name, self.kind, self.begun = name, kind, time.time_ns()
        self.trace, self.parent = (parts[1], parts[2]) if len(parts) == 4 else (secrets.token_hex(16), "")
        self.span = secrets.token_hex(8)

    def ended(self) -> dict[str, Any]:
        """It has ended now."""
        return {
            "traceId": self.trace,
            "spanId": self.span,
            "parentSpanId": self.parent,
            "name": self.name,
            "kind": self.kind,
            "startTimeUnixNano": str(self.begun),
            "endTimeUnixNano": str(time.time_ns()),
        }


def tell(spans: list[dict[str, Any]]) -> None:
    """Export spans, past the proxy."""
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": SERVICE}}]}
    document = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "application"}, "spans": spans}]}]}
    request = urllib.request.Request(COLLECTOR + "/v1/traces", json.dumps(document).encode(), {"Content-Type": "application/json"})
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5).close()


if __name__ == "__main__":
    asyncio.run(Application().run())
