"""What is compiled into an image: no docstrings and columns, everything else as in the source."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = '''"""A module."""
from __future__ import annotations
class Empty:
    """Nothing else."""
def told() -> str:
    """What it does."""
    return "told"
async def later():
    """A docstring alone."""
def fails():
    assert 1 == 2, "asserts stay"
TEXT = """no docstring"""
'''
CODE = "import sys; sys.path.insert(0, {path!r}); import importlib; m = importlib.import_module({name!r}); print([m.__doc__, m.Empty.__doc__, m.told.__doc__, m.TEXT, m.told(), {{place[2:] for place in m.told.__code__.co_positions()}}])"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder of modules that the script has compiled, and whose sources have been spoilt since."""
    (tmp_path / "sidecar" / "model").mkdir(parents=True)
    modules = [tmp_path / "sample.py", tmp_path / "sidecar" / "model" / "described.py"]
    for module in modules:
        module.write_text(SOURCE)
    for package in (tmp_path / "sidecar", tmp_path / "sidecar" / "model"):
        (package / "__init__.py").touch()
    (tmp_path / "template.py").write_text("this is {{ no }} module")
    trim = f"import sys; sys.path.insert(0, {str(ROOT / 'images')!r}); from pathlib import Path; import trim; trim.compile_all(Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-X", "no_debug_ranges", "-c", trim], check=True, timeout=60, capture_output=True)
    for module in modules:
        module.write_text("raise SystemExit('the source was compiled again')")
    return tmp_path


def said(packages: Path, name: str, code: str = CODE) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    words = [sys.executable, "-c", code.format(path=str(packages), name=name)]
    return subprocess.run(words, check=False, timeout=60, capture_output=True, text=True, env=environment)


def test_an_image_runs_what_was_compiled_without_docstrings_and_columns(packages: Path) -> None:
    done = said(packages, "sample")
    assert done.stdout == "[None, None, None, 'no docstring', 'told', {(None, None)}]\n", done.stderr


def test_what_is_read_by_the_schema_keeps_its_docstrings(packages: Path) -> None:
    assert said(packages, "sidecar.model.described").stdout.startswith("['A module.', 'Nothing else.', 'What it does.'")


def test_an_assert_fails_in_an_image_too_and_names_its_line(packages: Path) -> None:
    done = said(packages, "sample", "import sys; sys.path.insert(0, {path!r}); import importlib; importlib.import_module({name!r}).fails()")
    assert "line 11, in fails" in done.stderr
    assert "AssertionError: asserts stay" in done.stderr
