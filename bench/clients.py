"""What each client of an upstream costs: CPU per request of 1 KiB through the sidecar, one client after the other, in turn.

    python -m bench.clients [--rounds 3] [--seconds 2]

HTTP/1.1 goes to the origin of the other benchmarks, HTTP/2 in the clear to an nginx on the same machine (left out without one).
Native on the same nginx stands beside it. Prints a table; ratios of one run are comparable, microseconds of two are not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.peers import ROOT, Peer, Running, _wait_until_it_answers, free_port, origin
from bench.scenarios import MAIN, QUICK, RATES, Plan, rate

NGINX = """
{user} daemon off; worker_processes 1; pid {folder}/nginx-{port}.pid; error_log stderr;
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e; keepalive_requests 100000000;
  server {{ listen 127.0.0.1:{port}{http2}; root {folder}; default_type application/octet-stream; }}
}}
"""


@contextmanager
def nginx(folder: Path, *, http2: bool) -> Iterator[int]:
    """An nginx that has `/bytes/1024` and `/bytes/2`; yields its port."""
    port = free_port()
    files = folder / "bytes"
    files.mkdir(exist_ok=True)
    for size in (2, 1024):
        (files / str(size)).write_bytes(b"x" * size)
    (folder / f"nginx-{port}.conf").write_text(
        NGINX.format(user="user root;" if os.geteuid() == 0 else "", folder=folder, port=port, http2=" http2" if http2 else "")
    )
    command = ["nginx", "-p", str(folder), "-c", str(folder / f"nginx-{port}.conf")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if not http2:
            _wait_until_it_answers(port, process)
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def sidecar(folder: Path, origin_port: int, upstream: str) -> Iterator[Running]:
    """The sidecar as it is here, with these lines in its upstream."""
    port = free_port()
    document = (
        (ROOT / "bench/configs/outrider.yaml")
        .read_text()
        .replace("@ROUTES@", "")
        .replace("@IDLE@", "1h")
        .replace("@PORT@", str(port))
        .rstrip()
    )
    document = document.replace("@ORIGIN@", str(origin_port)) + "".join(f"\n    {line}" for line in upstream.split(", ")) + "\n"
    (folder / "sidecar.yaml").write_text(document)
    flags = ["--status-address", "127.0.0.1:0", "--admin-address", "off", "--state-dir", "off"]
    command = [sys.executable, "-m", "sidecar", "run", "--config", str(folder / "sidecar.yaml"), *flags]
    with (folder / "sidecar.out").open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT)
    try:
        _wait_until_it_answers(port, process)
        yield Running(Peer("outrider", "", "", ()), process, port, 0.0)
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    plan = replace(QUICK, rounds=options.rounds, seconds=options.seconds)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        print("| client | CPU per request, us | against Native | RSS, MB |\n|---|--:|--:|--:|")
        with origin() as port:
            table(folder, {name: (port, f"client: {name}") for name in ("Native", "Aiohttp", "Httpx")}, plan)
        if shutil.which("nginx"):
            with nginx(folder, http2=False) as plain, nginx(folder, http2=True) as port:
                rows = {"Native to nginx": (plain, "client: Native"), "Httpx, H2C to nginx": (port, "client: Httpx, protocol: H2C")}
                table(folder, rows, plan)


def table(folder: Path, rows: dict[str, tuple[int, str]], plan: Plan) -> None:
    """A line for each row, the medians of the rounds; the rows take turns."""
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in rows}
    for _ in range(plan.rounds):
        for name, (port, lines) in rows.items():
            with sidecar(folder, port, lines) as running:
                samples[name].append(rate(running, RATES[MAIN], plan))
    costs = {name: statistics.median(one["cpu_us"] for one in values) for name, values in samples.items()}
    first = next(iter(costs.values()))
    for name, values in samples.items():
        memory = statistics.median(one["rss_mb"] for one in values)
        print(f"| {name} | {costs[name]:.0f} | {costs[name] / first:.1f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
