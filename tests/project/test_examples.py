"""What a stranger tries first works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def outrider(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "sidecar", *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)


@pytest.mark.parametrize("document", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_document_is_valid(document: Path) -> None:
    said = outrider("validate", str(document))

    assert (said.returncode, said.stderr) == (0, "")


def test_the_documents_of_the_readme_and_its_parts_of_documents_are_valid(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    for number, block in enumerate(blocks):
        document = tmp_path / f"{number}.yaml"
        head = "" if block.startswith("apiVersion") else "apiVersion: outrider.dev/v1alpha1\nkind: SidecarConfig\n"
        document.write_text(head + block, encoding="utf-8")
        said = outrider("validate", str(document))
        assert (said.returncode, said.stdout) == (0, said.stdout), said.stdout

    assert blocks


def test_the_demo_stops_by_itself_without_a_terminal_and_all_that_it_shows_happened() -> None:
    said = subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )

    assert said.returncode == 0, said.stdout + said.stderr
    assert "Done" in said.stdout
    assert "\x1b" not in said.stdout
