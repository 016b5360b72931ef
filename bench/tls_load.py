"""What the clients of the TLS benchmark do; `python -m bench.tls_load KIND PORT` does one kind of it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import uvloop

from bench.machine import rss_bytes
from bench.peers import Running

REQUESTS, CONNECTIONS = 4000, 32
HANDSHAKES = 400
LONG, LONGS = 10 * 1024 * 1024, 20
HELD = 500
_MAKE = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=bench -addext subjectAltName=DNS:bench,IP:127.0.0.1 -keyout {0}.key -out {0}.crt"


def make_pair(path: Path) -> None:
    """PATH.crt and PATH.key: P-256, for 127.0.0.1 and `bench`, signed by itself."""
    subprocess.run(_MAKE.format(path).split(), check=True, capture_output=True)


def context() -> ssl.SSLContext:
    """Of the client: it measures, it does not verify."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    return made


def request(size: int) -> bytes:
    return f"GET /bytes/{size} HTTP/1.1\r\nHost: origin.test\r\nUser-Agent: bench\r\n\r\n".encode()


async def one_answer(reader: asyncio.StreamReader, size: int) -> bytes:
    """The head of an answer with so long a body. Raises RuntimeError when it is not what it should be."""
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head[:16]:
        raise RuntimeError(f"an answer was not what it should be: {head[:80]!r}")
    left = size
    while left:
        piece = await reader.read(min(left, 1 << 18))
        if not piece:
            raise RuntimeError("an answer was cut")
        left -= len(piece)
    return head


async def one_connection(port: int, size: int, count: int, tls: ssl.SSLContext | None) -> list[bytes]:
    """The heads of so many answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    asked = request(size)
    heads = []
    for _ in range(count):
        writer.write(asked)
        heads.append(await one_answer(reader, size))
    writer.close()
    return heads


def requests(port: int, size: int, count: int, connections: int, *, tls: bool) -> list[bytes]:
    """So many requests over so many kept connections; the heads of their answers."""

    async def main() -> list[bytes]:
        made = context() if tls else None
        each = await asyncio.gather(*(one_connection(port, size, count // connections, made) for _ in range(connections)))
        return [head for heads in each for head in heads]

    return uvloop.run(main())


def handshakes(port: int, count: int, *, resumed: bool) -> None:
    """One request on each of so many connections, one after the other."""
    made = context()
    session: ssl.SSLSession | None = None
    for number in range(count):
        with (
            socket.create_connection(("127.0.0.1", port), 10) as raw,
            made.wrap_socket(raw, session=session if resumed else None) as secured,
        ):
            secured.sendall(request(2))
            answer = secured.recv(4096)
            if b" 200 " not in answer[:16] or (resumed and number > 0 and not secured.session_reused):
                raise RuntimeError(f"not as it should be: {answer[:40]!r}, resumed {secured.session_reused}")
            session = secured.session


def upstream_handshakes(port: int, count: int, *, resumed: bool) -> None:
    """So many requests, one after the other, each of which makes the proxy shake hands with its upstream.

    Several at once would find no session to resume at Envoy, which keeps one, for one use.
    """
    heads = requests(port, 2, count, 1, tls=False)
    reused = sum(b"X-Resumed: r" in head or b"x-resumed: r" in head for head in heads)
    if (reused < 0.9 * count) if resumed else reused:
        raise RuntimeError(f"{reused} of {count} handshakes were resumed")


def memory(running: Running, count: int) -> float:
    """KiB of resident memory for each of so many idle connections that have had one answer."""
    before = rss_bytes(running.pid)
    held = []
    made = context()
    for _ in range(count):
        secured = made.wrap_socket(socket.create_connection(("127.0.0.1", running.port), 10))
        secured.sendall(request(2))
        secured.recv(4096)
        held.append(secured)
    grown = rss_bytes(running.pid) - before
    for secured in held:
        secured.close()
    return grown / count / 1024


WORK: dict[str, tuple[int, Callable[[int], object]]] = {
    "GET of 1 KiB on a kept connection": (REQUESTS, lambda port: requests(port, 1024, REQUESTS, CONNECTIONS, tls=True)),
    "full handshake and one request": (HANDSHAKES, lambda port: handshakes(port, HANDSHAKES, resumed=False)),
    "resumed handshake and one request": (HANDSHAKES, lambda port: handshakes(port, HANDSHAKES, resumed=True)),
    "download of 10 MiB": (LONGS, lambda port: requests(port, LONG, LONGS, 2, tls=True)),
    "plain": (REQUESTS, lambda port: requests(port, 1024, REQUESTS, CONNECTIONS, tls=False)),
    "upstream, full handshakes": (HANDSHAKES, lambda port: upstream_handshakes(port, HANDSHAKES, resumed=False)),
    "upstream, resumed handshakes": (HANDSHAKES, lambda port: upstream_handshakes(port, HANDSHAKES, resumed=True)),
}
"""By kind: how many requests it is, and what does them at a port."""


if __name__ == "__main__":
    WORK[sys.argv[1]][1](int(sys.argv[2]))
