"""The frame of the command line: which command, which errors, which exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar import bootstrap
from sidecar.cli.main import COMMANDS, main
from sidecar.server.sockets import SocketAddress


def stderr_of(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(words)
    return code, capsys.readouterr().err


@pytest.mark.parametrize("command", [*COMMANDS])
def test_the_help_of_each_command_fits_a_screen_and_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "example" in shown
    assert command in shown.partition("example")[2]
    assert len(shown.splitlines()) <= 40
    assert max(map(len, shown.splitlines())) <= 120


def test_without_a_command_the_help_goes_to_stderr_and_the_code_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = stderr_of(capsys)
    assert code == 2
    assert all(f"  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize(
    "words",
    [
        ["bogus"],
        ["--bogus"],
        ["run"],
        ["run", "--bogus"],
        ["run", "--conf", "x"],
        *(["run", "--config=x", f"--workers={text}"] for text in ("0", "-1", "65", "1e3", "2.0", "many", "9" * 400, "\uff12", "4\n", " 2")),
        ["run", "--configmap=Shop/orders"],
        ["run", "--configmap=shop/orders/sidecar.yaml"],
        ["run", "--configmap=orders", "--configmap-key=a/b"],
        ["run", "--config=x", "--kubeconfig=/not/there"],
        ["run", "--config=x", "--status-address=nowhere"],
        ["run", "--config=x", "--status-address=off"],
        ["run", "--config=x", "--admin-address=[::1"],
        ["run", "--config=x", "--log-level=loud"],
        ["run", "--config=x", "--log-format=xml"],
        ["run", "--config=x", "--require-config=perhaps"],
        ["run", "--config=x", f"--state-dir={__file__}"],
    ],
)
def test_a_wrong_command_line_is_one_line_on_stderr_and_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, text = stderr_of(capsys, *words)
    assert code == 2
    assert text.startswith("outrider: ")
    assert text.count("\n") == 1


def test_a_configmap_without_the_package_that_reads_it_is_refused_with_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes_asyncio", None)
    code, text = stderr_of(capsys, "run", "--configmap=x")
    assert (code, text) == (2, "outrider: --configmap needs a package that is not installed (pip install 'outrider[kubernetes]')\n")


def test_a_complaint_about_a_variable_names_it_and_a_flag_wins_over_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTRIDER_WORKERS", "900")
    assert "OUTRIDER_WORKERS" in stderr_of(capsys, "run", "--config=x")[1]
    assert "--config" in stderr_of(capsys, "run", "--workers=1")[1]


def test_an_unexpected_error_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("sidecar.cli.version.run", fail)
    assert stderr_of(capsys, "version") == (1, "outrider: unexpected error: two lines\n")


def test_an_interrupt_is_no_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("sidecar.cli.version.run", interrupt)
    assert stderr_of(capsys, "version") == (130, "")


def test_a_reader_that_leaves_early_is_no_traceback() -> None:
    with subprocess.Popen([sys.executable, "-m", "sidecar", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 1


def test_a_command_loads_nothing_of_the_others() -> None:
    code = "import sys; from sidecar.cli.main import main; main(['version']); print('sidecar.app' in sys.modules, 'uvloop' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.splitlines()[-1] == "False False"


def test_nothing_heavy_is_imported_before_ready() -> None:
    code = "import sys, sidecar.app; print([name for name in ('aiohttp', 'kubernetes_asyncio', 'sidecar.kube', 'sidecar.workers', 'prometheus_client', 'pycares', 're2', 'httpx') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == "[]\n"


def test_the_admin_address_may_be_off() -> None:
    assert bootstrap.admin_address("off") is None
    assert bootstrap.admin_address("127.0.0.1:1") == SocketAddress("127.0.0.1", 1)


def test_the_state_folder_is_off_or_as_given(tmp_path: Path) -> None:
    assert bootstrap.state_dir("off", tmp_path / "a") is None
    assert bootstrap.state_dir("/x", tmp_path / "a") == Path("/x")


def test_in_a_users_state_folder_every_document_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "STATE_DIR", tmp_path / "not-there")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one, other = (bootstrap.state_dir(None, tmp_path / name / "sidecar.yaml") for name in ("one", "other"))
    assert one is not None
    assert one.parent == tmp_path / "outrider"
    assert one != other
    assert one == bootstrap.state_dir(None, tmp_path / "one" / "sidecar.yaml")


def test_the_systems_state_folder_is_taken_when_it_can_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "STATE_DIR", tmp_path)
    assert os.access(tmp_path, os.W_OK)
    assert bootstrap.state_dir(None, tmp_path / "a") == tmp_path


def test_in_a_users_state_folder_every_configmap_has_its_own_and_a_file_beside_it_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "STATE_DIR", tmp_path / "not-there")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    names = ("shop/orders sidecar.yaml  ", "shop/carts sidecar.yaml  ", "shop/orders b.yaml  ", "shop/orders sidecar.yaml  staging")
    folders = [bootstrap.state_dir(None, None, configmap=name) for name in names]
    folders += [bootstrap.state_dir(None, tmp_path / "a.yaml", configmap=names[0]), bootstrap.state_dir(None, tmp_path / "a.yaml")]
    assert len(set(folders)) == len(folders)
    assert folders[0] is not None
    assert folders[0].name.startswith("shop.orders-")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [("orders", ("", "orders")), ("shop/orders.v2", ("shop", "orders.v2")), ("a/" + "b" * 253, ("a", "b" * 253))],
)
def test_a_configmap_has_a_name_and_may_have_a_namespace(text: str, meaning: tuple[str, str]) -> None:
    assert bootstrap.configmap(text) == meaning


@pytest.mark.parametrize(
    "text", ["", "/orders", "shop/", "a/b/c", "Orders", "orders_x", "-a", "a.b/c", "b" * 254, "n" * 64 + "/x", "é", "a\n"]
)
def test_what_is_no_name_of_a_configmap_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="NAMESPACE/NAME"):
        bootstrap.configmap(text)


def test_the_pod_is_known_by_the_downward_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "NAMESPACE_FILE", tmp_path / "namespace")
    names = {"POD_NAME": "orders-1", "POD_NAMESPACE": "shop", "POD_UID": "u", "POD_IP": "10.0.0.7", "NODE_NAME": "n1", "NODE_ZONE": "z1"}
    assert bootstrap.identity(names) == ("orders-1", "shop", "u", "10.0.0.7", "n1", "z1")
    assert bootstrap.identity({}) == ("",) * 6
    assert bootstrap.identity({"POD_NAME": "a\nb", "NODE_ZONE": "z" * 254}) == ("",) * 6
    (tmp_path / "namespace").write_text("from-the-token\n")
    assert bootstrap.identity({}).namespace == "from-the-token"
    assert bootstrap.identity(names).namespace == "shop"
    assert bootstrap.identity(names).fields() == {"pod": "orders-1", "namespace": "shop", "node": "n1", "zone": "z1"}
