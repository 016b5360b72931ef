"""A real sidecar in front of a Service of a real API server: see `service_cases.py`, which runs in a network of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.own_network import names_of_tests, run_file

CASES = Path(__file__).with_name("service_cases.py")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", names_of_tests(CASES))
def test_in_a_network_of_its_own(name: str) -> None:
    outcome, said = run_file(CASES)[name]
    if outcome == "skipped":
        pytest.skip(said.split("\n")[0])
    assert outcome == "passed", said
