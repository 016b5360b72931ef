"""`python -m bench.workers`: what `--workers N` costs and brings, in about two minutes.

Sidecars with 1, 2 and 4 workers serve in turn: CPU and throughput of small requests on 32 connections, CPU of a
connection for each request, how 64 connections are spread, memory of each process, time to the first answer. On a
machine with as many cores as the load generator, the upstream and the workers need, throughput is what counts; on a smaller
one CPU per request is, since all of them share the cores.

`python -m bench.workers --throttled` (a minute) answers there what a second core brings: each serving process gets a fifth of a
core by a control group of its own, so that generator and upstream have room, and throughput is what those fifths do.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import statistics
import sys
import tempfile
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

from bench import peers, quota
from bench.machine import TICK, cpu_seconds, family
from bench.peers import Peer, Running
from bench.scenarios import MAIN, RATES, load

SIZES = (1, 2, 4)
ROUNDS = 4
SECONDS = 4.0
SHORT_SECONDS = 2.0
HELD = 64
FIFTH = 0.2
"""Of a core, for each serving process when throttled."""
KIB = 1024
SMALL_GET = RATES[MAIN]
REQUEST = b"GET /bytes/1024 HTTP/1.1\r\nHost: origin.test\r\nUser-Agent: bench\r\n\r\n"
CLOSING = REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


def sidecar(workers: int, admin: int) -> Peer:
    """Ours, with all of its defaults."""
    flags = [
        "--config=@CONFIG@",
        "--state-dir=off",
        "--log-format=json",
        "--status-address=127.0.0.1:0",
        f"--admin-address=127.0.0.1:{admin}",
    ]
    return Peer(f"outrider-{workers}", "", "outrider.yaml", (sys.executable, "-m", "sidecar", "run", f"--workers={workers}", *flags))


def small_requests(running: Running) -> tuple[float, float]:
    """CPU microseconds of a request, and requests per second."""
    load(running.port, replace(SMALL_GET, seconds=0.5))
    before = cpu_seconds(running.pid)
    done = load(running.port, replace(SMALL_GET, seconds=SECONDS))
    return 1e6 * (cpu_seconds(running.pid) - before) / done["requests"], done["requests"] / done["seconds"]


def short_connections(running: Running) -> float:
    """CPU microseconds of a connection with one request."""
    count, before, until = 0, cpu_seconds(running.pid), time.perf_counter() + SHORT_SECONDS
    while time.perf_counter() < until:
        with socket.create_connection(("127.0.0.1", running.port)) as client:
            client.sendall(CLOSING)
            while client.recv(65536):
                pass
        count += 1
    return 1e6 * (cpu_seconds(running.pid) - before) / count


def spread(running: Running, admin: int) -> list[int]:
    """How many of 64 connections that stay each worker has."""
    before = _files(admin)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", running.port))) for _ in range(HELD)]
        time.sleep(0.5)
        after = _files(admin)
        del clients
    return [after[number] - before[number] for number in after]


def _files(admin: int) -> dict[int, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/runtime", timeout=10) as answer:
        found = json.load(answer)
    return {one["worker"]: one["fileDescriptors"]["open"] for one in found.get("workers", [])} or {0: found["fileDescriptors"]["open"]}


def memory(pid: int) -> list[tuple[int, int]]:
    """KiB of each process: its proportional part, and what is its alone."""
    found = []
    for one in family(pid):
        text = Path(f"/proc/{one}/smaps_rollup").read_text()
        numbers = {name: int(value) for name, value in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
        found.append((numbers["Pss"], numbers["Private_Dirty"] + numbers["Private_Clean"]))
    return found


def serving(pid: int, admin: int) -> list[int]:
    """The processes that carry traffic."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/runtime", timeout=10) as answer:
        return [one["pid"] for one in json.load(answer).get("workers", [])] or [pid]


def throttled(size: int, origin: int, folder: Path) -> tuple[float, float]:
    """Requests per second of `size` serving processes with a fifth of a core each, and the cores that they had. Raises OSError without control groups."""
    admin = peers.free_port()
    with contextlib.ExitStack() as stack:
        groups = [stack.enter_context(quota.limited(FIFTH, f"-{number}")) for number in range(size)]
        running = stack.enter_context(peers.started(sidecar(size, admin), origin, folder))
        load(running.port, replace(SMALL_GET, seconds=0.5))
        pids = serving(running.pid, admin)
        for group, pid in zip(groups, pids, strict=True):
            if group is None:
                raise OSError("no control group can be made here")
            group.write_text(str(pid))
        load(running.port, replace(SMALL_GET, seconds=0.5))
        before = sum(map(_own_cpu, pids))
        done = load(running.port, replace(SMALL_GET, seconds=SECONDS))
        return done["requests"] / done["seconds"], (sum(map(_own_cpu, pids)) - before) / done["seconds"]


def _own_cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def second_core() -> None:
    """Rounds in turn of one and of two serving processes that have a fifth of a core each."""
    ratios, loads = [], []
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as folder, peers.origin() as origin:
        for number in range(ROUNDS):
            order = (1, 2) if number % 2 else (2, 1)
            found = {size: throttled(size, origin, Path(folder)) for size in order}
            ratios.append(found[2][0] / found[1][0])
            loads.append(os.getloadavg()[0])
            said = "; ".join(f"{size}: {rps:.0f} requests/s with {cores:.2f} cores" for size, (rps, cores) in sorted(found.items()))
            print(f"round {number + 1}: {said}; ratio {ratios[-1]:.2f}", flush=True)
    print(f"\n{os.cpu_count()} cores, load average {min(loads):.1f} to {max(loads):.1f}")
    print(row("throughput, 2 workers : 1", ratios))


def row(name: str, each: list[float]) -> str:
    places = 2 if max(each) < 10 else 1
    return f"  {name:34} {statistics.median(each):8.{places}f}   each round: " + " ".join(f"{one:.{places}f}" for one in each)


def main() -> None:
    figures: dict[int, dict[str, list[float]]] = {size: {"cpu": [], "rps": [], "short": [], "ready": []} for size in SIZES}
    notes: dict[int, str] = {}
    loads = []
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as folder, peers.origin() as origin:
        for number in range(ROUNDS):
            for size in SIZES[number % 3 :] + SIZES[: number % 3]:
                admin = peers.free_port()
                with peers.started(sidecar(size, admin), origin, Path(folder)) as running:
                    idle = memory(running.pid)
                    one = figures[size]
                    one["ready"].append(1000 * running.ready_seconds)
                    held = spread(running, admin)
                    cpu, rps = small_requests(running)
                    one["cpu"].append(cpu)
                    one["rps"].append(rps)
                    one["short"].append(short_connections(running))
                    notes[size] = (
                        f"held {held}; MiB of its own, by process: {_mib(idle)} at the start, {_mib(memory(running.pid))} after the load"
                    )
                loads.append(os.getloadavg()[0])
                print(f"round {number + 1}, {size} workers: {cpu:.1f} us/request, {rps:.0f} requests/s", flush=True)
    print(f"\n{os.cpu_count()} cores, load average {min(loads):.1f} to {max(loads):.1f}")
    for size in SIZES:
        print(f"--workers {size}: {notes[size]}")
        for name, key in (
            ("CPU us/request", "cpu"),
            ("requests/s", "rps"),
            ("CPU us/connection with one request", "short"),
            ("ms to the first answer", "ready"),
        ):
            print(row(name, figures[size][key]))
    for size in SIZES[1:]:
        ratios = [many / one for many, one in zip(figures[size]["rps"], figures[1]["rps"], strict=True)]
        print(row(f"throughput, {size} workers : 1", ratios))


def _mib(processes: list[tuple[int, int]]) -> str:
    return " ".join(f"{own / KIB:.1f}" for _, own in processes)


if __name__ == "__main__":
    second_core() if "--throttled" in sys.argv[1:] else main()
