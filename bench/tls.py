"""`python -m bench.tls [--rounds 2] [--quick]`: TLS on both sides, side by side, in under six minutes.

Towards clients: a small request, a full and a resumed handshake, long answers, idle connections. Towards upstreams: every client and version of
HTTP, plain and with TLS, and a handshake for each request. Every proxy shows or verifies the same P-256 certificate, TLS 1.3; CPU is the proxy's
own, by the kernel's account, the least of several rounds in turn: a busy machine can only make them longer. Then certificates are
rotated under load. Needs the `openssl` command, and an nginx as the upstream.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from bench import peers, tls_upstream
from bench.machine import cpu_seconds
from bench.peers import OURS, PURE, ROOT, TUTORIAL, Peer, Running
from bench.tls_load import CONNECTIONS, HELD, WORK, context, make_pair, memory, requests
from bench.tls_rotation import rotate_under_load
from bench.tls_upstream import FULL, RESUMED, TLS, Way

LISTENER = (
    "GET of 1 KiB on a kept connection",
    "full handshake and one request",
    "resumed handshake and one request",
    "download of 10 MiB",
)
IDLE = "KiB of memory for an idle connection"
Figures = dict[str, dict[str, float]]
"""By row and peer; the least so far."""
SECURED = {
    "outrider.yaml": (
        "mode: Reverse}",
        "mode: Reverse, tls: {certFile: @FOLDER@/pair.pem, keyFile: @FOLDER@/pair.pem}}",
    ),
    "envoy.yaml": (
        "      filter_chains:\n        - filters:",
        (
            "      filter_chains:\n"
            "        - transport_socket:\n"
            "            name: envoy.transport_sockets.tls\n"
            "            typed_config:\n"
            '              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n'
            "              common_tls_context:\n"
            "                tls_certificates:\n"
            '                  - {certificate_chain: {filename: "@FOLDER@/pair.pem"}, private_key: {filename: "@FOLDER@/pair.pem"}}\n'
            "          filters:"
        ),
    ),
    "nginx.conf": (
        "listen 127.0.0.1:@PORT@ backlog=4096;",
        (
            "listen 127.0.0.1:@PORT@ ssl backlog=4096; ssl_protocols TLSv1.3; ssl_session_cache shared:s:8m;"
            " ssl_certificate @FOLDER@/pair.pem; ssl_certificate_key @FOLDER@/pair.pem;"
        ),
    ),
    "haproxy.cfg": ("bind 127.0.0.1:@PORT@", "bind 127.0.0.1:@PORT@ ssl crt @FOLDER@/pair.pem"),
}
"""What makes TLS of each configuration."""


def secured(peer: Peer, folder: Path) -> Peer:
    """The peer with TLS towards its clients. Raises RuntimeError when its configuration is not what it was."""
    plain, with_tls = SECURED[peer.config]
    text = (peers.HERE / "configs" / peer.config).read_text()
    if plain not in text:
        raise RuntimeError(f"{peer.config} is not what it was")
    made = folder / f"tls-{peer.config}"
    made.write_text(text.replace(plain, with_tls))
    return replace(peer, config=str(made))


def make_certificate(folder: Path) -> None:
    """`pair.pem` in `folder`: the certificate and its key, which every configuration names."""
    make_pair(folder / "pair")
    (folder / "pair.pem").write_bytes((folder / "pair.crt").read_bytes() + (folder / "pair.key").read_bytes())


def small(running: Running) -> dict[str, float]:
    """CPU microseconds of small requests towards clients, by kind."""
    requests(running.port, 1024, 640, CONNECTIONS, tls=True)
    return dict(zip(("get_us", "full_us", "resumed_us"), (cost(running, kind) for kind in LISTENER[:3]), strict=True))


def cost(running: Running, kind: str) -> float:
    """CPU microseconds of each request of one kind; the clients are another process."""
    before = cpu_seconds(running.pid)
    subprocess.run([sys.executable, "-m", "bench.tls_load", kind, str(running.port)], check=True, cwd=ROOT, timeout=300)
    return 1e6 * (cpu_seconds(running.pid) - before) / WORK[kind][0]


def keep_least(figures: Figures, row: str, peer: str, value: float) -> None:
    """Remember the smaller one."""
    mine = figures.setdefault(row, {})
    mine[peer] = min(value, mine.get(peer, value))


def towards_clients(chosen: Sequence[Peer], origin: int, folder: Path, figures: Figures) -> None:
    """One round."""
    for peer in chosen:
        with peers.started(secured(peer, folder), origin, folder, context()) as running:
            requests(running.port, 1024, 640, CONNECTIONS, tls=True)
            keep_least(figures, IDLE, peer.name, memory(running, HELD))
            for kind in LISTENER:
                keep_least(figures, kind, peer.name, cost(running, kind))


def towards_upstreams(chosen: Sequence[Peer], ports: dict[str, int], folder: Path, figures: Figures) -> None:
    """One round: every way of every peer. Ours that is pure Python goes as Native alone."""
    for peer in chosen:
        ours = {PURE: {"Native": tls_upstream.OURS["Native"]}, OURS: tls_upstream.OURS}.get(peer.name)
        if peer.name == PURE and not any(one.name == OURS for one in chosen):
            ours = tls_upstream.OURS
        ways = {peer.name: tls_upstream.THEIRS[peer.name]} if ours is None else {f"{peer.name} {name}": way for name, way in ours.items()}
        for column, some in ways.items():
            for way in some:
                with _going(peer, way, ports, folder) as running:
                    requests(running.port, 1024, 640, CONNECTIONS, tls=False)
                    keep_least(figures, way.name, column, cost(running, "plain"))
        for way, kind in ((FULL, "upstream, full handshakes"), (RESUMED, "upstream, resumed handshakes")):
            with _going(peer, way, ports, folder) as running:
                keep_least(figures, kind, next(iter(ways)), cost(running, kind))


def _going(peer: Peer, way: Way, ports: dict[str, int], folder: Path) -> AbstractContextManager[Running]:
    return peers.started(tls_upstream.to(peer, way, folder), ports[way.port], folder)


def table(title: str, figures: Figures) -> None:
    """Markdown: a row for each thing that was measured, a column for each peer."""
    columns = list(dict.fromkeys(peer for row in figures.values() for peer in row))
    print(f"\n| {title} | {' | '.join(columns)} |\n|---|{'--:|' * len(columns)}")
    for row, values in figures.items():
        shown = (
            f"{values[peer]:,.1f}" if peer in values and row == IDLE else f"{values[peer]:,.0f}" if peer in values else ""
            for peer in columns
        )
        print(f"| {row} | {' | '.join(shown)} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="what is on this machine already, ours in pure Python")
    options = parser.parse_args()
    chosen = [peer for peer in peers.available(fetch=not options.quick)[0] if peer.name != TUTORIAL]
    clients: Figures = {}
    upstreams: Figures = {}
    with tempfile.TemporaryDirectory() as name, peers.origin() as origin:
        folder = Path(name)
        make_certificate(folder)
        with tls_upstream.origin(folder) as ports:
            for _ in range(options.rounds):
                towards_clients(chosen, origin, folder, clients)
                towards_upstreams(chosen, ports, folder, upstreams)
            rotated = rotate_under_load(chosen[0], ports[TLS.port], folder)
    print(f"load average {os.getloadavg()[0]:.1f}; " + ", ".join(f"{peer.name} {peer.version}" for peer in chosen))
    table("towards clients: CPU, microseconds", clients)
    table("towards upstreams: CPU, microseconds", upstreams)
    print("\nof which handshakes per second and core: " + ", ".join(_per_second(kind, clients) for kind in LISTENER[1:3]))
    print(f"rotation under load: {rotated}")


def _per_second(kind: str, figures: Figures) -> str:
    return f"{kind} " + " ".join(f"{peer} {1e6 / value:,.0f}" for peer, value in figures[kind].items())


if __name__ == "__main__":
    main()
