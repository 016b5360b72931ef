"""As many idle connections as a process may have descriptors, beside the peers; a section of docs/bounds.md.

`python -m bench.idle [--only outrider,nginx] [--idle SECONDS]` prints it, and writes it unless `--only` is given. The crowd comes from several processes and addresses, for each of them
has the same limit. Every client has had one answer and waits; an honest one goes on asking; then `idle` seconds pass and the proxy
should have closed them all.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from bench import machine, peers
from bench.honest import Honest, Look, descriptors
from bench.peers import Peer, Running
from bench.scenarios import MIB

DOCUMENT = peers.ROOT / "docs" / "bounds.md"
HEADING = "\n## As many idle connections"
IDLE_SECONDS = 30
"""Above what it takes to bring all of them up on a busy machine: the first must not be over before the last has come."""
LATE_SECONDS = 15
GENERATORS = 2


class Trial(NamedTuple):
    """One proxy, as it is started for this."""

    name: str
    peer: Peer
    marks: dict[str, str]
    crowd: int


def trials(chosen: list[Peer], idle: int) -> list[Trial]:
    """One process with nearly as many connections as it may have descriptors, then 20,000 over two."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    marks = {"@IDLE@": f"{idle}s", "@SECONDS@": str(idle), "@CONNECTIONS@": str(limit - 200), "@CLIENTS@": str(limit - 200)}
    one = [Trial(peer.name, peer, marks, min(limit - 1000, 20_000)) for peer in chosen if peer.config != "none"]
    two = []
    for peer in chosen:
        if peer.name == "nginx":
            two.append(Trial("nginx, 2 processes", peer, {**marks, "@PROCESSES@": "2"}, 20_000))
        elif peer.name == peers.OURS:
            two.append(Trial(f"{peer.name} --workers 2", replace(peer, command=(*peer.command, "--workers=2")), marks, 20_000))
    return one + two


def crowd(running: Running, count: int, seconds: float) -> list[subprocess.Popen[str]]:
    """`count` clients from several processes, each of them at an address of its own."""
    share = count // GENERATORS
    return [
        subprocess.Popen(
            [sys.executable, "-m", "bench.crowds", "idle", str(running.port), str(share), str(seconds), f"127.0.0.{2 + number}"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=peers.ROOT,
        )
        for number in range(GENERATORS)
    ]


def added(lines: list[str]) -> dict[str, Any]:
    """What all generators say, together."""
    found = [json.loads(line.removeprefix("up ")) for line in lines]
    statuses: Counter[str] = sum((Counter(one["statuses"]) for one in found), Counter())
    return {"opened": sum(one["opened"] for one in found), "ended": sum(one["ended"] for one in found), "statuses": dict(statuses)}


def measure(running: Running, count: int, idle: int) -> dict[str, Any]:
    """One proxy."""
    before = machine.rss_bytes(running.pid)
    began = time.monotonic()
    with Look(running.pid) as look, Honest(running.port) as honest:
        generators = crowd(running, count, idle + LATE_SECONDS)
        try:
            there = added([one.stdout.readline() for one in generators if one.stdout is not None])
            up_seconds = time.monotonic() - began
            held, rss = descriptors(running.pid), machine.rss_bytes(running.pid)
            final = added([one.communicate(timeout=idle + 120)[0].strip() for one in generators])
        finally:
            for one in generators:
                one.kill()
                one.wait()
    return {
        "up_seconds": up_seconds,
        "before_mib": before / MIB,
        "rss_mib": rss / MIB,
        "peak_mib": look.rss / MIB,
        "fds": held,
        "peak_fds": look.descriptors,
        "after_fds": descriptors(running.pid),
        "there": there,
        "final": final,
        "asked": honest.asked,
        "answered": honest.answered,
    }


def run(chosen: list[Peer], idle: int = IDLE_SECONDS) -> dict[str, dict[str, Any]]:
    """Every trial."""
    figures: dict[str, dict[str, Any]] = {}
    for trial in trials(chosen, idle):
        with (
            tempfile.TemporaryDirectory(prefix="outrider-idle-") as folder,
            peers.origin() as port,
            peers.started(trial.peer, port, Path(folder), marks=trial.marks) as running,
        ):
            found = measure(running, trial.crowd, idle)
        figures[trial.name] = {"crowd": trial.crowd, **found}
        print(f"  {trial.name:22} {json.dumps(figures[trial.name])}", flush=True)
    return figures


def section(figures: dict[str, dict[str, Any]], idle: int = IDLE_SECONDS) -> list[str]:
    """Of the page."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    lines = [
        "",
        f"## As many idle connections as a process may have descriptors: {limit:,}",
        "",
        (
            f"19,000 clients at one process, then 20,000 at two, from {GENERATORS} processes and addresses. Each has had one answer and waits. *Held*: open when all had come. "
            f"*Over*: ended by the proxy {idle} s later, where its idle time-out is {idle} s. "
            "Outrider keeps a part of its descriptors free for requests ([overload](reference.md#overload)): from 85 % on those that have idled longest are "
            "closed down to 81 %. The machine was shared: no times."
        ),
        "",
        "| | clients | statuses | held | MiB before | with them | KiB for each | descriptors | after | answered meanwhile | over |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in figures.items():
        held = one["there"]["opened"] - one["there"]["ended"]
        each = (one["rss_mib"] - one["before_mib"]) * 1024 / max(held, 1)
        statuses = ", ".join(f"{count} x {status}" for status, count in sorted(one["final"]["statuses"].items()))
        lines.append(
            f"| {name} | {one['crowd']} | {statuses} | {held} | {one['before_mib']:.0f} | {one['rss_mib']:.0f} | {each:.1f} | {one['fds']} | {one['after_fds']} "
            f"| {one['answered']} of {one['asked']} | {one['final']['ended'] - one['there']['ended']} |"
        )
    return lines


def section_of(page: str) -> str:
    """This section of the page; "" when it has none."""
    begin = page.find(HEADING)
    return page[begin:] if begin >= 0 else ""


def compared(found: list[Peer], only: str) -> list[Peer]:
    """The peers that are named, comma-separated, or those that are always compared."""
    names = only.split(",") if only else [peers.OURS, peers.YARDSTICK, "nginx", "haproxy"]
    return [peer for peer in found if peer.name in names]


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="peers, comma-separated")
    parser.add_argument("--idle", type=int, default=IDLE_SECONDS, help="seconds of the idle time-out")
    options = parser.parse_args()
    found, _ = peers.available()
    text = "\n".join(section(run(compared(found, options.only), options.idle), options.idle)) + "\n"
    print(text)
    if not options.only:
        page = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(page.removesuffix(section_of(page)) + text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
