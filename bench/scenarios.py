"""What is measured. Each function runs one peer once and returns its figures."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.load import Scenario
from bench.machine import cpu_seconds, rss_bytes, wakeups
from bench.peers import NO_SPLICE, PURE, ROOT, TUTORIAL, Running

MIB = 1024 * 1024
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often. `rounds` and `seconds` of the first scenario, by which the claim stands; `few`, `short` of the others."""

    rounds: int
    seconds: float
    few: int
    short: float
    idle_connections: int
    big_body: int
    starts: int


QUICK = Plan(rounds=3, seconds=2.0, few=1, short=1.0, idle_connections=1000, big_body=128 * MIB, starts=1)
FULL = Plan(rounds=6, seconds=3.0, few=3, short=2.0, idle_connections=10_000, big_body=1024 * MIB, starts=3)

GIB = 1024 * MIB
RATES = {
    "get_1k": Scenario("/bytes/1024", download=1024, connections=32),
    "get_1k_1": Scenario("/bytes/1024", download=1024, connections=1),
    "get_1k_512": Scenario("/bytes/1024", download=1024, connections=512),
    "post_16k": Scenario("/sink", upload=16 * 1024, connections=32),
    "fresh": Scenario("/bytes/1024", download=1024, connections=32, fresh=True),
    "download_10m": Scenario(f"/bytes/{10 * MIB}", download=10 * MIB, connections=4),
    "upload_10m": Scenario("/sink", upload=10 * MIB, connections=4),
    "download_1g": Scenario(f"/bytes/{GIB}", download=GIB, connections=2, requests=2),
    "upload_1g": Scenario("/sink", upload=GIB, connections=2, requests=2),
}
MAIN = "get_1k"
RESTLESS = {"fresh"}
"""Whose rounds differ more than those of others: they get as many as the first."""
ONLY_IN = {
    PURE: {"get_1k", "get_1k_1", "post_16k", "start", "idle"},
    NO_SPLICE: {"download_10m", "upload_10m"},
    TUTORIAL: {"get_1k", "post_16k", "download_10m", "upload_10m", "idle", "start"},
}
"""Those that stand beside the comparison take part where they say something."""
ROUTES = 1000
QUOTA = 0.1
STEADY = 1000.0
"""Requests per second at which the added latency is compared."""


class Wrong(Exception):
    """An answer was not what it should be: nothing is compared then."""


def load(port: int, scenario: Scenario) -> dict[str, Any]:
    """One run of the load generator in a process of its own. Raises Wrong."""
    command = [sys.executable, "-m", "bench.load", str(port), json.dumps(asdict(scenario))]
    said = subprocess.run(command, capture_output=True, text=True, timeout=scenario.seconds + 240, check=False, cwd=ROOT)
    if said.returncode:
        raise Wrong(said.stderr[-2000:])
    figures: dict[str, Any] = json.loads(said.stdout)
    if figures["wrong"] or figures["failed"] or not figures["requests"]:
        raise Wrong(f"{scenario}: {figures}")
    return figures


def rate(running: Running, scenario: Scenario, plan: Plan) -> Figures:
    """CPU per request and per byte; a short run before it warms everything up."""
    if not scenario.requests:
        load(running.port, replace(scenario, seconds=0.5))
    before = cpu_seconds(running.pid)
    done = load(running.port, replace(scenario, seconds=60.0 if scenario.requests else plan.seconds))
    cpu = cpu_seconds(running.pid) - before
    moved = done["requests"] * max(scenario.upload, scenario.download)
    return {
        "cpu_us": 1e6 * cpu / done["requests"],
        "gb_per_cpu_second": moved / 1e9 / max(cpu, 0.01),
        "rps": done["requests"] / done["seconds"],
        "p50_ms": done["p50_ms"],
        "p99_ms": done["p99_ms"],
        "rss_mb": rss_bytes(running.pid) / MIB,
    }


def said_by(module: str, *arguments: object) -> dict[str, Any]:
    """The JSON line of another generator, in a process of its own. Raises Wrong."""
    said = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    if said.returncode:
        raise Wrong(said.stderr[-2000:])
    figures: dict[str, Any] = json.loads(said.stdout)
    if figures["wrong"] or figures["failed"]:
        raise Wrong(f"{module} {arguments}: {figures}")
    return figures


def latency(port: int, rate_: float, seconds: float) -> Figures:
    """Milliseconds from when a request was due to the end of its answer (bench/pace.py)."""
    said_by("bench.pace", port, rate_, 0.5)
    paced = said_by("bench.pace", port, rate_, seconds)
    return {name: paced[name] for name in ("p50_ms", "p99_ms", "p99.9_ms")}


def websocket(running: Running, plan: Plan) -> Figures:
    """CPU per message of 128 bytes that goes to the origin and comes back, over 32 tunnels."""
    said_by("bench.websocket", running.port, 32, 0.5, 128)
    before = cpu_seconds(running.pid)
    done = said_by("bench.websocket", running.port, 32, plan.short, 128)
    return {"cpu_us": 1e6 * (cpu_seconds(running.pid) - before) / done["requests"], "rps": done["requests"] / done["seconds"]}


def at_rest(running: Running, seconds: float = 4.0) -> Figures:
    """What it costs to run and do nothing, once it has had a little to do."""
    load(running.port, Scenario("/bytes/1024", download=1024, connections=4, requests=400))
    time.sleep(2)
    cpu, woken = cpu_seconds(running.pid), wakeups(running.pid)
    time.sleep(seconds)
    return {
        "rss_mb": rss_bytes(running.pid) / MIB,
        "wakeups_per_s": (wakeups(running.pid) - woken) / seconds,
        "cpu_ms_per_s": 1000 * (cpu_seconds(running.pid) - cpu) / seconds,
    }


def big_bodies(running: Running, plan: Plan) -> Figures:
    """Growth of resident memory per exchange: four at a time, a slow reader at the far end, each direction."""
    load(running.port, Scenario("/bytes/1024", download=1024, connections=4, requests=400))
    many = {"connections": 4, "requests": 4, "seconds": 60.0}
    down = Scenario(f"/bytes/{plan.big_body}", download=plan.big_body, slow_reader=True, **many)
    up = Scenario("/slow-sink", upload=plan.big_body, **many)
    return {f"{name}_kib": _growth(running, scenario) / 4 / 1024 for name, scenario in (("download", down), ("upload", up))}


def _growth(running: Running, scenario: Scenario) -> float:
    """The highest resident memory while `scenario` runs, above what it was before."""
    before = highest = rss_bytes(running.pid)
    worker = threading.Thread(target=load, args=(running.port, scenario))
    worker.start()
    while worker.is_alive():
        highest = max(highest, rss_bytes(running.pid))
        time.sleep(0.02)
    worker.join()
    return highest - before


def idle_connections(running: Running, plan: Plan) -> Figures:
    """Resident memory per keep-alive connection that has had one answer and waits."""
    load(running.port, Scenario("/bytes/1024", download=1024, connections=32, requests=3200))
    before = rss_bytes(running.pid)
    count = plan.idle_connections
    scenario = Scenario("/bytes/1024", download=1024, connections=count, each=1, at_once=8, seconds=90, hold=True)
    command = [sys.executable, "-m", "bench.load", str(running.port), json.dumps(asdict(scenario))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as generator:
        assert generator.stdout is not None
        if generator.stdout.readline().strip() != "holding":  # it has said what failed instead
            raise Wrong(f"{count} idle connections could not be opened")
        time.sleep(0.5)
        grown = rss_bytes(running.pid) - before
        generator.communicate("\n", timeout=30)
    return {"kib_each": grown / count / 1024}
