"""`python -m bench.bounds [--quick] [--only outrider,envoy]`: what crowds of bad clients cost each proxy; writes docs/bounds.md.

Twelve minutes for four proxies. Its last section is of `python -m bench.idle`, which takes seven, and is left as it is.

For each crowd and each proxy: a fresh process, the crowd for some seconds, and meanwhile an honest client that asks ten
times a second. Resident memory and descriptors are looked at every 50 ms. Memory needs no quiet machine; times would, so
none are given.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import idle, machine, peers
from bench.honest import Honest, Look, descriptors
from bench.peers import Peer, Running
from bench.scenarios import MIB

DOCUMENT = peers.ROOT / "docs" / "bounds.md"
SETTLE_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A crowd: how many, how long, and in a word what it does."""

    kind: str
    count: int
    seconds: float
    words: str


FULL = (
    Plan("idle", 8000, 5, "8,000 keep-alive connections that have had one answer and wait"),
    Plan("slow_heads", 4000, 25, "4,000 heads of which a byte comes every half second (slowloris)"),
    Plan("slow_bodies", 1000, 15, "1,000 uploads of which a byte comes every half second"),
    Plan("slow_readers", 500, 15, "500 downloads of 64 MiB that nobody reads"),
    Plan("huge_heads", 200, 8, "200 clients that send heads of 24 KB, one after the other"),
    Plan("pipelined", 100, 8, "100 clients that send 1,000 requests at once and read no answer"),
    Plan("churn", 64, 8, "64 clients that connect, ask once and close, again and again"),
    Plan("never", 1000, 8, "1,000 requests that the upstream never answers"),
    Plan("early", 500, 8, "500 requests to an upstream that answers before it is asked"),
)


def measure(running: Running, plan: Plan) -> dict[str, Any]:
    """One crowd at one proxy."""
    before = machine.rss_bytes(running.pid)
    command = [sys.executable, "-m", "bench.crowds", plan.kind, str(running.port), str(plan.count), str(plan.seconds)]
    with Look(running.pid) as look, Honest(running.port) as honest:
        said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=peers.ROOT)
    time.sleep(SETTLE_SECONDS)
    alive = running.process.poll() is None
    outcome = json.loads(said.stdout.splitlines()[-1]) if said.returncode == 0 else {"failed": said.stderr[-300:]}
    return {
        "before_mib": before / MIB,
        "peak_mib": look.rss / MIB,
        "after_mib": machine.rss_bytes(running.pid) / MIB if alive else 0.0,
        "peak_fds": look.descriptors,
        "after_fds": descriptors(running.pid) if alive else 0,
        "asked": honest.asked,
        "answered": honest.answered,
        "alive": alive,
        **outcome,
    }


@contextlib.contextmanager
def origin(kind: str) -> Iterator[int]:
    """The upstream that this crowd needs: the usual one, or one that answers before it is asked."""
    if kind != "early":
        with peers.origin() as port:
            yield port
        return
    port = peers.free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.early_origin", str(port)], stdin=subprocess.DEVNULL, cwd=peers.ROOT)
    try:
        time.sleep(1.0)
        yield port
    finally:
        process.terminate()
        process.wait()


def run(plans: tuple[Plan, ...], chosen: list[Peer]) -> dict[str, Any]:
    """Every crowd at every proxy."""
    figures: dict[str, Any] = {}
    for plan in plans:
        print(plan.words, flush=True)
        figures[plan.kind] = {}
        for peer in chosen:
            with tempfile.TemporaryDirectory(prefix="outrider-bounds-") as folder, origin(plan.kind) as port:
                wait = plan.kind != "early"
                with peers.started(peer, port, Path(folder), answering=wait) as running:
                    found = measure(running, plan)
            figures[plan.kind][peer.name] = found
            print(f"  {peer.name:9} {json.dumps(found)}", flush=True)
    return figures


def markdown(plans: tuple[Plan, ...], figures: dict[str, Any], chosen: list[Peer]) -> str:
    """The page."""
    described = machine.describe()
    lines = [
        "# Bounds",
        "",
        "What crowds of bad clients cost, beside nginx, HAProxy and Envoy in the same test. Made by `python -m bench.bounds` "
        f"on {dt.datetime.now(dt.UTC).date().isoformat()}: {described['cores']} cores, Linux {described['kernel']}, Python {described['python']}, "
        "at most 20,000 open files, no memory limit. "
        + ", ".join(f"{peer.name} {peer.version}" for peer in chosen)
        + ". Configurations: `bench/configs`, the defaults of each where they say nothing. The machine is shared: only memory and descriptors are compared, no times.",
        "",
        (
            "*Answered*: of the requests of an honest client, ten a second on connections of their own, those that got 200 within 5 s. "
            "*Cut*: connections of the crowd that the proxy had ended before the test did. Near a memory limit the sidecar refuses before the kernel kills: "
            "[overload](reference.md#overload), tested in `tests/bounds`."
        ),
    ]
    for plan in plans:
        lines += ["", f"## {plan.words[0].upper()}{plan.words[1:]}", ""]
        lines += [
            "| | MiB before | peak | 4 s after | descriptors at peak | after | answered | cut | statuses |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name, one in figures[plan.kind].items():
            statuses = (
                ", ".join(f"{count} x {status}" for status, count in sorted(one.get("statuses", {}).items()))
                if plan.kind != "churn"
                else ""
            )
            answered = f"{one['answered']} of {one['asked']}" if plan.kind != "early" else ""  # the honest ask the same upstream
            cut = one.get("ended", "?") if plan.kind != "churn" else ""
            lines.append(
                f"| {name} | {one['before_mib']:.0f} | {one['peak_mib']:.0f} | {one['after_mib']:.0f} | {one['peak_fds']} | {one['after_fds']} "
                f"| {answered} | {cut} | {statuses} |"
            )
    return "\n".join(lines) + "\n"


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.bounds", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of each crowd; docs/bounds.md is left alone")
    parser.add_argument("--only", default="", help="peers, comma-separated; docs/bounds.md is left alone")
    parser.add_argument("--crowds", default="", help="kinds, comma-separated; docs/bounds.md is left alone")
    options = parser.parse_args()
    found, absent = peers.available()
    for name in absent:
        print(f"{name} is absent from this machine and from the comparison")
    chosen = idle.compared(found, options.only)
    plans = tuple(plan for plan in FULL if not options.crowds or plan.kind in options.crowds.split(","))
    if options.quick:
        plans = tuple(Plan(**{**asdict(plan), "count": max(plan.count // 10, 10), "seconds": min(plan.seconds, 3)}) for plan in plans)
    figures = run(plans, chosen)
    text = markdown(plans, figures, chosen)
    print("\n" + text)
    if not (options.quick or options.only or options.crowds):
        before = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(text + idle.section_of(before), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
