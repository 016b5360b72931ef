"""`outrider run`, the real process: start, ports, probes, exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import RawClient, ScriptedUpstream, Sidecar
from support.upstream import answer, response

LISTENERS = [{"name": "inbound", "port": 0, "bind": "127.0.0.1"}, {"name": "outbound", "port": 0, "bind": "127.0.0.1", "mode": "Forward"}]


def document(port: int, **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "SidecarConfig",
        "listeners": LISTENERS,
        "upstreams": [{"name": "app", "targets": [{"url": f"http://127.0.0.1:{port}"}]}],
        "lifecycle": {"drainDelay": "0s", "drainTimeout": "2s"},
        **more,
    }


def outrider(*words: str, env: dict[str, str] | None = None, timeout: float = 20.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sidecar", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env={**os.environ, **(env or {})})


def quiet(*words: str) -> list[str]:
    return ["--status-address=127.0.0.1:0", "--admin-address=off", "--state-dir=off", *words]


def get(port: int, target: str) -> tuple[int, bytes]:
    async def ask() -> tuple[int, bytes]:
        async with await RawClient.open(port) as client:
            reply = await client.request(target, host="localhost")
            return reply.status, reply.body

    return asyncio.run(ask())


def test_a_request_flows_from_a_listener_to_its_upstream() -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"hello"))) as upstream, Sidecar(document(upstream.port)) as sidecar:
            async with await RawClient.open(sidecar.port()) as client:
                assert (await client.request("/x")).body == b"hello"

    asyncio.run(main())


def test_the_ready_line_tells_every_address_and_the_revision_and_comes_once() -> None:
    with Sidecar(document(1)) as sidecar:
        line = sidecar.wait_for("ready")
        assert set(line["listeners"]) == {"inbound", "outbound"}
        assert all(line[key] for key in ("status", "admin", "revision"))
        assert len(sidecar.events("ready")) == 1


def test_probes_and_metrics_are_on_the_status_address() -> None:
    with Sidecar(document(1)) as sidecar:
        assert [get(sidecar.status_port, path) for path in ("/startupz", "/readyz", "/livez")] == [(200, b"ok\n")] * 3
        status, body = get(sidecar.status_port, "/metrics")
        assert status == 200
        assert b"outrider_config_info{" in body


def test_without_a_document_it_starts_and_is_not_ready_until_one_comes() -> None:
    with Sidecar(None, wait_ready=False) as sidecar:
        starting = sidecar.wait_for("starting")
        sidecar.wait_for("config_source_lost")
        port = int(starting["status"].rpartition(":")[2])
        while get(port, "/startupz")[0] != 200:  # the look for a last good document may still be under way
            assert not sidecar.events("ready")
        assert get(port, "/readyz") == (503, b"[-] config: no valid document yet\n")
        sidecar.edit(document(1))
        sidecar.wait_for("ready")
        assert get(port, "/readyz")[0] == 200


def test_the_admin_surface_answers_at_its_first_visit() -> None:
    with Sidecar(document(1)) as sidecar:
        status, body = get(sidecar.admin_port, "/listeners")
        assert (status, [entry["name"] for entry in json.loads(body)]) == (200, ["inbound", "outbound"])
        assert json.loads(get(sidecar.admin_port, "/config")[1])["document"]["upstreams"][0]["name"] == "app"


def test_the_admin_surface_may_be_a_unix_socket_or_off(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with Sidecar(document(1), flags=[f"--admin-address=unix:{path}"]) as sidecar:
        assert sidecar.wait_for("ready")["admin"] == f"unix:{path}"

        async def ask() -> int:
            async with await RawClient.open_unix(str(path)) as client:
                return (await client.request("/version", host="localhost")).status

        assert asyncio.run(ask()) == 200
    assert not path.exists()
    with Sidecar(document(1), flags=["--admin-address=off"]) as sidecar:
        assert sidecar.wait_for("ready")["admin"] == "off"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0)])
def test_a_signal_drains_and_the_exit_code_is_0(number: int, code: int) -> None:
    with Sidecar(document(1)) as sidecar:
        assert sidecar.stop(number) == code
        assert [line["event"] for line in sidecar.log][-3:] == ["draining", "drained", "stopped"]


def test_sigint_skips_the_drain_delay() -> None:
    with Sidecar(document(1, lifecycle={"drainDelay": "60s", "drainTimeout": "1s"})) as sidecar:
        assert sidecar.stop(signal.SIGINT, timeout=30) == 0


def stuck() -> tuple[Callable[[Any], Any], asyncio.Event]:
    """An upstream that never answers, and the event that it has been asked."""
    asked = asyncio.Event()

    async def play(connection: Any) -> None:
        await connection.read_request()
        asked.set()
        await connection.read_until_close()

    return play, asked


@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGTERM, signal.SIGTERM)])
def test_what_is_cut_at_the_end_makes_the_exit_code_1(signals: tuple[int, ...]) -> None:
    timeout = "300ms" if len(signals) == 1 else "60s"

    async def main() -> None:
        play, asked = stuck()
        async with ScriptedUpstream(play) as upstream:
            async with Sidecar(document(upstream.port, lifecycle={"drainDelay": "0s", "drainTimeout": timeout})) as sidecar:
                async with await RawClient.open(sidecar.port()) as client:
                    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    await asyncio.wait_for(asked.wait(), 30)
                    sidecar.process.send_signal(signals[0])
                    await sidecar.await_for("draining")
                    for number in signals[1:]:
                        sidecar.process.send_signal(number)
                    assert await asyncio.to_thread(sidecar.wait, 30) == 1

    asyncio.run(main())


def test_the_forward_listener_stays_open_until_nothing_is_in_flight() -> None:
    async def main() -> None:
        release = asyncio.Event()
        asked = asyncio.Event()

        async def slow(connection: Any) -> None:
            while True:
                request = await connection.read_request()
                if b"slow" in request.start:
                    asked.set()
                    await release.wait()
                await connection.send(response(body=b"done"))

        async with ScriptedUpstream(slow) as upstream, Sidecar(document(upstream.port)) as sidecar:
            async with await RawClient.open(sidecar.port("outbound")) as client:
                await client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
                await asyncio.wait_for(asked.wait(), 30)
                sidecar.process.send_signal(signal.SIGTERM)
                await sidecar.await_for("draining")
                async with await RawClient.open(sidecar.port("outbound")) as another:
                    reply = await another.request("/quick")
                    assert (reply.body, reply.get("connection")) == (b"done", "close")
                release.set()
                assert (await client.read_response()).body == b"done"
            assert await asyncio.to_thread(sidecar.wait, 30) == 0

    asyncio.run(main())


def test_post_drain_leaves_the_way_out_open_and_quitquitquit_ends_it() -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"out"))) as upstream, Sidecar(document(upstream.port)) as sidecar:
            drained = False
            while not drained:
                async with await RawClient.open(sidecar.admin_port) as door:
                    drained = json.loads((await door.request("/drain", method="POST", host="localhost")).body)["drained"]
            with pytest.raises(ConnectionRefusedError):
                await RawClient.open(sidecar.port())
            async with await RawClient.open(sidecar.port("outbound")) as client:
                reply = await client.request("/")
                assert (reply.body, reply.get("connection")) == (b"out", None)
            async with await RawClient.open(sidecar.admin_port) as admin:
                await admin.request("/quitquitquit", method="POST", host="localhost")
                assert await asyncio.to_thread(sidecar.wait, 30) == 0

    asyncio.run(main())


def test_require_config_exits_78_when_the_first_document_is_absent_or_invalid(tmp_path: Path) -> None:
    absent = tmp_path / "absent.yaml"
    assert outrider("run", f"--config={absent}", *quiet("--require-config")).returncode == 78
    absent.write_text("kind: Nonsense\n")
    done = outrider("run", f"--config={absent}", *quiet("--require-config"))
    assert done.returncode == 78
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr == f"outrider: no valid document at {absent} (--require-config)\n"


def test_a_port_in_use_is_one_clear_line_and_exit_code_2(tmp_path: Path) -> None:
    config = tmp_path / "sidecar.yaml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config.write_text(json.dumps(document(1, listeners=[{"name": "in", "port": port, "bind": "127.0.0.1"}])))
        done = outrider("run", f"--config={config}", *quiet())
        assert (done.returncode, done.stderr) == (
            2,
            f"outrider: listeners[0]: cannot listen on 127.0.0.1:{port}: the address is in use by another process\n",
        )
        done = outrider("run", f"--config={config}", "--admin-address=off", f"--status-address=127.0.0.1:{port}")
        assert done.returncode == 2
        assert done.stderr.startswith(f"outrider: --status-address: cannot listen on 127.0.0.1:{port}")


def test_the_last_good_document_serves_when_the_new_one_is_bad() -> None:
    with Sidecar(document(1)) as sidecar:
        kept = sidecar.folder / "state"
        sidecar.edit("nonsense: true\n")
        sidecar.wait_for("config_rejected")
        flags = [
            "--status-address=127.0.0.1:0",
            "--admin-address=off",
            f"--state-dir={kept}",
            "--log-format=json",
            f"--config={sidecar.config}",
        ]
        with subprocess.Popen([sys.executable, "-m", "sidecar", "run", *flags], stdout=subprocess.PIPE, text=True) as second:
            assert second.stdout is not None
            events = []
            for line in second.stdout:
                events.append(json.loads(line)["event"])
                if events[-1] == "ready":
                    second.send_signal(signal.SIGINT)
            assert second.wait(10) == 0
        assert [name for name in events if name in ("config_rejected", "last_good_used", "ready")] == [
            "config_rejected",
            "last_good_used",
            "ready",
        ]
