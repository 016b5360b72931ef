"""A scripted API server over plain HTTP, for what a real one cannot be made to do.

    async with FakeKube([listing(5, item)], [stream(event, 2.0, b'{"type": "MODI', CUT)]) as kube:
        ...  # a client of kube.url
        assert [request.verb for request in kube.asked] == ["list", "watch"]

The n-th list (watch) gets the n-th answer, later ones the last; both may be changed at any time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from support.upstream import Connection, ScriptedUpstream, response
from support.wire import Message

Json = dict[str, Any]
Answer = Callable[[Connection], Awaitable[None]]
FOREVER: Final = 3600.0


class _End(Exception):
    """The connection is to be closed."""


class Cut:
    """Close the connection in the middle: a FIN, or a reset."""

    def __init__(self, *, reset: bool = False) -> None:
        self.reset = reset


CUT: Final = Cut()
RESET: Final = Cut(reset=True)
Step = Json | bytes | float | Cut
"""Of a watch: an event, raw bytes, seconds to wait, an end without the last chunk."""


@dataclass
class Request:
    """One request as it came."""

    at: float
    """The loop's time."""
    verb: str
    """`list`, `watch`, or the method."""
    path: str
    query: dict[str, str]
    message: Message

    @property
    def token(self) -> str:
        """The bearer's."""
        return (self.message.get("authorization") or "").removeprefix("Bearer ")


class FakeKube:
    """Listens on a free loopback port. `authorize`: tokens that are accepted, others get 401; None: all and none."""

    def __init__(self, lists: Sequence[Answer], watches: Sequence[Answer], *, authorize: set[str] | None = None) -> None:
        self.lists = lists
        self.watches = watches
        self.authorize = authorize
        self.asked: list[Request] = []
        self._server = ScriptedUpstream(self._serve, timeout=120)

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._server.__aexit__(kind, error, trace)

    @property
    def url(self) -> str:
        """What a kubeconfig's `server` says."""
        return self._server.url

    @property
    def connections(self) -> list[Connection]:
        """All that were accepted, in order."""
        return self._server.connections

    def of(self, verb: str) -> list[Request]:
        """The requests with this verb, in order."""
        return [request for request in self.asked if request.verb == verb]

    def kubeconfig(self, path: Path, *, namespace: str = "default", **user: Any) -> Path:
        """Write a kubeconfig; `user` are fields of the user, with `_` for `-`."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {name.replace("_", "-"): value for name, value in user.items()}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        }
        path.write_text(json.dumps(document), encoding="utf-8")
        return path

    async def _serve(self, connection: Connection) -> None:
        while True:
            request = self._read(await connection.read_request())
            answers = self.watches if request.verb == "watch" else self.lists
            number = len(self.of(request.verb))
            self.asked.append(request)
            answer = answers[min(number, len(answers) - 1)]
            if self.authorize is not None and request.token not in self.authorize:
                answer = status(401, "Unauthorized", message="Unauthorized")
            try:
                await answer(connection)
            except _End:
                return

    @staticmethod
    def _read(message: Message) -> Request:
        method, target = message.start.decode().split(" ")[:2]
        url = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        verb = ("watch" if query.get("watch") in {"1", "true", "True"} else "list") if method == "GET" else method
        return Request(asyncio.get_running_loop().time(), verb, url.path, query, message)


def listing(version: int, *items: Json) -> Answer:
    """200 and a list."""
    return content({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": str(version)}, "items": list(items)})


def content(document: Any) -> Answer:
    """200 and this JSON (bytes: as they are)."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return raw(response(body=body, headers="Content-Type: application/json\r\n"))


def status(code: int, reason: str = "", *, message: str = "", retry_after: str = "") -> Answer:
    """A refusal with a Status object."""
    headers = "Content-Type: application/json\r\n" + (f"Retry-After: {retry_after}\r\n" if retry_after else "")
    body = json.dumps(failure(code, reason, message)).encode()
    return raw(response(f"{code} {reason or 'Refused'}", body, headers))


def failure(code: int, reason: str, message: str = "") -> Json:
    """A Status object."""
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message or reason}


def error(code: int, reason: str, message: str = "") -> Json:
    """An ERROR event."""
    return {"type": "ERROR", "object": failure(code, reason, message)}


def raw(data: bytes) -> Answer:
    """These bytes; the connection stays."""

    async def play(connection: Connection) -> None:
        await connection.send(data)

    return play


def no_answer() -> Answer:
    """Not a byte."""

    async def play(_: Connection) -> None:
        await asyncio.sleep(FOREVER)

    return play


def stream(*steps: Step) -> Answer:
    """200, and a chunk for each event or piece of bytes; then the last chunk."""

    async def play(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        for step in steps:
            if isinstance(step, Cut):
                if step.reset:
                    connection.reset()
                raise _End
            if isinstance(step, float):
                await asyncio.sleep(step)
                continue
            line = step if isinstance(step, bytes) else json.dumps(step).encode() + b"\n"
            await connection.send(b"%x\r\n%s\r\n" % (len(line), line))
        await connection.send(b"0\r\n\r\n")

    return play


def drip(line: bytes, *, pause: float) -> Answer:
    """A watch that sends one byte of a line at a time."""
    steps: list[Step] = []
    for byte in line:
        steps += [bytes([byte]), pause]
    return stream(*steps)


def event(kind: str, item: Mapping[str, Any]) -> Json:
    """A line of a watch."""
    return {"type": kind, "object": dict(item)}
