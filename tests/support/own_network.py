"""Runs a file of tests in a network namespace of its own, whose loopback has addresses that are no loopback addresses.

A real API server refuses EndpointSlices with 127.0.0.1. In a namespace of one's own every address may be put on `lo`, and
nothing of it is to be seen outside. No root is needed where the kernel lets users make namespaces.
"""

from __future__ import annotations

import ast
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

NETWORK4 = "10.99.0.0/16"
"""Every address of it is this machine."""
NETWORK6 = "fd99::"
"""`fd99::1` to `fd99::4` are this machine."""
_SET_UP = "ip link set lo up && ip address add 10.99.0.1/16 dev lo && {six} && exec {command}"
_SIX = " && ".join(f"ip address add fd99::{number}/128 dev lo nodad" for number in range(1, 5))


def names_of_tests(file: Path) -> list[str]:
    """The test functions of a file, in its order."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")]


@functools.cache
def _refusal() -> str:
    """Why there can be no namespace here; "" when there can."""
    for program, package in (("unshare", "util-linux"), ("ip", "iproute2")):
        if shutil.which(program) is None:
            return f"needs {program}: install {package}"
    tried = subprocess.run(_command(["true"]), capture_output=True, text=True, timeout=20, check=False)
    said = (tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"])[-1]
    return f"needs a network namespace, which this machine refuses: {said} (run as root)" if tried.returncode else ""


def _command(command: list[str]) -> list[str]:
    quoted = " ".join(f"'{part}'" for part in command)
    alone = ["--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]  # whatever is left ends with it
    return ["unshare", *alone, "sh", "-c", _SET_UP.format(six=_SIX, command=quoted)]


@functools.cache
def run_file(file: Path, seconds: float = 240.0) -> dict[str, tuple[str, str]]:
    """Run all tests of a file in there, once: name -> (`passed`, `failed` or `skipped`, what was said). Skips where it cannot."""
    if refusal := _refusal():
        pytest.skip(refusal)
    with tempfile.TemporaryDirectory(prefix="outrider-network-") as folder:
        report = Path(folder) / "report.xml"
        command = _command([sys.executable, "-m", "pytest", str(file), f"--junit-xml={report}"])
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, cwd=Path(__file__).parents[2])
        if not report.exists():
            raise AssertionError(f"the tests did not run\n{done.stdout}\n{done.stderr}")
        cases = ET.parse(report).iter("testcase")  # our own
        return {case.get("name", ""): _outcome(case) for case in cases}


def _outcome(case: ET.Element) -> tuple[str, str]:
    said = [(part.tag, f"{part.get('message', '')}\n{part.text or ''}") for part in case if part.tag in ("failure", "error", "skipped")]
    if not said:
        return "passed", ""
    kind = "skipped" if said[0][0] == "skipped" else "failed"
    return kind, "\n".join(text for _, text in said)
