"""The Makefile and the documents about it agree."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Makefile").read_text(encoding="utf-8")


def listed() -> list[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # the tests may run under make
    said = subprocess.run(["make"], capture_output=True, text=True, timeout=20, check=True, cwd=ROOT, env=plain)
    return [line.split()[0] for line in said.stdout.splitlines()]


def test_make_without_a_target_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", TEXT, re.MULTILINE)

    assert phony is not None
    assert listed() == phony[1].split()


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/benchmarks.md", ".ci/run"])
def test_what_documents_ask_make_for_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    asked = {
        word
        for words in re.findall(r"(?:^|`)(?:\$ )?make ((?:[a-z0-9-]+ ?)+)", text, re.MULTILINE)
        for word in words.split("  ")[0].split()
    }

    assert asked <= set(listed())


def test_everything_that_is_installed_has_its_hash() -> None:
    for name in ("requirements.lock", "requirements-dev.lock", "bench/requirements.lock"):
        pins = re.findall(r"^[A-Za-z0-9_.-]+==[^\n]*\n {4}(\S+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
        assert pins
        assert all(pin.startswith("--hash=sha256:") for pin in pins)


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
        if "://" not in target and not (document.parent / target).exists()
    ]

    assert broken == []
