"""Certificates that change under load: what a client shows and what a listener shows, many times, and every request that fails."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from pathlib import Path
from typing import NamedTuple

from bench import peers
from bench.peers import Peer
from bench.tls_load import context, make_pair, one_answer, request

KEPT, PER_CONNECTION = 8, 50
"""Clients at once that ask so much on a connection; as many others have one for each request."""
ROTATIONS = 8
SEEN_WITHIN = 20.0


class Rotated(NamedTuple):
    """`requests` were answered with 200, `failed` were not; `seen`: certificates of the listener that clients were shown."""

    requests: int
    failed: int
    rotations: int
    seen: int


DOCUMENT = """
apiVersion: outrider.dev/v1alpha1
kind: SidecarConfig
listeners:
  - {{name: inbound, port: @PORT@, bind: 127.0.0.1, mode: Reverse, tls: {{certFile: {folder}/shown.crt, keyFile: {folder}/shown.key}}}}
upstreams:
  - name: origin
    targets: [{{url: "https://127.0.0.1:@ORIGIN@"}}]
    tls:
      caCertificateRefs: [{{file: {folder}/pair.crt}}]
      wellKnownCACertificates: None
      clientCertificateRef: {{certFile: {folder}/shown.crt, keyFile: {folder}/shown.key}}
"""


def rotate_under_load(peer: Peer, origin: int, folder: Path) -> Rotated:
    """Both sides' certificate is another one, `ROTATIONS` times, while requests come on kept and on new connections."""
    for number in range(ROTATIONS + 1):
        make_pair(folder / f"rotation{number}")
    _show(folder, 0)
    (folder / "rotation.yaml").write_text(DOCUMENT.format(folder=folder))
    changed = Peer(peer.name, peer.version, str(folder / "rotation.yaml"), peer.command, peer.folder)
    with peers.started(changed, origin, folder, context()) as running:
        return asyncio.run(_run(running.port, folder))


def _show(folder: Path, number: int) -> None:
    """As careful tools write: new files, renamed over the old ones, the key first."""
    for kind in ("key", "crt"):
        new = folder / f"shown.{kind}.new"
        new.write_bytes((folder / f"rotation{number}.{kind}").read_bytes())
        new.rename(folder / f"shown.{kind}")


async def _run(port: int, folder: Path) -> Rotated:
    ended, seen = asyncio.Event(), Seen()
    counts = {"good": 0, "failed": 0}
    clients = [asyncio.ensure_future(_client(port, size, ended, seen, counts)) for size in (PER_CONNECTION, 1) for _ in range(KEPT)]
    for number in range(1, ROTATIONS + 1):
        _show(folder, number)
        wanted = hashlib.sha256(ssl.PEM_cert_to_DER_cert((folder / f"rotation{number}.crt").read_text())).hexdigest()
        async with asyncio.timeout(SEEN_WITHIN):
            await seen.wait_for(wanted)
    ended.set()
    await asyncio.gather(*clients)
    return Rotated(counts["good"], counts["failed"], ROTATIONS, len(seen.digests))


class Seen:
    """The certificates that clients were shown."""

    def __init__(self) -> None:
        self.digests: set[str] = set()
        self._more = asyncio.Event()

    def add(self, certificate: bytes) -> None:
        self.digests.add(hashlib.sha256(certificate).hexdigest())
        self._more.set()

    async def wait_for(self, digest: str) -> None:
        while digest not in self.digests:
            self._more.clear()
            await self._more.wait()


async def _client(port: int, size: int, ended: asyncio.Event, seen: Seen, counts: dict[str, int]) -> None:
    asked = request(2)
    while not ended.is_set():
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context())
            seen.add(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
            for _ in range(size):
                writer.write(asked)
                await one_answer(reader, 2)
                counts["good"] += 1
            writer.close()
        except (OSError, RuntimeError, asyncio.IncompleteReadError):
            counts["failed"] += 1
