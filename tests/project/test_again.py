"""What becomes of a test that fails in CI (decision 0046)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tools import again

COUNTED = """
from pathlib import Path
HERE = Path(__file__).parent

def test_one():
    runs = HERE / "one"
    runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
    assert len(runs.read_text()) not in {FAILS}

def test_other():
    assert not (HERE / "broken").exists()
"""


def build(folder: Path, fails: str) -> tuple[Path, list[str]]:
    """A run of a small suite whose first test fails in the runs of these numbers: its cache, and how to run tests again."""
    (folder / "test_small.py").write_text(COUNTED.replace("{FAILS}", fails))
    (folder / "pytest.ini").write_text("[pytest]\ncache_dir = cache\n")
    command = ["env", f"--chdir={folder}", sys.executable, "-m", "pytest", "-q"]
    subprocess.run(command, check=False)
    return folder / "cache", command


def test_a_failure_that_does_not_come_again_is_told_by_name_and_does_not_fail_the_build(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cache, command = build(tmp_path, "{1}")
    assert again.failed(cache) == ["test_small.py::test_one"]
    assert again.main(cache, command) == 0
    assert "CI: UNSTEADY: test_small.py::test_one failed once" in capfd.readouterr().err
    assert (tmp_path / "one").read_text() == "xxxx"


@pytest.mark.parametrize("fails", ["{1, 2}", "{1, 3}", "{1, 4}"])
def test_a_failure_that_comes_again_in_any_of_three_runs_fails_the_build(tmp_path: Path, fails: str) -> None:
    cache, command = build(tmp_path, fails)
    assert again.main(cache, command) == 1


def test_a_run_that_ended_badly_without_a_failed_test_fails_the_build(tmp_path: Path) -> None:
    assert again.main(tmp_path / "nothing", ["false"]) == 1


def test_many_failures_are_not_looked_at_again(tmp_path: Path) -> None:
    (tmp_path / "v/cache").mkdir(parents=True)
    (tmp_path / "v/cache/lastfailed").write_text('{"a::b": true, "a::c": true, "a::d": true, "a::e": true}')
    assert again.main(tmp_path, ["true"]) == 1
