"""The running sidecar and its commands, as a new user meets them: real processes, real files, real signals."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import RawClient, ScriptedUpstream, Sidecar
from support.ports import free_port
from support.upstream import answer, response

OUTRIDER = [sys.executable, "-m", "sidecar"]
QUIET = ("--status-address=127.0.0.1:0", "--admin-address=off", "--state-dir=off")
IN = {"name": "inbound", "port": 0, "bind": "127.0.0.1"}
OUT = {"name": "outbound", "port": 0, "bind": "127.0.0.1", "mode": "Forward"}


def document(port: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "SidecarConfig",
        "listeners": [IN, OUT],
        "upstreams": [{"name": "app", "targets": [{"url": f"http://127.0.0.1:{port}"}]}],
        "routes": [{"name": "all", "backendRefs": [{"name": "app"}], "timeouts": {"request": "3s"}}],
        "lifecycle": {"drainDelay": "0s", "drainTimeout": "2s"},
        **more,
    }


def cleaned(env: dict[str, str]) -> dict[str, str]:
    """Our environment without what would change a command's mind, and `env`."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OUTRIDER_")} | env


def outrider(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*OUTRIDER, *words], capture_output=True, text=True, timeout=20, check=False, env=cleaned(env))


def ask(port: int, target: str, method: str = "GET", **more: Any) -> tuple[int, Any]:
    """Status and body (decoded when it is JSON)."""

    async def call() -> tuple[int, Any]:
        async with await RawClient.open(port) as client:
            reply = await client.request(target, method=method, host="localhost", **more)
            is_json = b"json" in (reply.get("content-type") or "").encode()
            return reply.status, json.loads(reply.body) if is_json else reply.body

    return asyncio.run(call())


@pytest.fixture(scope="module")
def calm() -> Iterator[Sidecar]:
    """A ready sidecar that tests only look at."""
    with Sidecar(document()) as sidecar:
        yield sidecar


def admin(sidecar: Sidecar) -> str:
    return f"http://127.0.0.1:{sidecar.admin_port}"


# -- commands and a sidecar that is up


def test_status_of_a_ready_sidecar_is_a_screen_and_code_0(calm: Sidecar) -> None:
    done = outrider("status", "--interval=10ms", OUTRIDER_ADMIN=admin(calm))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"127.0.0.1:{calm.port()}" in done.stdout
    assert "ready" in done.stdout
    assert len(done.stdout.splitlines()) < 24


def test_the_admin_address_of_the_sidecars_own_container_is_found_and_the_flag_wins(calm: Sidecar) -> None:
    address = f"127.0.0.1:{calm.admin_port}"
    assert outrider("wait", OUTRIDER_ADMIN_ADDRESS=address).returncode == 0
    assert outrider("wait", OUTRIDER_ADMIN=address, OUTRIDER_ADMIN_ADDRESS="127.0.0.1:9").returncode == 0
    assert outrider("wait", "--admin", address, OUTRIDER_ADMIN="127.0.0.1:9").returncode == 0


def test_explain_says_the_same_offline_and_live(calm: Sidecar) -> None:
    question = ("explain", "POST", "http://a.example/x?y=1", "-H", "x-a: b", "--output=json")
    live = outrider(*question, "--admin", admin(calm))
    offline = outrider(*question, "--config", str(calm.config))
    assert (live.returncode, offline.returncode) == (0, 0)
    left, right = json.loads(live.stdout), json.loads(offline.stdout)
    for told in (left, right):  # only one of them knows what is bound and in flight
        del told["configuration"], told["listener"]["port"]
        for upstream in told["upstreams"]:
            del upstream["endpoints"]
    assert left == right


def test_headers_of_explain_may_come_from_the_variable(calm: Sidecar) -> None:
    told = outrider("explain", "GET", "/x", "--output=json", "--config", str(calm.config), OUTRIDER_HEADER="x-a: 1\nx-b: 2")
    assert [name for name, _ in json.loads(told.stdout)["request"]["headers"]] == ["x-a", "x-b"]


def test_no_answer_tells_what_the_admin_surface_is_served_by(calm: Sidecar) -> None:
    async def servers() -> list[str | None]:
        async with await RawClient.open(calm.admin_port) as client:
            return [(await client.request(path, host="localhost")).get("server") for path in ("/", "/runtime", "/nope")]

    assert asyncio.run(servers()) == ["outrider"] * 3


@pytest.mark.parametrize("path", ["/config", "/log-level", "/drain", "/quitquitquit", "/explain?url=/", "/", "/readyz/"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_the_status_surface_has_nothing_of_the_admin_surface(calm: Sidecar, method: str, path: str) -> None:
    assert ask(calm.status_port, path, method)[0] == 404
    assert calm.process.poll() is None


def test_watch_ends_with_ctrl_c_without_a_traceback(calm: Sidecar) -> None:
    command = [*OUTRIDER, "status", "--interval=50ms", "--admin", admin(calm)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=cleaned({"OUTRIDER_WATCH": "true"})
    ) as process:
        assert process.stdout is not None
        screens = 0
        for line in process.stdout:
            screens += line.startswith("outrider ")
            if screens == 2:
                process.send_signal(signal.SIGINT)
                break
        _, complaint = process.communicate(timeout=60)
        assert (process.returncode, complaint) == (130, "")


def test_commands_reach_a_sidecar_by_its_unix_socket_and_the_log_level_changes_while_running(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    flags = ["--log-level=error", f"--admin-address=unix:{path}"]
    with Sidecar(document(), flags=flags, wait_ready=False) as sidecar:
        assert outrider("wait", f"--admin=unix:{path}").returncode == 0
        assert path.stat().st_mode & 0o777 == 0o600
        assert sidecar.log == []

        async def change() -> bytes:
            async with await RawClient.open_unix(str(path)) as client:
                return (await client.request("/log-level", method="PUT", body=b'{"level":"info"}')).body

        assert asyncio.run(change()) == b'{"level":"info"}'
        sidecar.wait_for("log_level_changed", log_level="info")


# -- commands and a sidecar that is not there, or leaves


@pytest.mark.parametrize("words", [("status",), ("wait", "--timeout=10ms"), ("drain",), ("explain", "GET", "/")])
def test_without_a_sidecar_a_command_says_so_in_one_line_and_ends_with_1(words: tuple[str, ...], tmp_path: Path) -> None:
    done = outrider(*words, "--admin", f"unix:{tmp_path / 'none.sock'}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no sidecar answers at unix:" in done.stderr
    assert done.stderr.count("\n") == 1


def test_drain_is_told_by_every_surface_and_the_way_out_stays_open_until_quitquitquit() -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"out"))) as upstream:
            async with Sidecar(document(upstream.port)) as sidecar:
                await asyncio.to_thread(drained, sidecar)
                async with await RawClient.open(sidecar.port("outbound")) as client:
                    assert (await client.request("/")).body == b"out"
                assert await asyncio.to_thread(ask, sidecar.admin_port, "/quitquitquit", "POST") == (200, {"state": "stopping"})
                assert await asyncio.to_thread(sidecar.wait, 10) == 0

    asyncio.run(main())


def drained(sidecar: Sidecar) -> None:
    env = {"OUTRIDER_ADMIN": admin(sidecar)}
    assert [outrider("drain", **env).returncode for _ in range(2)] == [0, 0]
    assert ask(sidecar.status_port, "/readyz") == (503, b"[-] not-draining: the sidecar is drained\n")
    assert [ask(sidecar.status_port, path)[0] for path in ("/livez", "/startupz")] == [200, 200]
    assert {entry["name"]: entry["state"] for entry in ask(sidecar.admin_port, "/listeners")[1]} == {
        "inbound": "closed",
        "outbound": "listening",
    }
    status = outrider("status", "--interval=10ms", **env)
    assert status.returncode == 1
    assert "NOT READY (drained)" in status.stdout
    said = "outrider: not ready after 0.1s: not-draining: the sidecar is drained\n"
    waited = outrider("wait", "--timeout=100ms", **env)
    for _ in range(20):  # the look has 0.1 s, in which a busy machine may not answer
        if waited.stderr != said:
            waited = outrider("wait", "--timeout=100ms", **env)
    assert (waited.returncode, waited.stderr) == (1, said)


# -- the document while it runs


def test_a_mistake_is_told_by_log_metric_admin_and_commands_in_the_same_words_until_it_is_gone() -> None:
    with Sidecar(document()) as sidecar:
        good = sidecar.config.read_text()
        line = sidecar.refuse(json.dumps(document(routse=[])))
        words = line["problems"][0].removeprefix("file:")
        assert outrider("validate", str(sidecar.config)).stdout == f"{sidecar.config}:{words}\n"
        assert config_rejected(sidecar) == b"1"
        told = ask(sidecar.admin_port, "/config/problems")[1]["problems"][0]
        assert words == "{line}:{column}: {path}: {message}".format(**told)
        screen = outrider("status", "--interval=10ms", "--admin", admin(sidecar))
        assert screen.returncode == 0
        assert told["message"] in screen.stdout
        sidecar.edit(good)
        sidecar.wait_for("config_reverted")
        assert config_rejected(sidecar) == b"0"
        assert ask(sidecar.admin_port, "/config/problems")[1]["problems"] == []


def config_rejected(sidecar: Sidecar) -> bytes:
    page: bytes = ask(sidecar.status_port, "/metrics")[1]
    return page.split(b"\noutrider_config_rejected ")[1].split(b"\n")[0]


def test_a_document_that_goes_away_is_told_and_what_is_active_serves_on() -> None:
    with Sidecar(document()) as sidecar:
        sidecar.config.unlink()
        sidecar.wait_for("config_source_lost")
        screen = outrider("status", "--interval=10ms", "--admin", admin(sidecar))
        assert screen.returncode == 0
        why = f"{sidecar.config} cannot be opened: No such file or directory"
        assert f"  ! file: {why}" in screen.stdout
        assert ask(sidecar.admin_port, "/overview")[1]["sources"] == [{"name": "file", "connected": False, "problem": why}]
        assert ask(sidecar.status_port, "/readyz")[0] == 200
        sidecar.edit(document())
        sidecar.wait_for("config_source_back")
        assert ask(sidecar.admin_port, "/overview")[1]["sources"] == [{"name": "file", "connected": True, "problem": ""}]


@pytest.mark.parametrize("text", ["", "\t", "- a\n- b\n", "\ufeff{}", "a: &x [*x]\n", "\x00", "!!python/object:os.system {}\n"])
def test_a_broken_first_document_leaves_it_alive_not_ready_and_without_a_traceback(text: str) -> None:
    with Sidecar(text, wait_ready=False) as sidecar:
        problem = sidecar.wait_for("config_rejected")["problems"][0]
        assert problem.startswith("file:1:")
        port = int(sidecar.wait_for("starting")["status"].rpartition(":")[2])
        assert ask(port, "/livez")[0] == 200
        assert ask(port, "/readyz") == (503, b"[-] config: no valid document yet\n")


def test_a_folder_instead_of_a_document_is_told() -> None:
    with Sidecar(None, wait_ready=False, flags=["--config=/"]) as sidecar:
        assert sidecar.wait_for("config_source_lost")["message"] == "/ is a folder, not a file"


def test_the_state_folder_may_be_one_that_cannot_be_written_to() -> None:
    with Sidecar(document(), flags=["--state-dir=/proc/outrider"]) as sidecar:
        sidecar.wait_for("last_good_failed")
        assert ask(sidecar.status_port, "/readyz")[0] == 200


# -- an upstream that dies


def test_an_upstream_that_dies_is_explained_everywhere_and_comes_back() -> None:
    async def main() -> None:
        port = free_port()  # it comes back
        up = ScriptedUpstream(answer(response(body=b"up")), port=port)
        async with up:
            async with Sidecar(document(port)) as sidecar:
                async with await RawClient.open(sidecar.port()) as client:
                    assert (await client.request()).body == b"up"
                    await up.__aexit__(None, None, None)
                    reply = await client.request("/gone")
                    body = json.loads(reply.body)
                    assert (reply.status, body["reason"], body["status"]) == (502, "connection_refused", 502)
                    assert reply.get("proxy-status") == 'outrider; error=connection_refused; details="upstream=app attempt=2/2"'
                    assert reply.get("x-request-id") == body["requestId"]
                    await told(sidecar, body["requestId"])
                    async with ScriptedUpstream(answer(response(body=b"again")), port=port):
                        assert (await client.request()).body == b"again"

    asyncio.run(main())


async def told(sidecar: Sidecar, request_id: str) -> None:
    line = await sidecar.await_for("access", request_id=request_id)
    assert (line["status"], line["reason"], line["attempts"]) == (502, "connection_refused", 2)
    _, recent = await asyncio.to_thread(ask, sidecar.admin_port, "/recent")
    failure = recent["failures"][0]
    assert failure["requestId"] == request_id
    assert [one["outcome"] for one in failure["attempts"]] == ["connection_refused"] * 2
    _, page = await asyncio.to_thread(ask, sidecar.status_port, "/metrics")
    assert b'code="502",reason="connection_refused"} 1\n' in page


# -- flags, variables, outputs, exit codes of `run`


def test_every_setting_of_run_may_come_from_its_variable_and_the_flag_wins(tmp_path: Path) -> None:
    config = tmp_path / "sidecar.yaml"
    config.write_text(json.dumps(document()))
    env = {
        "OUTRIDER_CONFIG": str(config),
        "OUTRIDER_STATUS_ADDRESS": f"unix:{tmp_path / 'status.sock'}",
        "OUTRIDER_ADMIN_ADDRESS": "127.0.0.1:1",
        "OUTRIDER_STATE_DIR": str(tmp_path / "state"),
        "OUTRIDER_LOG_LEVEL": "info",
        "OUTRIDER_LOG_FORMAT": "json",
        "OUTRIDER_REQUIRE_CONFIG": "yes",
        "OUTRIDER_WORKERS": "1",
    }
    lines, code = run_until_ready("--admin-address=off", env=env)
    ready = json.loads(lines[-1])
    assert code == 0
    assert (ready["status"], ready["admin"]) == (f"unix:{tmp_path / 'status.sock'}", "off")
    assert (tmp_path / "state" / "last-good").stat().st_mode & 0o777 == 0o600


def run_until_ready(*flags: str, env: dict[str, str]) -> tuple[list[str], int]:
    """The lines up to the one that says ready, and the exit code after SIGINT."""
    with subprocess.Popen([*OUTRIDER, "run", *flags], stdout=subprocess.PIPE, text=True, env=cleaned(env)) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "ready" in line and "listeners" in line:
                process.send_signal(signal.SIGINT)
                break
        process.stdout.read()
        return lines, process.wait(60)


@pytest.mark.parametrize(("log_format", "json_lines"), [("json", True), ("auto", True), ("console", False)])
def test_the_log_format_is_as_asked_and_auto_is_json_into_a_pipe(tmp_path: Path, log_format: str, json_lines: bool) -> None:
    config = tmp_path / "sidecar.yaml"
    config.write_text(json.dumps(document()))
    lines, code = run_until_ready(*QUIET, f"--config={config}", f"--log-format={log_format}", env={})
    assert code == 0
    assert [line.startswith("{") for line in lines] == [json_lines] * len(lines)


def test_auto_is_for_people_on_a_terminal(tmp_path: Path) -> None:
    config = tmp_path / "sidecar.yaml"
    config.write_text(json.dumps(document()))
    ours, theirs = pty.openpty()
    with subprocess.Popen([*OUTRIDER, "run", *QUIET, f"--config={config}"], stdout=theirs, env=cleaned({})) as process:
        os.close(theirs)
        shown = b""
        while b" ready: " not in shown:
            shown += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    os.close(ours)
    assert b"{" not in shown.partition(b"listeners=")[0]


def test_a_port_in_use_prints_no_traceback_anywhere(calm: Sidecar, tmp_path: Path) -> None:
    config = tmp_path / "sidecar.yaml"
    config.write_text(json.dumps(document(listeners=[{**IN, "port": calm.port()}])))
    done = outrider("run", f"--config={config}", *QUIET)
    assert done.returncode == 2
    assert "Traceback" not in done.stdout
    assert done.stderr == f"outrider: listeners[0]: cannot listen on 127.0.0.1:{calm.port()}: the address is in use by another process\n"


def test_an_admin_address_that_is_a_file_is_told_and_the_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("mine")
    done = outrider("run", "--config=x", "--status-address=127.0.0.1:0", "--state-dir=off", f"--admin-address=unix:{file}")
    assert done.returncode == 2
    assert done.stderr == f"outrider: --admin-address: cannot listen on unix:{file}: the path exists and is not a socket\n"
    assert file.read_text() == "mine"


def test_closed_outputs_hold_nobody(tmp_path: Path) -> None:
    """A socket of ours must not become standard output either, so that log lines do not end up in a connection."""
    config = tmp_path / "sidecar.yaml"
    config.write_text(json.dumps(document()))
    socket = tmp_path / "status.sock"
    flags = f"--config={config} --status-address=unix:{socket} --admin-address=off --state-dir=off"
    with subprocess.Popen(["/bin/sh", "-c", f"exec {' '.join(OUTRIDER)} run {flags} <&- >&- 2>&-"], env=cleaned({})) as process:
        assert wait_until_ready(socket) == b"ok\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert subprocess.run(["/bin/sh", "-c", f"{' '.join(OUTRIDER)} version >&-"], timeout=20, check=False).returncode == 0


def wait_until_ready(socket: Path) -> bytes:
    async def look() -> bytes:
        async with await RawClient.open_unix(str(socket)) as client:
            return (await client.request("/readyz")).body

    deadline = time.monotonic() + 60
    while True:
        try:
            body = asyncio.run(look())
        except (FileNotFoundError, ConnectionRefusedError):
            body = b""
        if body == b"ok\n" or time.monotonic() > deadline:
            return body
        time.sleep(0.02)


def test_a_full_disk_behind_the_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*OUTRIDER, "version"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (1, "outrider: cannot go on: no space left on device\n")
