"""`python -m bench [--quick] [--only outrider,envoy] [--scenarios get_1k,...]`: see the package's docstring. Exit 3: too noisy."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import machine, peers, report, scenarios
from bench.peers import Peer
from bench.report import Samples
from bench.scenarios import FULL, QUICK, RATES, Plan

OUT = Path(__file__).parent / "out"
DOCUMENT = peers.ROOT / "docs" / "benchmarks.md"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Compare the sidecar with its peers on this machine.")
    parser.add_argument("--quick", action="store_true", help="about two minutes; docs/benchmarks.md is left alone")
    parser.add_argument("--only", default="", help="peers, comma-separated")
    parser.add_argument("--scenarios", default="", help="of: " + ", ".join([*RATES, *SINGLE]))
    parser.add_argument("--noisy", action="store_true", help="print the figures of a noisy machine too; never written to the document")
    return parser.parse_args()


class Bench:
    """One run of everything that was asked for."""

    def __init__(self, plan: Plan, chosen: list[Peer], origin: int, folder: Path) -> None:
        self.plan = plan
        self.chosen = chosen
        self.origin = origin
        self.folder = folder

    def in_turn(self, rounds: int) -> Iterator[Peer]:
        """Each peer once a round; who begins changes, so that nobody always follows the same neighbour."""
        for number in range(rounds):
            start = number % len(self.chosen)
            yield from self.chosen[start:] + self.chosen[:start]

    def rates(self, name: str) -> Samples:
        samples: Samples = {peer.name: [] for peer in self.chosen}
        for peer in self.in_turn(self.plan.rounds):
            with peers.started(peer, self.origin, self.folder) as running:
                figures = scenarios.rate(running, RATES[name], self.plan)
            samples[peer.name].append(figures)
            print(
                f"  {peer.name:9} {figures['cpu_us']:8.1f} us/request {figures['gb_per_cpu_second']:7.2f} GB/cpu-s {figures['rps']:9.0f} rps  p99 {figures['p99_ms']:.1f} ms  rss {figures['rss_mb']:.0f} MB",
                flush=True,
            )
        return samples

    def big_bodies(self) -> Samples:
        return self._once_each(lambda running: scenarios.big_bodies(running, self.plan), 1)

    def idle(self) -> Samples:
        return self._once_each(lambda running: scenarios.idle_connections(running, self.plan), 1)

    def start(self) -> Samples:
        return self._once_each(
            lambda running: {"ready_seconds": running.ready_seconds, "rss_mb": machine.rss_bytes(running.pid) / scenarios.MIB},
            self.plan.starts,
        )

    def _once_each(self, measure: Any, rounds: int) -> Samples:
        samples: Samples = {peer.name: [] for peer in self.chosen}
        for peer in self.in_turn(rounds):
            with peers.started(peer, self.origin, self.folder) as running:
                figures = measure(running)
            samples[peer.name].append(figures)
            print(f"  {peer.name:9} " + "  ".join(f"{name} {value:.3g}" for name, value in figures.items()), flush=True)
        return samples


SINGLE = {"big_bodies": Bench.big_bodies, "idle": Bench.idle, "start": Bench.start}


def run(options: argparse.Namespace) -> dict[str, Any]:
    plan = QUICK if options.quick else FULL
    found, absent = peers.available()
    chosen = [peer for peer in found if not options.only or peer.name in options.only.split(",")]
    wanted = options.scenarios.split(",") if options.scenarios else [*RATES, *SINGLE]
    for name in absent:
        print(f"{name} is absent from this machine and from the comparison")
    raw: dict[str, Any] = {"date": dt.datetime.now(dt.UTC).date().isoformat(), "machine": machine.describe(), "absent": absent}
    raw |= {"peers": {peer.name: peer.version for peer in chosen}, "plan": asdict(plan), "rates": {}, "single": {}}
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as folder, peers.origin() as origin:
        bench = Bench(plan, chosen, origin, Path(folder))
        for name in wanted:
            print(name, flush=True)
            if name in RATES:
                raw["rates"][name] = bench.rates(name)
            else:
                raw["single"][name] = SINGLE[name](bench)
    return raw


def main() -> int:
    options = arguments()
    try:
        if not options.noisy:
            machine.require_quiet()
        raw = run(options)
        OUT.mkdir(exist_ok=True)
        (OUT / "last.json").write_text(json.dumps(raw, indent=1))
    except machine.TooNoisy as error:
        print(f"too noisy: {error}", file=sys.stderr)
        return 3
    refused = {} if options.noisy else report.unsettled(raw["rates"])
    for name, why in refused.items():
        print(f"too noisy: {name}: {why}", file=sys.stderr)
    complete = not options.only and not options.scenarios
    if complete:
        text = report.markdown(raw)
        print("\n" + text)
        if not options.quick and not options.noisy:
            report.write(DOCUMENT, text)
            DOCUMENT.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n")
    return 3 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
