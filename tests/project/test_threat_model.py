"""docs/threat-model.md names the test that holds each threat; those tests exist, and no comparison of a secret tells its time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/threat-model.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+?) \| (`tests/[^|]+`) \|$", TEXT, re.MULTILINE)


@pytest.mark.parametrize(("threat", "tests"), ROWS, ids=[threat for threat, _ in ROWS])
def test_the_tests_that_hold_a_threat_exist(threat: str, tests: str) -> None:
    named = re.findall(r"`([^`]+)`", tests)
    assert named
    for one in named:
        path, _, name = one.partition("::")
        assert re.search(rf"^(?:async )?def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), one


def test_every_threat_has_a_row_of_its_own() -> None:
    table = TEXT.partition("## The test that holds it")[2].partition("\n## ")[0]
    assert len(ROWS) == len([line for line in table.splitlines() if line.startswith("| ")]) - 1  # less its head
    assert len({threat for threat, _ in ROWS}) == len(ROWS) >= 29


def test_no_surface_takes_a_secret_that_would_have_to_be_compared_in_constant_time() -> None:
    """The day a module compares one, it does so with hmac.compare_digest, and this test learns its name."""
    compared = r"(?:password|secret|api_?key|bearer)\w* *(?:==|!=)|(?:==|!=) *\w*(?:password|secret|api_?key|bearer)\b"
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in ("admin", "http1", "proxy", "server", "protocol", "injector")
        for path in sorted((ROOT / "sidecar" / folder).rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(compared, line)
    ]
    assert found == []
