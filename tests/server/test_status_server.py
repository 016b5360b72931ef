"""The status surface on the wire."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop
from support.client import RawClient
from test_listeners import until

from sidecar.server.lifecycle import Check
from sidecar.server.sockets import SocketAddress
from sidecar.server.status import Page, StatusServer, render_checks

GOOD = [Check("config", ok=True), Check("draining", ok=True)]
BAD = [Check("config", ok=False, detail="no valid document yet"), Check("draining", ok=True)]


async def metrics(accept: bytes, accept_encoding: bytes) -> Page:
    return b"text/fake; of=" + accept, (b"gzip" if accept_encoding == b"gzip" else None), b"m 1\n"


@asynccontextmanager
async def status() -> AsyncIterator[StatusServer]:
    server = StatusServer(
        SocketAddress("127.0.0.1", 0), {"/startupz": lambda: GOOD, "/readyz": lambda: BAD, "/livez": lambda: GOOD}, metrics
    )
    try:
        yield server
    finally:
        await server.aclose()


@asynccontextmanager
async def client() -> AsyncIterator[RawClient]:
    async with status() as server, await RawClient.open(server.address.port) as raw:
        yield raw


def test_a_probe_that_holds_says_200_ok() -> None:
    async def main() -> None:
        async with client() as raw:
            answer = await raw.request("/startupz")
            assert (answer.status, answer.body) == (200, b"ok\n")

    uvloop.run(main())


def test_a_probe_that_fails_says_503_and_one_line_per_failing_check() -> None:
    async def main() -> None:
        async with client() as raw:
            answer = await raw.request("/readyz")
            assert (answer.status, answer.body) == (503, b"[-] config: no valid document yet\n")

    uvloop.run(main())


def test_verbose_lists_every_check() -> None:
    assert render_checks(BAD, verbose=True) == (503, b"[-] config: no valid document yet\n[+] draining: ok\n")
    assert render_checks(GOOD, verbose=True) == (200, b"[+] config: ok\n[+] draining: ok\nok\n")


def test_the_word_verbose_in_the_query_asks_for_all() -> None:
    async def main() -> None:
        async with client() as raw:
            assert b"[+] draining: ok" in (await raw.request("/readyz?verbose")).body
            assert b"[+] draining: ok" not in (await raw.request("/readyz?verbosely")).body

    uvloop.run(main())


def test_head_has_the_length_of_get_and_no_body_and_the_connection_stays() -> None:
    async def main() -> None:
        async with client() as raw:
            answer = await raw.request("/startupz", method="HEAD")
            assert (answer.status, answer.get("content-length"), answer.body) == (200, "3", b"")
            assert (await raw.request("/livez")).status == 200

    uvloop.run(main())


@pytest.mark.parametrize("path", ["/", "/config", "/drain", "/readyz/", "/READYZ", "//readyz"])
def test_nothing_else_is_there(path: str) -> None:
    async def main() -> None:
        async with client() as raw:
            assert (await raw.request(path)).status == 404

    uvloop.run(main())


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_405_and_change_nothing(method: str) -> None:
    async def main() -> None:
        async with client() as raw:
            answer = await raw.request("/readyz", method=method)
            assert (answer.status, answer.get("allow")) == (405, "GET, HEAD")

    uvloop.run(main())


def test_a_request_with_a_body_is_answered_and_its_connection_closed() -> None:
    async def main() -> None:
        async with client() as raw:
            answer = await raw.request("/livez", body=b"hello")
            assert (answer.status, answer.get("connection")) == (200, "close")
            assert await raw.read_until_close() == b""

    uvloop.run(main())


def test_metrics_come_in_the_format_and_encoding_that_was_asked_for() -> None:
    async def main() -> None:
        async with client() as raw:
            answer = await raw.request("/metrics", headers="Accept: openmetrics\r\nAccept-Encoding: gzip\r\n")
            assert (answer.get("content-type"), answer.get("content-encoding"), answer.body) == (
                "text/fake; of=openmetrics",
                "gzip",
                b"m 1\n",
            )

    uvloop.run(main())


def test_bytes_that_are_no_request_get_400_and_the_connection_ends() -> None:
    async def main() -> None:
        async with client() as raw:
            await raw.send(b"GARBAGE\r\n\r\n")
            assert (await raw.read_response()).status == 400
            assert await raw.read_until_close() == b""

    uvloop.run(main())


def test_a_head_above_8_kib_is_431() -> None:
    async def main() -> None:
        async with client() as raw:
            assert (await raw.request("/livez", headers=f"X: {'a' * 9000}\r\n")).status == 431

    uvloop.run(main())


def test_pipelined_probes_are_answered_in_order() -> None:
    async def main() -> None:
        async with client() as raw:
            await raw.send(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
            assert [(await raw.read_response()).status for _ in range(2)] == [200, 503]

    uvloop.run(main())


def test_http_1_0_probes_are_answered_and_closed() -> None:
    async def main() -> None:
        async with client() as raw:
            await raw.send(b"GET /livez HTTP/1.0\r\n\r\n")
            assert (await raw.read_response()).status == 200
            assert await raw.read_until_close() == b""

    uvloop.run(main())


def test_closing_the_server_ends_its_connections() -> None:
    async def main() -> None:
        async with status() as server:
            raw = socket.create_connection(("127.0.0.1", server.address.port), timeout=5)
            await until(lambda: bool(server._owner.connections))
        assert await asyncio.to_thread(raw.recv, 1) == b""
        raw.close()

    uvloop.run(main())
