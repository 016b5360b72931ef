"""The corpus against what a real sidecar serves about itself: nothing hostile is answered as a request, and nothing hidden takes effect."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterator

import pytest
from corpus_data import Vector, load
from corpus_requests import keeps, statuses
from corpus_wire import talk
from support import RawClient, Sidecar
from support.documents import one_upstream

pytestmark = pytest.mark.timeout(600)
TOGETHER = 16
HOSTILE = [
    vector
    for vector in load("requests")
    if not vector.generated
    and statuses(vector) in ([400], [501], [505], [414], [431])
    and vector.expected.get("setting") is None
    and not keeps(vector)
]
IN_HEADS = [vector for vector in HOSTILE if not vector.expected.get("partial")]
ALWAYS_READY = b"GET /startupz HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def sidecar() -> Iterator[Sidecar]:
    with Sidecar(one_upstream(9)) as running:
        yield running


async def _heard(port: int, vectors: list[Vector]) -> list[tuple[Vector, bytes, str]]:
    found = []
    for start in range(0, len(vectors), TOGETHER):
        some = vectors[start : start + TOGETHER]
        answers = await asyncio.gather(*[talk(port, [vector.data + ALWAYS_READY]) for vector in some])
        found += [(vector, answer.data, answer.ended) for vector, answer in zip(some, answers, strict=True)]
    return found


def test_the_status_port_refuses_every_hostile_head_and_reads_nothing_behind_it(sidecar):
    problems = []
    for vector, data, ended in asyncio.run(_heard(sidecar.status_port, IN_HEADS)):
        if ended == "hangs" or b"\r\n\r\nok" in data or data[9:10] not in (b"4", b"5"):
            problems.append(f"{vector}: {ended} {data[:200]!r}")
    assert problems == []
    assert len(IN_HEADS) > 300


@pytest.mark.parametrize("port", ["status_port", "admin_port"])
@pytest.mark.parametrize(
    "target",
    ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc/passwd", "/static/../guard.py", "/page/../../app.py", "//etc/passwd", "/.%00/", "/\\..\\x", "/config/../../x"],
)  # fmt: skip
def test_no_path_leads_to_a_file(sidecar, port, target):
    async def main() -> tuple[int, bytes]:
        async with await RawClient.open(getattr(sidecar, port)) as client:
            answer = await client.request(target, host="localhost")
            return answer.status, answer.body

    status, body = asyncio.run(main())
    assert status in (400, 404)
    assert b"root:" not in body
    assert b"import" not in body


HIDDEN = b"POST /quitquitquit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"


def _with(start: bytes, lines: bytes = b"Host: localhost\r\n") -> bytes:
    """A request whose body is another request."""
    return start + b" HTTP/1.1\r\n" + lines + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN


def _behind(lines: bytes) -> bytes:
    """A request that must be refused, and another behind it."""
    return b"GET /version HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n" + HIDDEN


CHUNK = b"PUT /log-level HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (_with(b"GET /version"), "RFC 9112 6.3: as the body of a GET"),
        (_with(b"PUT /log-level"), "RFC 9112 6.3: as the body of a PUT"),
        (CHUNK, "RFC 9112 7.1: as a chunk"),
        (_with(b"PUT /log-level", b"Host: evil.test\r\n"), "as the body of what DNS rebinding sends"),
        (_with(b"POST /drain", b"Host: localhost\r\nOrigin: http://evil\r\n"), "as the body of what another site sends"),
        (_with(b"POST /drain", b"Host: localhost\r\nOrigin: null\r\n"), "as the body of what a sandboxed frame sends"),
        (_with(b"GET /nothing"), "as the body for a page that is not there"),
        (_with(b"DELETE /version"), "as the body of a method that is refused"),
        (_behind(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), "RFC 9112 6.1: behind two kinds of length"),
        (_behind(b"Transfer-Encoding: gzip\r\n"), "RFC 9112 6.1: behind a coding that is unknown"),
        (_behind(b"Content-Length: 0\r\nContent-Length: 99\r\n"), "RFC 9112 6.3: behind two lengths"),
        (_behind(b"X: a\n\r\n"), "RFC 9112 2.2: behind a bare line feed"),
        (b"GARBAGE\x00\r\n\r\n" + HIDDEN, "behind garbage"),
    ],
)
def test_a_request_that_is_hidden_in_another_has_no_effect_on_the_admin_surface(sidecar, data, why):
    async def main() -> bytes:
        answer = await talk(sidecar.admin_port, [data], fin=True)
        assert answer.ended != "hangs", why
        async with await RawClient.open(sidecar.admin_port) as client:
            assert (await client.request("/version", host="localhost")).status == 200
        return answer.data

    heard = asyncio.run(main())
    assert b"stopping" not in heard, why
    assert sidecar.process.poll() is None, why
    assert sidecar.events("draining") == [], why


def _body(body: bytes, lines: bytes = b"") -> bytes:
    return b"PUT /log-level HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%bContent-Length: %d\r\n\r\n%b" % (lines, len(body), body)


BOMB = gzip.compress(bytes(32 * 1024 * 1024))


@pytest.mark.parametrize(
    "data",
    [
        _body(b"[" * 60_000),
        _body(b'{"level":' * 6_000),
        _body(b"abc", b"Content-Encoding: gzip\r\n"),
        _body(b"abc", b"Content-Encoding: br\r\n"),
        _body(BOMB, b"Content-Encoding: gzip\r\n"),
        _body(b"abc", b"Content-Encoding: gzip\r\n").replace(b"PUT /log-level", b"GET /version"),
        _body(b'{"level": "\xff\xfe"}'),
        _body(b'{"level": 1e999999}'),
    ],
    ids=["brackets", "braces", "no gzip", "no br", "bomb", "no gzip for a GET", "no UTF-8", "a number"],
)
def test_a_hostile_body_for_the_admin_surface_is_answered_and_costs_no_traceback(sidecar, data):
    async def main() -> bytes:
        return (await talk(sidecar.admin_port, [data])).data

    answer = asyncio.run(main())
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ") if data.startswith(b"PUT") else b"HTTP/1.1 200 ")
    assert not [line for line in sidecar.lines if "Traceback" in line]
