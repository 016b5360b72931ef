"""What the pages for operators name exists; the commands of the tutorial are well-formed (the end-to-end tests run them)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from sidecar.model.reason import Reason

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CONFIGURATION = (DOCS / "configuration.md").read_text(encoding="utf-8")
REFERENCE = (DOCS / "reference.md").read_text(encoding="utf-8")
NAMES = ("install", "upgrade", "uninstall", "sizing", "security-model", "troubleshooting", "tutorial")
PAGES = [DOCS / f"{name}.md" for name in NAMES]
MIGRATIONS = sorted(DOCS.glob("migrating-from-*.md"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_tutorials_commands_are_a_script() -> None:
    commands = blocks(DOCS / "tutorial.md", "sh tutorial")
    said = subprocess.run(["bash", "-n"], input="\n".join(commands), capture_output=True, text=True, timeout=10, check=False)

    assert len(commands) > 10
    assert (said.returncode, said.stderr) == (0, "")


@pytest.mark.parametrize("page", [*PAGES, *MIGRATIONS], ids=lambda page: page.stem)
def test_files_that_commands_name_exist(page: Path) -> None:
    named = re.findall(r"\b((?:charts|manifests)/[\w./-]+\w)", "\n".join(blocks(page, r"sh[^\n]*")))

    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_yaml_on_the_pages_is_yaml(page: Path) -> None:
    for block in blocks(page, "yaml"):
        assert yaml.safe_load(block)


def test_reasons_that_troubleshooting_names_are_reasons() -> None:
    rows = re.findall(r"^\| \d{3} (.*?) \|", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = {word for row in rows for word in re.findall(r"`([a-z]+(?:_[a-z]+)*)`", row)} - {"clock"}

    assert len(named) > 5
    assert named <= {*Reason}


@pytest.mark.parametrize("page", MIGRATIONS, ids=lambda page: page.stem)
def test_the_right_hand_side_of_a_migration_names_fields_and_commands_that_exist(page: Path) -> None:
    rows = [row.split(" | ")[1] for row in re.findall(r"^\| (.*) \|$", page.read_text(encoding="utf-8"), re.MULTILINE)[1:]]
    code = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    words = {word for text in code for word in re.findall(r"\b[a-z]+[A-Z]\w*\b", text)}  # camelCase: fields

    assert len(words) >= 5
    assert [word for word in words if f"`{word}`" not in CONFIGURATION] == []
    annotations = {word for text in code for word in re.findall(r"outrider\.dev/[\w-]+", text)}
    assert [word for word in annotations if word not in REFERENCE] == []


def test_every_page_can_be_found() -> None:
    known = "".join((DOCS / f"{name}.md").read_text(encoding="utf-8") for name in NAMES)

    assert [page.name for page in MIGRATIONS if page.name not in known] == []
    assert [page.name for page in PAGES if page.name not in known + (ROOT / "charts/outrider/README.md").read_text(encoding="utf-8")] == []
