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
from bench.machine import cpu_seconds, rss_bytes
from bench.peers import ROOT, Running

MIB = 1024 * 1024
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often."""

    rounds: int
    seconds: float
    idle_connections: int
    big_body: int
    starts: int


QUICK = Plan(rounds=3, seconds=2.0, idle_connections=1000, big_body=128 * MIB, starts=3)
FULL = Plan(rounds=7, seconds=5.0, idle_connections=4000, big_body=1024 * MIB, starts=7)

SMALL_GET = Scenario("/bytes/1024", download=1024, connections=32)
POST_16K = Scenario("/sink", upload=16 * 1024, connections=32)
DOWNLOAD_10M = Scenario(f"/bytes/{10 * MIB}", download=10 * MIB, connections=4)
UPLOAD_10M = Scenario("/sink", upload=10 * MIB, connections=4)
RATES = {"get_1k": SMALL_GET, "post_16k": POST_16K, "download_10m": DOWNLOAD_10M, "upload_10m": UPLOAD_10M}


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
    load(running.port, replace(scenario, seconds=0.5))
    before = cpu_seconds(running.pid)
    done = load(running.port, replace(scenario, seconds=plan.seconds))
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
    scenario = Scenario("/bytes/1024", download=1024, connections=count, each=1, at_once=8, seconds=30, hold=True)
    command = [sys.executable, "-m", "bench.load", str(running.port), json.dumps(asdict(scenario))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as generator:
        assert generator.stdout is not None
        if generator.stdout.readline().strip() != "holding":
            raise Wrong(f"{count} idle connections could not be opened")
        time.sleep(0.5)
        grown = rss_bytes(running.pid) - before
        generator.communicate("\n", timeout=30)
    return {"kib_each": grown / count / 1024}
