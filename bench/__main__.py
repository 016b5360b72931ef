"""`python -m bench [--quick] [--only outrider,envoy] [--scenarios get_1k,...]`: see the package's docstring. Exit 3: too noisy."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench import machine, peers, quota, report, scenarios
from bench import tls as bench_tls
from bench.peers import OURS, YARDSTICK, Peer, Running
from bench.reload import reload
from bench.report import Samples
from bench.scenarios import FULL, MAIN, QUICK, RATES, RESTLESS, STEADY, Figures, Plan

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
        self.slowest = 0.0
        """Requests per second that every proxy of the comparison has reached, once that is known."""

    def of(self, scenario: str) -> list[Peer]:
        """Those that take part in a scenario."""
        return [peer for peer in self.chosen if scenario in scenarios.ONLY_IN.get(peer.name, {scenario})]

    def each(
        self, scenario: str, rounds: int, measure: Callable[[Running], Figures], *, among: list[Peer] | None = None, **how: Any
    ) -> Samples:
        """`measure` of each peer once a round, in a fresh process; who begins changes, so that nobody always follows the same neighbour."""
        taking_part = self.of(scenario) if among is None else among
        samples: Samples = {peer.name: [] for peer in taking_part}
        for number in range(rounds):
            start = number % max(len(taking_part), 1)
            for peer in taking_part[start:] + taking_part[:start]:
                with peers.started(peer, self.origin, self.folder, **how) as running:
                    figures = measure(running)
                samples[peer.name].append(figures)
                print(f"  {peer.name:14} " + "  ".join(f"{name} {value:.3g}" for name, value in figures.items()), flush=True)
        return samples

    def rates(self, name: str) -> Samples:
        rounds = self.plan.rounds if name == MAIN or name in RESTLESS else self.plan.few
        plan = self.plan if name == MAIN else replace(self.plan, seconds=self.plan.short)
        samples = self.each(name, rounds, lambda running: scenarios.rate(running, RATES[name], plan))
        if name == MAIN:
            self.slowest = min(report.median(samples, peer, "rps") for peer in samples if peer != peers.TUTORIAL)
        return samples

    def big_bodies(self) -> Samples:
        return self.each("big_bodies", 1, lambda running: scenarios.big_bodies(running, self.plan))

    def idle(self) -> Samples:
        return self.each("idle", 1, lambda running: scenarios.at_rest(running) | scenarios.idle_connections(running, self.plan))

    def start(self) -> Samples:
        return self.each("start", self.plan.starts, _ready)

    def websocket(self) -> Samples:
        return self.each("websocket", self.plan.few, lambda running: scenarios.websocket(running, self.plan))

    def latency(self) -> Samples:
        """At a fixed rate, and at shares of what the slowest can do; the last row has no proxy in between.

        Asked for alone: at the fixed rate only, in twice as many rounds as the first scenario, because no figure varies as the tail does.
        """
        rates = {f"{STEADY:g}": STEADY} | {f"{share:.0%} of the slowest": share * self.slowest for share in (0.1, 0.5, 0.8) if self.slowest}

        def measure(port: int) -> Figures:
            found = {name: scenarios.latency(port, rate, self.plan.short) for name, rate in rates.items()}
            return {f"{rank} at {name}": value for name, figures in found.items() for rank, value in figures.items()}

        rounds = self.plan.few if self.slowest else 2 * self.plan.rounds
        samples = self.each("latency", rounds, lambda running: measure(running.port))
        return samples | {"no proxy": [measure(self.origin) for _ in range(rounds)]}

    def routes(self) -> Samples:
        """CPU per request with one route and with many, of those whose configuration is made here."""
        among = [peer for peer in self.of("routes") if peer.name in (OURS, YARDSTICK)]
        plan = replace(self.plan, seconds=self.plan.short)
        few, many = (
            self.each("routes", self.plan.few, lambda running: scenarios.rate(running, RATES[MAIN], plan), among=among, routes=number)
            for number in (1, scenarios.ROUTES)
        )
        return _compared(few, many)

    def tls(self) -> Samples:
        """TLS towards clients; `bench.tls` has both sides, each client, and rotation."""
        bench_tls.make_certificate(self.folder)
        among = [bench_tls.secured(peer, self.folder) for peer in self.of("tls")]
        return self.each("tls", self.plan.few, bench_tls.small, among=among, tls=bench_tls.context())

    def workers(self) -> Samples:
        """CPU per request with one worker and with two."""
        plan = replace(self.plan, seconds=self.plan.short)
        two = {peer.name: peers.doubled(peer) for peer in self.of("workers") if peer.name in (OURS, YARDSTICK)}
        one = [peer for peer in self.of("workers") if peer.name in two]
        single, double = (
            self.each("workers", self.plan.few, lambda running: scenarios.rate(running, RATES[MAIN], plan), among=among)
            for among in (one, list(two.values()))
        )
        return _compared(single, double)

    def reload(self) -> Samples:
        ours = [peer for peer in self.of("reload") if peer.name == OURS]
        return self.each("reload", 1, lambda running: reload(running, self.origin, self.folder), among=ours)

    def quota(self) -> Samples:
        """With a tenth of a core: how soon it serves, and what becomes of a few requests per second."""
        among = [peer for peer in self.of("quota") if peer.name in (OURS, YARDSTICK)]
        with quota.limited(scenarios.QUOTA) as group:
            if group is None:
                print("  no control group can be made here: left out", flush=True)
                return {}
            return self.each(
                "quota",
                self.plan.few,
                lambda running: _ready(running) | scenarios.latency(running.port, 50, 2 * self.plan.short),
                among=among,
                group=group,
            )


def _compared(few: Samples, many: Samples) -> Samples:
    """CPU per request in two settings, round by round."""
    pairs = {name: zip(few[name], many[name], strict=True) for name in few}
    return {
        name: [{"one_us": a["cpu_us"], "many_us": b["cpu_us"], "ratio": b["cpu_us"] / a["cpu_us"]} for a, b in both]
        for name, both in pairs.items()
    }


def _ready(running: Running) -> Figures:
    return {"ready_seconds": running.ready_seconds, "rss_mb": machine.rss_bytes(running.pid) / scenarios.MIB}


SINGLE = {
    "latency": Bench.latency,
    "websocket": Bench.websocket,
    "tls": Bench.tls,
    "workers": Bench.workers,
    "routes": Bench.routes,
    "reload": Bench.reload,
    "big_bodies": Bench.big_bodies,
    "idle": Bench.idle,
    "start": Bench.start,
    "quota": Bench.quota,
}


def run(options: argparse.Namespace) -> dict[str, Any]:
    plan = QUICK if options.quick else FULL
    found, absent = peers.available()
    found[1:1] = [peers.without_splice(peer) for peer in found if peer.name == OURS]
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
            try:
                if name in RATES:
                    raw["rates"][name] = bench.rates(name)
                else:
                    raw["single"][name] = SINGLE[name](bench)
            except scenarios.Wrong as error:
                print(f"  left out: {error}", file=sys.stderr, flush=True)
                raw.setdefault("wrong", {})[name] = str(error)[:300]
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
    text = report.markdown(raw, noisy=options.noisy)
    print("\n" + text)
    complete = not options.only and not options.scenarios
    if complete and not options.quick and not options.noisy:
        report.write(DOCUMENT, text)
        report.write_files(DOCUMENT.with_suffix(""), raw)
    return 3 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
