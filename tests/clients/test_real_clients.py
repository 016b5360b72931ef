"""Clients that people use, through the data plane: curl, httpx, aiohttp."""

from __future__ import annotations

import asyncio
import io
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import uvloop
from support import ScriptedUpstream, response
from support.engine import Engine, upstream
from support.upstream import Connection

from sidecar.model.snapshot import AllowEntry

MIB = 1024 * 1024
LOOPBACK = {"allow": (AllowEntry(host=None, network=ip_network("127.0.0.0/8"), ports=None),)}
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")


async def echoes(connection: Connection) -> None:
    """Answers with the request's body, and says in fields what the request was."""
    while True:
        head = await connection.read_head()
        if (head.get("expect") or "").lower() == "100-continue":
            await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        request = await connection.read_body(head)
        connection.requests.append(request)
        line = request.start.decode()
        trailers = ";".join(f"{name.decode()}={value.decode()}" for name, value in request.trailers)
        fields = (
            f"x-line: {line}\r\nx-coding: {request.get('transfer-encoding') or request.get('content-length')}\r\nx-trailers: {trailers}\r\n"
        )
        if request.start.startswith(b"HEAD"):
            await connection.send(f"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n{fields}\r\n".encode())
        elif b"/chunked" in request.start:
            await connection.send(response(headers=fields, chunks=[request.body[i : i + 1000] for i in range(0, len(request.body), 1000)]))
        else:
            await connection.send(response(body=request.body, headers=fields))


@asynccontextmanager
async def playing() -> AsyncIterator[tuple[Engine, ScriptedUpstream]]:
    async with ScriptedUpstream(echoes) as server, Engine(upstream(server.port), outbound=LOOPBACK) as engine:
        yield engine, server


async def curl(*arguments: str, stdin: bytes = b"") -> str:
    command = ["curl", "--silent", "--show-error", "--include", "--max-time", "10", "--noproxy", "none.test", *arguments]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    out, error = await process.communicate(stdin)
    assert process.returncode == 0, (process.returncode, error)
    return out.decode("latin-1")


@needs_curl
def test_curl_get_post_head_put() -> None:
    async def main() -> None:
        async with playing() as (engine, _):
            url = f"http://127.0.0.1:{engine.port()}"
            assert "x-line: GET /a?b=%2F HTTP/1.1\r\n" in await curl(f"{url}/a?b=%2F")
            assert (await curl(f"{url}/", "--data", "hello")).endswith("\r\n\r\nhello")
            head = await curl(f"{url}/", "--head")
            assert "Content-Length: 5" in head
            assert head.endswith("\r\n\r\n")
            assert "x-line: DELETE / HTTP/1.1" in await curl(f"{url}/", "--request", "DELETE")

    uvloop.run(main())


@needs_curl
def test_curl_uploads_a_stream_in_chunks_and_files_with_expect(tmp_path: Path) -> None:
    data = bytes(range(256)) * 8192
    file = tmp_path / "upload"
    file.write_bytes(data)

    async def main() -> None:
        async with playing() as (engine, server):
            url = f"http://127.0.0.1:{engine.port()}"
            assert "x-coding: chunked" in await curl(f"{url}/stream", "--upload-file", "-", stdin=data)
            answer = await curl(f"{url}/file", "--upload-file", str(file), "--header", "Expect: 100-continue")
            assert answer.startswith("HTTP/1.1 100 Continue\r\n")
            assert f"x-coding: {len(data)}" in answer
            assert [request.body for request in server.requests] == [data, data]

    uvloop.run(main())


@needs_curl
def test_curl_speaks_http_1_0() -> None:
    """A chunked answer reaches it as one that ends with the connection."""

    async def main() -> None:
        async with playing() as (engine, _):
            answer = await curl(f"http://127.0.0.1:{engine.port()}/chunked", "--http1.0", "--data", "x" * 3000)
            assert "transfer-encoding" not in answer.lower()
            assert answer.endswith("\r\n\r\n" + "x" * 3000)

    uvloop.run(main())


@needs_curl
def test_curl_keeps_its_connection() -> None:
    async def main() -> None:
        async with playing() as (engine, server):
            url = f"http://127.0.0.1:{engine.port()}"
            command = ["curl", "-sS", "--max-time", "10", "--write-out", "%{num_connects}\n", "--output", "/dev/null", f"{url}/1"]
            for number in (2, 3):
                command += ["--next", "-sS", "--write-out", "%{num_connects}\n", "--output", "/dev/null", f"{url}/{number}"]
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            out, _ = await process.communicate()
            assert out.split() == [b"1", b"0", b"0"]
            assert len(server.connections) == 1

    uvloop.run(main())


@needs_curl
def test_curl_through_the_forward_listener_plain_and_by_connect() -> None:
    async def main() -> None:
        async with playing() as (engine, server):
            proxy, url = f"http://127.0.0.1:{engine.port('outbound')}", f"http://127.0.0.1:{server.port}"
            assert (await curl(f"{url}/plain", "--proxy", proxy, "--data", "hello")).endswith("hello")
            answer = await curl(f"{url}/tunnel", "--proxy", proxy, "--proxytunnel", "--data", "hello")
            assert answer.startswith("HTTP/1.1 200 Connection Established\r\n")
            assert answer.endswith("hello")
            assert [request.start for request in server.requests] == [b"POST /plain HTTP/1.1", b"POST /tunnel HTTP/1.1"]
            assert server.requests[1].get("via") is None, "nobody looks into a tunnel"
            await engine.seen.last(2)
            assert [exchange.tunnel for exchange in engine.seen.finished] == ["", "connect"]

    uvloop.run(main())


@needs_curl
def test_curl_shows_trailers() -> None:
    async def main() -> None:
        async def script(connection: Connection) -> None:
            while True:
                await connection.read_request()
                await connection.send(
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n"
                )

        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            answer = await curl(
                f"http://127.0.0.1:{engine.port()}/", "--dump-header", "-", "--output", "/dev/null", "--header", "TE: trailers"
            )
            assert "x-sum: 42" in answer

    uvloop.run(main())


def test_httpx_streams_both_ways_and_pools() -> None:
    pieces = [bytes([number]) * 70_000 for number in range(20)]

    async def source() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def main() -> None:
        async with (
            playing() as (engine, server),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{engine.port()}", trust_env=False) as client,
        ):
            answer = await client.post("/chunked", content=source())
            assert answer.content == b"".join(pieces)
            answers = await asyncio.gather(*(client.put(f"/{number}", content=b"%d" % number) for number in range(50)))
            assert [one.content for one in answers] == [b"%d" % number for number in range(50)]
            assert (await client.head("/")).headers["content-length"] == "5"
            assert server.requests[0].get("x-forwarded-for") == "127.0.0.1"

    uvloop.run(main())


def test_httpx_through_the_forward_listener() -> None:
    async def main() -> None:
        async with playing() as (engine, server):
            proxy = f"http://127.0.0.1:{engine.port('outbound')}"
            async with httpx.AsyncClient(proxy=proxy, trust_env=False) as client:
                assert (await client.post(f"http://127.0.0.1:{server.port}/", content=b"hello")).content == b"hello"
                assert (await client.get("http://192.0.2.1/")).status_code == 403

    uvloop.run(main())


def _session(*arguments: str) -> aiohttp.ClientSession:
    """Without the resolver that keeps a thread for ever."""
    return aiohttp.ClientSession(*arguments, connector=aiohttp.TCPConnector(resolver=aiohttp.ThreadedResolver()))


def test_aiohttp_posts_streams_and_reads_errors() -> None:
    data = b"z" * 3 * MIB

    async def main() -> None:
        async with playing() as (engine, _), _session(f"http://127.0.0.1:{engine.port()}") as session:
            async with session.post("/chunked", data=io.BytesIO(data)) as answer:
                assert await answer.read() == data
            async with session.post("/", data=io.BytesIO(data), expect100=True) as answer:
                assert await answer.read() == data
            async with session.request("TRACE", "/") as answer:
                problem: dict[str, Any] = await answer.json(content_type="application/problem+json")
                assert (answer.status, problem["reason"]) == (405, "http_request_denied")
        await asyncio.sleep(0)

    uvloop.run(main())


def test_an_aiohttp_client_that_leaves_cancels_the_upstream() -> None:
    async def main() -> None:
        async def script(connection: Connection) -> None:
            await connection.read_request()
            await connection.read_until_close()

        async with ScriptedUpstream(script) as server, Engine(upstream(server.port)) as engine:
            async with _session() as session:
                asking = asyncio.ensure_future(session.get(f"http://127.0.0.1:{engine.port()}/"))
                await server.connection(0)
                asking.cancel()  # as its own timeouts do
                with pytest.raises(asyncio.CancelledError):
                    await asking
            await asyncio.wait_for((await server.connection(0)).ended.wait(), 30)
            assert (await engine.seen.last()).status == 499

    uvloop.run(main())
