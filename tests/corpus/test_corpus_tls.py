"""The corpus through TLS on both sides of a real sidecar: a message means the same, whatever carries it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from corpus_data import Vector, load
from corpus_requests import Catcher, play
from corpus_requests import Lane as RequestLane
from corpus_requests import deliveries as request_deliveries
from corpus_responses import Lane as ResponseLane
from corpus_responses import Speaker
from corpus_responses import deliveries as response_deliveries
from corpus_responses import play as play_response
from support import Sidecar
from support.tls import CA, LOCAL, client, server, write

pytestmark = pytest.mark.timeout(600)
TOGETHER = 4
"""Lanes beside each other; more would only wait for the one sidecar."""
WRITTEN = [vector for vector in load("requests") if not vector.generated and vector.expected.get("setting") is None]
CARRIED = [
    vector
    for vector in WRITTEN
    if not vector.expected.get("fin")
    and vector.expected.get("then") in (None, "keep", "close")
    and not any("Host: app\r" in text for text in vector.expected.get("forward", []))  # the name of an upstream, which is another one here
]
"""TLS cannot end one direction alone (RFC 8446 section 6.1 allows it, OpenSSL and asyncio do not do it)."""


class _Encrypted(Catcher):
    """A catcher behind TLS: what says that the client spoke TLS reads as if it had not, since the corpus says so."""

    def begin(self, replies: list[bytes]) -> None:
        super().begin(replies)
        self.whole = _Plain()


class _Plain(list[bytes]):
    def append(self, message: bytes) -> None:
        super().append(message.replace(b"X-Forwarded-Proto: https\r\n", b"X-Forwarded-Proto: http\r\n", 1))


@asynccontextmanager
async def _sidecar(folder: Path, *ports: int) -> AsyncIterator[tuple[Sidecar, list[int]]]:
    """One process with a TLS listener for each upstream, which speaks TLS as well."""
    files = write(folder, local=LOCAL, ca=CA)
    listener = {"certFile": files["local.crt"], "keyFile": files["local.key"]}
    tls = {"caCertificateRefs": [{"file": files["ca.crt"]}], "wellKnownCACertificates": "None"}
    names = [f"lane{number}" for number in range(len(ports))]
    document: dict[str, Any] = {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "SidecarConfig",
        "listeners": [{"name": name, "port": 0, "bind": "127.0.0.1", "mode": "Reverse", "tls": listener} for name in names],
        "upstreams": [
            {"name": name, "targets": [{"url": f"https://127.0.0.1:{port}"}], "tls": tls} for name, port in zip(names, ports, strict=True)
        ],
        "routes": [{"name": name, "listener": name, "backendRefs": [{"name": name}]} for name in names],
    }
    async with Sidecar(document) as running:
        yield running, [running.port(name) for name in names]


def test_a_request_means_the_same_through_tls(tmp_path: Path) -> None:
    async def main() -> list[str]:
        problems: list[str] = []

        async def work(lane: RequestLane, vectors: list[Vector]) -> None:
            problems.extend([wrong for vector in vectors if (wrong := await play(lane, vector, next(request_deliveries(vector))))])

        catchers = [_Encrypted(server()) for _ in range(TOGETHER)]
        async with catchers[0], catchers[1], catchers[2], catchers[3]:
            async with Catcher() as nobody, _sidecar(tmp_path, *[one.port for one in catchers]) as (_, ports):
                lanes = [RequestLane(one, nobody, port, ssl=client()) for one, port in zip(catchers, ports, strict=True)]
                await asyncio.gather(*[work(lane, CARRIED[number::TOGETHER]) for number, lane in enumerate(lanes)])
        return problems

    assert uvloop.run(main()) == []
    assert len(CARRIED) > 600


def test_a_response_means_the_same_through_tls(tmp_path: Path) -> None:
    vectors = [vector for vector in load("responses") if not vector.generated]

    async def main() -> list[str]:
        problems: list[str] = []

        async def work(lane: ResponseLane, some: list[Vector]) -> None:
            problems.extend([wrong for vector in some if (wrong := await play_response(lane, vector, next(response_deliveries(vector))))])

        speakers = [Speaker(server()) for _ in range(TOGETHER)]
        async with speakers[0], speakers[1], speakers[2], speakers[3]:
            async with _sidecar(tmp_path, *[one.port for one in speakers]) as (_, ports):
                lanes = [ResponseLane(port, one, client()) for one, port in zip(speakers, ports, strict=True)]
                await asyncio.gather(*[work(lane, vectors[number::TOGETHER]) for number, lane in enumerate(lanes)])
        return problems

    assert uvloop.run(main()) == []
