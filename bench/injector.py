"""How long the injector's webhook takes: a real `outrider injector`, real TLS, reviews as an API server sends them.

    python -m bench.injector

Each size is asked for at the given number of kept connections; times are the client's, from the first byte sent to the last
received. The goal is 20 ms for the 99th percentile of an ordinary pod.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.certificates import authority, issue

HOST = "localhost"
LARGEST = 8 * 1024 * 1024 - 4096
CASES = ((5 * 1024, 1, 2000, 0), (50 * 1024, 1, 2000, 0), (50 * 1024, 8, 2000, 200), (50 * 1024, 8, 4000, 0), (LARGEST, 1, 30, 0))
"""Bytes of the pod, connections, reviews, and how many of them a second; 0: each connection as fast as it can."""


def review(size: int) -> bytes:
    """A review of about `size` bytes: a container with many variables, a line of a hundred bytes each."""
    env = [{"name": f"VARIABLE_{number:06}", "value": "x" * 63} for number in range(max(1, size // 105))]
    pod = {
        "metadata": {"generateName": "app-", "annotations": {"outrider.dev/app-port": "8000"}},
        "spec": {"containers": [{"name": "app", "image": "registry.example/app:1", "env": env}]},
    }
    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "shop",
        "operation": "CREATE",
        "object": pod,
    }
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> float:
    """Seconds of one review."""
    began = time.perf_counter()
    writer.write(b"POST /inject/namespace?timeout=5s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    answer = await reader.readexactly(length)
    if not head.startswith(b"HTTP/1.1 200") or b'"patch"' not in answer:
        raise SystemExit(f"not injected: {head + answer!r:.300}")
    return time.perf_counter() - began


async def measure(port: int, context: ssl.SSLContext, size: int, connections: int, count: int, rate: int) -> list[float]:
    """Seconds of each of `count` reviews, sorted. With a `rate` they count from when each was due."""
    body = review(size)
    loop = asyncio.get_running_loop()

    async def paced(ask_one: Callable[[], Awaitable[float]], due: float) -> float:
        await asyncio.sleep(max(0.0, due - loop.time()))
        late = loop.time() - due
        return late + await ask_one()

    async def one(number: int) -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=HOST)
        await ask(reader, writer, body)  # the first one pays for the handshake
        ask_one = partial(ask, reader, writer, body)
        begins = loop.time() + (number / rate if rate else 0)
        dues = (begins + turn * connections / rate for turn in range(count // connections)) if rate else ()
        took = [await paced(ask_one, due) for due in dues] if rate else [await ask_one() for _ in range(count // connections)]
        writer.close()
        await writer.wait_closed()
        return took

    return sorted(chain.from_iterable(await asyncio.gather(*(one(number) for number in range(connections)))))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def rss_mib(pid: int) -> float:
    """Its memory, and the most that it has had."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Print a line for each case."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ca = authority("bench")
        issue(ca, "bench", hosts=[HOST]).write(folder, "tls")
        (folder / "defaults.yaml").write_text("image: registry.example/outrider:1\n")
        command = [sys.executable, "-m", "sidecar", "injector", f"--defaults={folder / 'defaults.yaml'}", "--namespace=bench"]
        command += ["--certificates=files", f"--certificate-dir={folder}", "--listen-address=127.0.0.1:0", "--status-address=127.0.0.1:0"]
        process = subprocess.Popen([*command, "--log-format=json"], stdout=subprocess.PIPE, text=True)
        try:
            said: dict[str, Any] = {}
            while said.get("event") != "ready":
                assert process.stdout is not None
                said = json.loads(process.stdout.readline())
            context = ssl.create_default_context(cadata=ca.pem.decode())
            for size, connections, count, rate in CASES:
                before = cpu_seconds(process.pid)
                took = asyncio.run(measure(int(said["listen"].rpartition(":")[2]), context, size, connections, count, rate))
                cpu = (cpu_seconds(process.pid) - before) / len(took)
                p50, p99 = (took[int(len(took) * share)] * 1000 for share in (0.5, 0.99))
                print(
                    f"{size / 1024:7.0f} KiB, {connections} connections, {len(took)} reviews{f' at {rate}/s' if rate else ''}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, "
                    f"max {took[-1] * 1000:.1f} ms, CPU {cpu * 1000:.2f} ms each, peak {rss_mib(process.pid):.0f} MiB"
                )
        finally:
            process.terminate()
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
