"""Constant load on one Service, from inside the cluster, as a strict client: it never sends a request twice. Runs in a pod.

TARGET  host:port. The name is resolved once: what is measured is the way to the application, not the name server.
RATE    requests in a second, all kinds together.

Kinds: `keepalive` (connections that stay, GET), `post` (the same with 16 KiB that must come back), `new` (a connection for
each request), `slow` (an answer that takes two seconds). A request fails when anything but the expected answer comes.
The one thing that a client may know is respected: a connection that its peer has closed, or has said that it will close,
is not used for another request.

GET :8080/report tells, GET :8080/stop ends the load and waits for what is under way.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections import Counter
from typing import Any

RATE = float(os.environ.get("RATE", "50"))
HOST, _, PORT = os.environ.get("TARGET", "127.0.0.1:80").rpartition(":")
TIMEOUT = 15.0
BODY = os.urandom(8192).hex().encode()
SHARES = {"keepalive": 0.6, "post": 0.15, "new": 0.2, "slow": 0.05}
WORKERS = {"keepalive": 6, "post": 2, "new": 3, "slow": 6}
"""Enough for one request each, at the rate of their kind, while an answer takes its time."""


class Failed(Exception):
    """A request without its answer."""


class Load:
    """What was sent and what came."""

    def __init__(self) -> None:
        self.address = socket.getaddrinfo(HOST, int(PORT), type=socket.SOCK_STREAM)[0][4]
        self.counts: Counter[str] = Counter()
        self.failures: list[dict[str, Any]] = []
        self.failed = 0
        self.late = 0
        self.seconds: dict[str, list[float]] = {kind: [] for kind in SHARES}
        self.answered_by: Counter[str] = Counter()
        self.began = time.time()
        self.stopping = asyncio.Event()
        self.workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        for kind, share in SHARES.items():
            for number in range(WORKERS[kind]):
                interval = WORKERS[kind] / (RATE * share)
                self.workers.append(asyncio.create_task(self.work(kind, interval, number / WORKERS[kind])))

    async def stop(self) -> None:
        """End; what is under way gets its answer."""
        self.stopping.set()
        await asyncio.wait(self.workers)

    async def work(self, kind: str, interval: float, phase: float) -> None:
        """One worker: a request each `interval` seconds, whatever became of the last."""
        connection = Connection(self.address)
        due = time.monotonic() + interval * phase
        while not self.stopping.is_set():
            pause = due - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            else:
                self.late += pause < -1
            due = max(due + interval, time.monotonic() - 5 * interval)
            began = time.monotonic()
            self.counts[kind] += 1
            try:
                async with asyncio.timeout(TIMEOUT):
                    self.answered_by[await connection.exchange(kind)] += 1
            except (OSError, EOFError, TimeoutError, ValueError, Failed) as error:
                self.failed += 1
                connection.close()
                if len(self.failures) < 100:
                    self.failures.append(
                        {
                            "at": time.strftime("%H:%M:%S", time.gmtime()) + f".{time.time() % 1:.3f}"[2:],
                            "kind": kind,
                            "after": round(time.monotonic() - began, 3),
                            "requestsOnConnection": connection.used,
                            "error": f"{type(error).__name__}: {error}"[:300],
                        }
                    )
            self.seconds[kind].append(time.monotonic() - began)
        connection.close()

    def report(self) -> dict[str, Any]:
        """What happened so far."""
        return {
            "requests": sum(self.counts.values()),
            "failed": self.failed,
            "failures": self.failures,
            "late": self.late,
            "byKind": dict(self.counts),
            "answeredBy": dict(self.answered_by),
            "elapsed": round(time.time() - self.began, 1),
            "seconds": {kind: quantiles(values) for kind, values in self.seconds.items() if values},
        }


class Connection:
    """A client's connection, opened when it is needed."""

    def __init__(self, address: tuple[Any, ...]) -> None:
        self.address = address
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.used = 0

    async def exchange(self, kind: str) -> str:
        """One request; returns which pod answered. Raises Failed and OSError."""
        if kind == "new" or self.reader is None or self.reader.at_eof():
            self.close()
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(self.address[0], self.address[1])
            self.used = 0
        assert self.reader is not None
        self.used += 1
        method, path = {"post": ("POST", "/echo"), "slow": ("GET", "/slow?seconds=2")}.get(kind, ("GET", "/"))
        body = BODY if kind == "post" else b""
        head = f"{method} {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)
        await self.writer.drain()
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        content = await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("connection", "").lower() == "close":
            self.close()
        if first.split(" ")[1] != "200":
            raise Failed(f"{first} {headers.get('proxy-status', '')} {content[:200]!r}")
        if kind == "post":
            if content != BODY:
                raise Failed("another body came back")
            return "echo"
        return str(json.loads(content)["pod"])

    def close(self) -> None:
        """Let go of it."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


def quantiles(values: list[float]) -> dict[str, float]:
    """Seconds."""
    ordered = sorted(values)
    return {
        name: round(ordered[min(int(len(ordered) * share), len(ordered) - 1)], 4)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }


async def main() -> None:
    """Serve the report until the pod ends."""
    load = Load()
    load.start()

    async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
        if path == b"/stop":
            await load.stop()
        content = json.dumps(load.report()).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(content) + content
        )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(asked, "0.0.0.0", 8080) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
