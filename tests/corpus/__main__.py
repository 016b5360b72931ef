"""`PYTHONPATH=tests:. python tests/corpus`: prints the figures of the corpus, also how many hostile messages others take."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import uvloop
from corpus_data import load
from corpus_peers import NAMES, SENTINEL, Peer, present, read_by_llhttp, running, say
from corpus_requests import deliveries as request_deliveries
from corpus_requests import statuses
from corpus_responses import deliveries as response_deliveries
from test_corpus_differential import READ_AS_SENTINEL, _accepted

HOSTILE = [
    vector
    for vector in load("requests")
    if not vector.expected.get("forward")
    and statuses(vector) in ([400], [501], [505])
    and vector.expected.get("setting") in (None, "plain")
]


def main() -> None:
    """Count vectors and deliveries; play the hostile ones to every peer that is here."""
    for kind, vectors, deliveries in (
        ("requests", load("requests"), request_deliveries),
        ("responses", load("responses"), response_deliveries),
    ):
        written = sum(not vector.generated for vector in vectors)
        print(
            f"{kind}: {len(vectors)} vectors, {written} written one by one, {sum(1 for one in vectors for _ in deliveries(one))} deliveries"
        )
    ours = uvloop.run(_accepted())
    print(f"accepted by us: {len(ours)} requests; refused with 400, 501 or 505: {len(HOSTILE)}, of which take")
    took = sum(bool(read_by_llhttp(vector.data)) and read_by_llhttp(vector.data) != [READ_AS_SENTINEL] for vector in HOSTILE)
    print(f"  llhttp (strict): {took}")
    for name in filter(present, NAMES):
        with tempfile.TemporaryDirectory() as folder, running(name, Path(folder)) as peer:
            print(f"  {name}: {asyncio.run(_taken(peer))}", flush=True)


async def _taken(peer: Peer) -> int:
    """How many hostile messages reach the peer's origin as a request of any kind before the sentinel."""
    count = 0
    for vector in HOSTILE:
        peer.origin.read.clear()
        await say(peer.port, vector.data + SENTINEL)
        count += bool(peer.origin.read) and peer.origin.read != [READ_AS_SENTINEL]
    return count


if __name__ == "__main__":
    main()
