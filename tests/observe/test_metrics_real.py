"""What `/metrics` of a running sidecar is worth to the programs that read it: promtool's linter and a Prometheus."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import RawClient, ScriptedUpstream, Sidecar
from support.documents import one_upstream
from support.ports import free_port
from support.programs import need_program
from support.upstream import answer, response

OPENMETRICS = "application/openmetrics-text;version=1.0.0"


def scrape(sidecar: Sidecar, accept: str = "text/plain", encoding: str = "identity") -> bytes:
    request = urllib.request.Request(
        f"http://127.0.0.1:{sidecar.status_port}/metrics", headers={"Accept": accept, "Accept-Encoding": encoding}
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        body: bytes = reply.read()
        return gzip.decompress(body) if reply.headers["Content-Encoding"] == "gzip" else body


def samples(text: bytes) -> set[str]:
    """The series of a page, `name{labels}`, those that only some moments have left out."""
    return {line.rpartition(" ")[0] for line in text.decode().splitlines() if line and not line.startswith("#")}


@pytest.fixture(scope="module")
def busy() -> Iterator[Sidecar]:
    """A sidecar that has seen some traffic, good and bad."""

    async def traffic(sidecar: Sidecar) -> None:
        async with await RawClient.open(sidecar.port()) as client:
            for _ in range(3):
                assert (await client.request("/ok")).status == 200
        async with await RawClient.open(sidecar.port()) as client:
            await client.send(b"GET / HTTP/1.1\nHost: a\n\n")
            assert (await client.read_response()).status == 400

    async def prepare() -> Sidecar:
        async with ScriptedUpstream(answer(response(body=b"x"))) as upstream:
            sidecar = await asyncio.to_thread(Sidecar(one_upstream(upstream.port)).start)
            await traffic(sidecar)
            return sidecar

    sidecar = asyncio.run(prepare())
    try:
        yield sidecar
    finally:
        sidecar.__exit__(None, None, None)


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
def test_promtool_has_nothing_to_say_about_the_page(busy: Sidecar, accept: str) -> None:
    promtool = need_program("promtool")
    page = scrape(busy, accept)
    assert b"outrider_requests_total{" in page
    if accept == OPENMETRICS:
        page = as_text(page)
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, timeout=60, check=False)
    assert (done.stdout + done.stderr, done.returncode) == (b"", 0)


def as_text(page: bytes) -> bytes:
    """OpenMetrics names a counter without its samples' `_total`; promtool reads the text format alone, where it has it."""
    counters = set(re.findall(rb"^# TYPE (\w+) counter$", page, re.MULTILINE))
    assert counters
    return re.sub(
        rb"^# (HELP|TYPE) (\w+) ", lambda m: b"# %b %b " % (m[1], m[2] + b"_total" if m[2] in counters else m[2]), page, flags=re.MULTILINE
    )


def test_promtool_does_find_what_is_wrong_with_a_page() -> None:
    """The tests above could not fail otherwise."""
    wrong = b"# TYPE outrider_requests counter\noutrider_requests 1\n"
    done = subprocess.run([need_program("promtool"), "check", "metrics"], input=wrong, capture_output=True, timeout=60, check=False)
    assert done.returncode == 3


@contextmanager
def prometheus(folder: Path, target: int) -> Iterator[str]:
    """A Prometheus that scrapes `target` every second; its URL."""
    program = need_program("prometheus")
    static = {"targets": [f"127.0.0.1:{target}"], "labels": {"namespace": "shop", "pod": "orders-1"}}
    scrapes = {"job_name": "outrider", "static_configs": [static]}
    config = folder / "prometheus.yml"
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [scrapes]}))
    port = free_port()
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    process = subprocess.Popen([*command, "--log.level=warn", "--enable-feature=exemplar-storage"], stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def ask(url: str, **parameters: str) -> Any:
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(parameters)}", timeout=10) as reply:
        return json.load(reply)["data"]


def scraped(base: str) -> dict[str, Any]:
    """The target, once it has been scraped without an error."""
    deadline = time.monotonic() + 60
    target: dict[str, Any] = {}
    while time.monotonic() < deadline:
        try:
            (target,) = ask(f"{base}/api/v1/targets")["activeTargets"]
        except (OSError, ValueError):
            target = {}
        if target.get("health") == "up":
            return target
        if target.get("lastError"):
            break
        time.sleep(0.2)
    raise AssertionError(f"not scraped: {target}")


def test_a_real_prometheus_scrapes_it_and_has_every_series(busy: Sidecar, tmp_path: Path) -> None:
    with prometheus(tmp_path, busy.status_port) as base:
        scraped(base)
        found = ask(f"{base}/api/v1/query", query='{job="outrider"}')["result"]
        wanted = samples(scrape(busy, OPENMETRICS))
    stored = {
        json.dumps({k: v for k, v in one["metric"].items() if k not in ("job", "instance", "namespace", "pod")}, sort_keys=True)
        for one in found
    }
    assert len(wanted) > 100
    assert [line for line in wanted if json.dumps(identity(line), sort_keys=True) not in stored] == []


def identity(line: str) -> dict[str, str]:
    """`name{a="1"}` as Prometheus tells it: to it a label without a value is none."""
    name, _, inside = line.partition("{")
    return {"__name__": name, **{label: value for label, value in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', inside) if value}}
