"""A reload under load: how soon a change is in force, and what it does to requests meanwhile. The sidecar only."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import time
from pathlib import Path

from bench.peers import MARKS, ROOT, Running, configuration, fill
from bench.scenarios import Figures, Wrong

RATE = 500
SETTLE = 2.0
LARGE = 1_040_000
"""Just below what a document may have."""
LIMIT = 20.0
SLICES = 10
"""For each second, in what the client of constant rate says."""


def reload(running: Running, origin: int, folder: Path) -> Figures:
    """One route, then 1 MiB of them, while requests come at a constant rate. Raises Wrong when one is not in force in time."""
    document = folder / f"{running.port}-{running.peer.config}"
    seconds = 4 * SETTLE + LIMIT / 4
    command = [sys.executable, "-m", "bench.pace", str(running.port), str(RATE), str(seconds)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as pacer:
        time.sleep(SETTLE)
        one_at = time.perf_counter() - began
        one = _in_force(running, document, document_with(running, origin, "one", 1))
        time.sleep(SETTLE)
        many_at = time.perf_counter() - began
        many = _in_force(running, document, document_with(running, origin, "many", LARGE))
        said, _ = pacer.communicate(timeout=60)
    paced = json.loads(said)
    if paced["wrong"] or paced["failed"]:
        raise Wrong(f"reload: {paced}")
    worst = paced["worst_ms_by_tenth"]
    first, second = int(one_at * SLICES), int(many_at * SLICES)
    quiet = max(worst[: first - 1])
    return {
        "one_s": one,
        "large_s": many,
        "one_slower_ms": max(0.0, max(worst[first:second]) - quiet),
        "large_slower_ms": max(0.0, max(worst[second:]) - quiet),
    }


def document_with(running: Running, origin: int, marker: str, size: int) -> str:
    """The sidecar's document with a route for /`marker` that answers by itself, and others until it has `size` bytes."""
    text = fill(configuration(running.peer, 1), {**MARKS, "@PORT@": str(running.port), "@ORIGIN@": str(origin)})
    redirect = "filters: [{type: RequestRedirect, requestRedirect: {statusCode: 302}}]"
    lines = [f"  - {{name: marker, listener: inbound, matches: [{{path: {{type: Exact, value: /{marker}}}}}], {redirect}}}\n"]
    grown = len(text)
    while grown < size:
        name = f"route-number-{len(lines):05d}-of-a-rather-large-document"
        path = f"/a/rather/long/path/of/which/there/are/many/{len(lines):05d}"
        line = f"  - {{name: {name}, listener: inbound, matches: [{{path: {{type: PathPrefix, value: {path}}}}}], backendRefs: [{{name: origin}}]}}\n"
        lines.append(line)
        grown += len(line)
    return text + "".join(lines)


def _in_force(running: Running, document: Path, text: str) -> float:
    """Seconds from the document's replacement until its marker answers."""
    marker = "/many" if "value: /many}" in text else "/one"
    fresh = document.with_suffix(".new")
    fresh.write_text(text)
    began = time.perf_counter()
    fresh.replace(document)
    while time.perf_counter() - began < LIMIT:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", marker)
            if connection.getresponse().status == 302:
                return time.perf_counter() - began
        time.sleep(0.005)
    raise Wrong(f"the document with {marker} was not in force within {LIMIT} s")
