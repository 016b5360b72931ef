"""What the machine may do to the process: no descriptor left, no CPU, a full disk, a clock that jumps, time that stands still."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import uvloop
from bounds_kit import Crowd, ask, chain, descriptors, metrics, until
from support import RawClient

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SOURCES = Path(__file__).parents[2] / "sidecar"


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit: install util-linux")
def test_without_descriptors_clients_wait_probes_answer_readiness_tells_and_it_recovers() -> None:
    limit = 160

    async def main() -> None:
        async with chain(prefix=["prlimit", f"--nofile={limit}:{limit}"]) as (sidecar, _):
            async with Crowd(sidecar.port()) as crowd:
                await crowd.join(limit + 40, b"GET / HT")
                await asyncio.to_thread(sidecar.wait_for, "overloaded", overload="narrow", resource="file_descriptors")
                await until(lambda: descriptors(sidecar.pid) <= limit, "it has no more than it may")
                assert (await ask(sidecar.status_port, "/livez"))[0] == 200
            await asyncio.to_thread(sidecar.wait_for, "overload_over")
            await until(lambda: descriptors(sidecar.pid) < limit // 2, "descriptors are given back")
            assert await ask(sidecar.port()) == (200, b"ok")
            assert (await ask(sidecar.status_port, "/readyz"))[0] == 200
            found = await metrics(sidecar)
            assert found['outrider_overload_actions_total{action="head_refused"}'] > 0
            assert found['outrider_overload_level{resource="file_descriptors"}'] == 0

    uvloop.run(main())


def test_a_process_that_was_stopped_for_a_while_goes_on_where_it_was_and_tells() -> None:
    async def main() -> None:
        async with chain() as (sidecar, _):

            async def told() -> bool:
                runtime = json.loads((await ask(sidecar.admin_port, "/runtime"))[1])
                return sum(runtime["loopBlocked"]["count"].values()) > 0

            async with await RawClient.open(sidecar.port(), timeout=30) as client:
                for _ in range(5):  # at the moment at which it wakes a stop may go unseen
                    assert (await client.request()).status == 200
                    os.kill(sidecar.pid, signal.SIGSTOP)
                    try:
                        await client.send(GET)
                        await asyncio.sleep(1.0)
                    finally:
                        os.kill(sidecar.pid, signal.SIGCONT)
                    assert (await client.read_response()).status == 200
                    await asyncio.sleep(0.2)
                    if await told():
                        break
            assert await told()
            assert (await ask(sidecar.status_port, "/livez"))[0] == 200

    uvloop.run(main())


CPU = Path("/sys/fs/cgroup/cpu")


@pytest.mark.skipif(
    not os.access(CPU, os.W_OK) or not (CPU / "cpu.cfs_quota_us").parent.exists(), reason="needs a writable cpu cgroup (v1)"
)
def test_a_quota_of_a_twentieth_of_a_cpu_makes_it_slow_and_nothing_else() -> None:
    folder = CPU / f"outrider-test-{os.getpid()}"

    async def main() -> None:
        async with chain(prefix=["sh", "-c", f'echo $$ > "{folder}/cgroup.procs" && exec "$@"', "in-cgroup"]) as (sidecar, _):
            (folder / "cpu.cfs_period_us").write_text("100000")
            (folder / "cpu.cfs_quota_us").write_text("5000")
            try:
                seen = await asyncio.gather(*(ask(sidecar.port()) for _ in range(40)))
                assert seen == [(200, b"ok")] * 40
                assert (await ask(sidecar.status_port, "/livez"))[0] == 200
                assert (await metrics(sidecar))["outrider_cpu_throttled_seconds_total"] > 0
            finally:
                (folder / "cpu.cfs_quota_us").write_text("-1")

    try:
        folder.mkdir()
        uvloop.run(main())
    finally:
        folder.rmdir()


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit: install util-linux")
def test_a_disk_that_takes_nothing_costs_the_last_good_document_and_no_request() -> None:
    """The kernel refuses every byte of a regular file (EFBIG); as with a full disk reloads go on, and the log says what is missing."""

    async def main() -> None:
        async with chain(prefix=["prlimit", "--fsize=0:0"]) as (sidecar, server):
            assert await ask(sidecar.port()) == (200, b"ok")
            await asyncio.to_thread(sidecar.wait_for, "last_good_failed")
            assert not list((sidecar.folder / "state").glob("*.yaml"))
            await sidecar.await_for("config_applied")
            applied = len(sidecar.events("config_applied"))
            await sidecar.aapply(
                {
                    "apiVersion": "outrider.dev/v1alpha1",
                    "kind": "SidecarConfig",
                    "listeners": [{"name": "inbound", "port": sidecar.port(), "bind": "127.0.0.1"}],
                    "upstreams": [{"name": "other", "targets": [{"url": server.url}]}],
                }
            )
            assert len(sidecar.events("config_applied")) == applied + 1

    uvloop.run(main())


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(path) == 0


def _onto_full(command: list[str]) -> subprocess.Popen[bytes]:
    with Path("/dev/full").open("wb") as full:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.DEVNULL)


def test_a_log_that_cannot_be_written_costs_lines_and_no_request() -> None:
    """Standard output is /dev/full."""

    async def main() -> None:
        async with chain() as (good, server):
            document = good.folder / "other.yaml"
            document.write_text(
                "{apiVersion: outrider.dev/v1alpha1, kind: SidecarConfig, "
                f'listeners: [{{name: inbound, bind: "unix:{good.folder}/in.sock"}}], '
                f'upstreams: [{{name: app, targets: [{{url: "{server.url}"}}]}}]}}'
            )
            command = [sys.executable, "-m", "sidecar", "run", f"--config={document}", "--state-dir=off", "--admin-address=off"]
            process = await asyncio.to_thread(_onto_full, [*command, "--status-address=127.0.0.1:0"])
            try:
                await until(lambda: _listens(f"{good.folder}/in.sock"), "it listens")
                async with await RawClient.open_unix(f"{good.folder}/in.sock", timeout=30) as client:
                    for _ in range(50):
                        assert (await client.request()).body == b"ok"
            finally:
                process.send_signal(signal.SIGINT)
                assert await asyncio.to_thread(process.wait, 30) in (0, 1)

    uvloop.run(main())


SHOWN = {
    "config/store.py": "when a document was loaded or rejected",
    "kube/events.py": "the time of a Kubernetes Event",
    "observe/metrics_export/data.py": "the time of a data point",
    "observe/metrics_export/service.py": "the start of the counters",
    "observe/tracing/record.py": "the times of a span",
    "observe/watchdog.py": "when the loop was blocked",
    "proxy/reply.py": "Date",
    "server/status.py": "Date",
}
"""Modules that show a time to somebody."""
GIVEN = {
    "injector/authority.py": "validity of certificates is in wall-clock time (RFC 5280 section 4.1.2.5)",
    "injector/refusals.py": "the time of a Kubernetes Event",
    "observe/tracing/sender.py": "a Retry-After of a collector that is a date; the export's own deadline bounds the wait for it",
    "proxy/dispatch.py": "a Retry-After that is a date (RFC 9110 section 10.2.3); the wait for it is bounded by monotonic clocks",
}
"""Modules that are given a wall-clock time by somebody else and have to compare with it."""


def _wall_clock_readers() -> dict[str, list[int]]:
    """By module, the lines where it asks what time it is, not how much has passed."""
    found: dict[str, list[int]] = {}
    for file in sorted(SOURCES.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        bare = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "time"
            for alias in node.names
            if alias.name in ("time", "time_ns")
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if (
                called in bare
                or called in ("time.time", "time.time_ns")
                or called.endswith(("datetime.now", "datetime.utcnow", "date.today"))
            ):
                found.setdefault(str(file.relative_to(SOURCES)), []).append(node.lineno)
    return found


def test_the_wall_clock_is_shown_or_given_and_decides_no_time_out() -> None:

    assert set(_wall_clock_readers()) == {*SHOWN, *GIVEN}
