"""Simple command lines are read without argparse, and mean what they mean to argparse."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sidecar.cli import parser, quick, run

SIMPLE = [
    [],
    ["--config", "a.yaml"],
    ["--config=a.yaml", "--log-level=debug"],
    ["--config=a=b"],
    ["--config="],
    ["--status-address=127.0.0.1:0", "--admin-address", "off", "--app-port", "8000"],
    ["--require-config"],
    ["--require-config", "--config=a"],
    ["--require-config", "false"],
    ["--require-config=false", "--require-config=true"],
    ["--workers=2", "--workers", "3"],
    ["--configmap", "shop/orders"],
]
NOT_SIMPLE = [
    ["--help"],
    ["-h"],
    ["a.yaml"],
    ["--config"],
    ["--config", "--workers"],
    ["--config", "-"],
    ["--nonsense=1"],
    ["--conf=a.yaml"],
    ["--workers=900"],
    ["--require-config=perhaps"],
    ["--", "a"],
]


@pytest.mark.parametrize("words", SIMPLE, ids=" ".join)
@pytest.mark.parametrize("variable", ["", "3"])
def test_a_simple_line_means_what_it_means_to_argparse(words: list[str], variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_WORKERS", variable)
    read = quick.read(run.add_arguments, words)
    assert read is not None
    assert vars(read) == vars(parser.of_command("run", "", run.add_arguments).parse_args(words))


@pytest.mark.parametrize("words", NOT_SIMPLE, ids=" ".join)
def test_whatever_is_not_simple_is_left_to_argparse(words: list[str]) -> None:
    assert quick.read(run.add_arguments, words) is None


def test_a_variable_that_makes_no_sense_is_left_to_argparse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_WORKERS", "900")
    assert quick.read(run.add_arguments, []) is None


def test_a_sidecar_starts_without_argparse_and_typing_extensions() -> None:
    code = (
        "import sys\nfrom sidecar.cli import main\nsys.modules['sidecar.app'] = app = type(sys)('app')\napp.NO_CONFIG = 78\n"
        "app.serve = lambda _: print([name for name in ('argparse', 'typing_extensions', 'msgspec') if name in sys.modules]) or 0\n"
        "print(main.main(['run', '--config=a.yaml', '--require-config']))\nimport typing_extensions"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "['msgspec']\n0\n"
    code = "import sys, sidecar.cli.run, sidecar.app; print('argparse' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
