"""The commands that talk to a sidecar, against a real admin surface."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import aiohttp
import pytest
from admin.admin_fakes import Caller, Check, World, served, served_unix
from support.ports import free_port

from sidecar.admin.context import RejectedConfig
from sidecar.cli.main import main
from sidecar.config.problem import Problem


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OUTRIDER_ADMIN", "OUTRIDER_ADMIN_ADDRESS", "OUTRIDER_CONFIG", "OUTRIDER_TIMEOUT", "OUTRIDER_OUTPUT", "OUTRIDER_LISTENER"):
        monkeypatch.delenv(name, raising=False)


def command(world: World, *words: str) -> int:
    """The exit code of a command that asks `world`."""

    async def use(caller: Caller) -> int:
        return await asyncio.to_thread(main, [*words, "--admin", caller.base])

    return asyncio.run(served(world, use))


def nobody() -> str:
    """An address at which nothing listens."""
    return f"http://127.0.0.1:{free_port()}"


def test_wait_ends_at_once_when_the_sidecar_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(World(), "wait", "--timeout", "5s") == 0
    assert capsys.readouterr() == ("", "")


def test_wait_waits_until_the_sidecar_becomes_ready() -> None:
    world = World()
    world.checks = [Check(name="config", ok=False)]

    async def use(caller: Caller) -> int:
        waiting = asyncio.create_task(asyncio.to_thread(main, ["wait", "--timeout", "20s", "--admin", caller.base]))
        await asyncio.sleep(0.05)
        world.checks = [Check(name="config", ok=True)]
        return await waiting

    assert asyncio.run(served(world, use)) == 0


@pytest.fixture
def patient_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last look has so much time, too, and then its answer counts, however busy this machine is."""
    monkeypatch.setattr("sidecar.cli.wait.INTERVAL", 20.0)
    monkeypatch.setattr("sidecar.cli.drain.INTERVAL", 20.0)


@pytest.mark.usefixtures("patient_looks")
def test_wait_tells_what_is_missing_when_time_is_up(capsys: pytest.CaptureFixture[str]) -> None:
    world = World()
    world.checks = [Check(name="config", ok=False, detail="no valid document"), Check(name="listeners", ok=True)]
    assert command(world, "wait", "--timeout", "100ms") == 1
    assert capsys.readouterr().err == "outrider: not ready after 0.1s: config: no valid document\n"


def test_wait_waits_for_a_sidecar_that_has_not_started(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wait", "--timeout", "200ms", "--admin", nobody()]) == 1
    error = capsys.readouterr().err
    assert error.startswith("outrider: not ready after 0.2s: no sidecar answers at http://127.0.0.1:")
    assert error.count("\n") == 1


def test_drain_waits_until_the_sidecar_has_drained() -> None:
    world = World()
    world.in_flight = [3, 1, 0]
    assert command(world, "drain", "--timeout", "10s") == 0
    assert world.drains == 3


@pytest.mark.usefixtures("patient_looks")
def test_drain_tells_what_is_in_flight_when_time_is_up(capsys: pytest.CaptureFixture[str]) -> None:
    world = World()
    world.in_flight = [4]
    assert command(world, "drain", "--timeout", "100ms") == 1
    assert capsys.readouterr().err == "outrider: not drained after 0.1s: 4 in flight\n"


def test_drain_fails_when_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drain", "--admin", nobody()]) == 1
    assert "no sidecar answers" in capsys.readouterr().err


def test_drain_is_done_when_the_sidecar_goes_meanwhile() -> None:
    world = World()
    world.in_flight = [4]

    async def use(caller: Caller) -> tuple[asyncio.Task[int], str]:
        draining = asyncio.create_task(asyncio.to_thread(main, ["drain", "--timeout", "20s", "--admin", caller.base]))
        while not world.drains:
            await asyncio.sleep(0.01)
        return draining, caller.base

    async def scenario() -> int:
        draining, _ = await served(world, use)
        return await draining

    assert asyncio.run(scenario()) == 0


def test_a_unix_socket_is_an_admin_address_too(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"

    async def use(_session: aiohttp.ClientSession) -> int:
        return await asyncio.to_thread(main, ["wait", "--admin", f"unix:{path}"])

    assert asyncio.run(served_unix(World(), path, use)) == 0


@pytest.mark.parametrize("variable", ["OUTRIDER_ADMIN", "OUTRIDER_ADMIN_ADDRESS"])
def test_the_admin_address_comes_from_a_variable_when_there_is_no_flag(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(caller: Caller) -> int:
        monkeypatch.setenv(variable, f"0.0.0.0:{caller.port}" if variable.endswith("ADDRESS") else caller.base)
        return await asyncio.to_thread(main, ["wait"])

    assert asyncio.run(served(World(), use)) == 0


@pytest.mark.parametrize(
    "address", ["off", "unix:", "ftp://127.0.0.1:1", "http://127.0.0.1:1/path", "127.0.0.1:99999", "127.0.0.1:0", "http://[::1"]
)
def test_an_address_that_is_none_is_a_usage_error_in_one_line(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drain", "--admin", address]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("timeout", ["30", "1d", "-1s", "1.5s", ""])
def test_durations_are_gep_2257(timeout: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wait", f"--timeout={timeout}"]) == 2
    assert "is not a duration (write for example 30s" in capsys.readouterr().err


def test_a_variable_that_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OUTRIDER_TIMEOUT", "soon")
    assert main(["wait"]) == 2
    assert "OUTRIDER_TIMEOUT: 'soon' is not a duration" in capsys.readouterr().err


def test_a_server_that_is_no_sidecar_gets_a_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        await writer.drain()
        writer.close()

    async def scenario() -> int:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.to_thread(main, ["drain", "--admin", f"127.0.0.1:{port}"])

    assert asyncio.run(scenario()) == 1
    assert "is this the admin address of a sidecar?" in capsys.readouterr().err


def test_a_server_that_never_answers_does_not_hold_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert main(["wait", "--timeout", "200ms", "--admin", f"127.0.0.1:{silent.getsockname()[1]}"]) == 1
    assert "did not answer within" in capsys.readouterr().err


def test_explain_asks_the_sidecar_and_renders_its_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(World(), "explain", "GET", "http://orders.shop.svc/v1/a?b=1&c", "-H", "x-tenant: a") == 0
    text = capsys.readouterr().out
    assert "orders (built-in): matches by hostname orders.shop.svc, path PathPrefix /v1, header x-tenant" in text
    assert "127.0.0.1:8000  healthy  weight 1  3 in flight" in text
    assert "GET /a?b=1&c HTTP/1.1" in text


def test_explain_ends_with_1_when_no_route_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(World(), "explain", "GET", "http://nowhere.example/", "--listener", "outbound") == 1
    assert "403 http_request_denied" in capsys.readouterr().out


def test_explain_shows_the_sidecars_refusal_as_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(World(), "explain", "GET", "/", "--listener", "nope") == 2
    assert capsys.readouterr().err == "outrider: there is no listener 'nope' (there is inbound, outbound)\n"


def test_explain_with_admin_asks_the_sidecar_whatever_outrider_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_CONFIG", "/nowhere.yaml")
    assert command(World(), "explain", "GET", "/x") == 0


def metrics(requests: int) -> bytes:
    return (
        "# TYPE outrider_requests_total counter\n"
        f'outrider_requests_total{{listener="inbound",route="a\\"b",upstream="app",method="GET",code="200",reason="none"}} {requests}.0\n'
        f'outrider_requests_total{{listener="inbound",route="",upstream="app",method="GET",code="503",reason="overloaded"}} {requests // 10}\n'
        'outrider_response_bytes_total{listener="inbound",route="a",upstream="app"} 1e+06\n'
        'other_total{listener="inbound"} 5\n'
    ).encode()


class Busy(World):
    """Every look at the metrics finds 100 more requests."""

    looks = 0

    async def _metrics(self) -> bytes:
        self.looks += 1
        return metrics(100 * self.looks)


def test_status_shows_readiness_configuration_listeners_upstreams_and_rates(capsys: pytest.CaptureFixture[str]) -> None:
    world = Busy()
    assert command(world, "status", "--interval", "100ms") == 0
    text = capsys.readouterr().out
    for words in (
        ": ready, up 1m15s",
        "revision 7 from file",
        "inbound  Reverse  0.0.0.0:15001",
        "1 of 1 healthy",
        "127.0.0.1:8000  healthy",
    ):
        assert words in text
    rate = float(next(line for line in text.splitlines() if line.startswith("  inbound")).split()[4])
    assert 0 < rate <= 1100


def test_status_says_why_the_sidecar_is_not_ready_and_what_is_wrong_with_the_newest_document(capsys: pytest.CaptureFixture[str]) -> None:
    world = World()
    world.checks = [Check(name="config", ok=False, detail="no valid document")]
    world.state = "starting"
    world.config = None
    world.rejected = RejectedConfig(
        source="file", revision="8", rejected_at=1.0, problems=(Problem("routes[0].name", 3, 5, "wrong\x1b[2J"),) * 50
    )
    assert command(world, "status", "--interval", "1ms") == 1
    text = capsys.readouterr().out
    for words in ("NOT READY (starting)", "! config: no valid document", "line 3, routes[0].name: wrong\\x1b", "and 10 more"):
        assert words in text


def test_status_has_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(Busy(), "status", "--interval", "10ms", "--output", "json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["readiness"]["ready"] is True
    assert told["rates"]["listener"]["inbound"]["requests"] > 0


def test_status_fails_in_one_line_when_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--admin", nobody()]) == 1
    assert capsys.readouterr().err.startswith("outrider: no sidecar answers")
