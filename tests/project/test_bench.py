"""The benchmark measures what it says, and refuses to say what it cannot know."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import machine, peers, report, scenarios
from bench.load import Scenario


def samples(ours: list[float], envoy: list[float]) -> report.Samples:
    rest = {"rss_mb": 30.0, "rps": 1000.0, "p99_ms": 2.0, "gb_per_cpu_second": 1.0}
    return {"outrider": [{"cpu_us": one, **rest} for one in ours], "envoy": [{"cpu_us": one, **rest} for one in envoy]}


def test_the_load_generator_counts_and_checks_answers_of_the_origin() -> None:
    with peers.origin() as port:
        small = scenarios.load(port, Scenario("/bytes/1024", download=1024, connections=4, requests=100))
        large = scenarios.load(port, Scenario("/sink", upload=3_000_000, connections=2, requests=4))

    assert (small["requests"], large["requests"]) == (100, 4)


def test_an_answer_of_another_size_ends_the_comparison() -> None:
    with peers.origin() as port, pytest.raises(scenarios.Wrong):
        scenarios.load(port, Scenario("/bytes/1023", download=1024, connections=1, requests=1))


def test_ratios_are_taken_round_by_round() -> None:
    assert report.ratios(samples([30.0, 60.0], [60.0, 80.0]), "outrider", "cpu_us") == [0.5, 0.75]


def test_rounds_that_disagree_are_not_reported() -> None:
    refused = report.unsettled({"get_1k": samples([30, 31, 32], [50, 51, 52]), "post_16k": samples([30, 31, 32], [50, 80, 120])})
    assert list(refused) == ["post_16k"]
    assert "envoy" in refused["post_16k"]


def test_only_what_stands_between_the_markers_is_replaced(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")

    report.write(document, "new\n")

    assert document.read_text() == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"


def test_cpu_time_of_children_counts() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(4 * 10**7))']); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        used = machine.cpu_seconds(process.pid)
        process.communicate()

    assert used >= 0.1
