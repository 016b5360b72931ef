"""A client that sends bytes, not requests."""

from __future__ import annotations

import asyncio
from ssl import SSLContext
from typing import Self

from support.wire import DEFAULT_TIMEOUT, LIMIT, Message, Wire


class Response(Message):
    """A parsed response."""

    __slots__ = ()

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.start.split(b" ")[1])


class RawClient(Wire):
    """`async with await RawClient.open(port) as client:` then `send`, `read_*`, `half_close`, `reset`."""

    @classmethod
    async def open(
        cls, port: int, host: str = "127.0.0.1", *, timeout: float = DEFAULT_TIMEOUT, ssl: SSLContext | None = None, name: str = ""
    ) -> Self:
        """Connect over TCP, with TLS by `ssl` (SNI: `name`, else `host`); `timeout` (seconds) bounds every later read as well."""
        opening = asyncio.open_connection(host, port, limit=LIMIT, ssl=ssl, server_hostname=(name or host) if ssl else None)
        return cls(*await asyncio.wait_for(opening, timeout), timeout)

    @classmethod
    async def open_unix(cls, path: str, *, timeout: float = DEFAULT_TIMEOUT) -> Self:
        """Connect to a unix socket."""
        return cls(*await asyncio.wait_for(asyncio.open_unix_connection(path, limit=LIMIT), timeout), timeout)

    async def read_response(self, *, to: str = "GET") -> Response:
        """The next response, interim ones included, with its body (none for HEAD, 1xx, 204, 304, 2xx to CONNECT).

        A body without framing fields ends with the stream. Raises asyncio.IncompleteReadError when it is cut.
        """
        head = await self.read_head()
        answer = Response(head.start, head.fields)
        tunnel = to == "CONNECT" and answer.status // 100 == 2
        if to == "HEAD" or tunnel or answer.status < 200 or answer.status in (204, 304):
            return answer
        if answer.get("content-length") is None and answer.get("transfer-encoding") is None:
            answer.body = await self.read_until_close()
            return answer
        await self.read_body(answer)
        return answer

    async def request(
        self, target: str = "/", *, method: str = "GET", headers: str = "", body: bytes = b"", host: str = "test"
    ) -> Response:
        """Send one plain request and read its answer; `headers` are whole lines, each with its CRLF."""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        await self.send(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{length}{headers}\r\n".encode() + body)
        return await self.read_response(to=method)
