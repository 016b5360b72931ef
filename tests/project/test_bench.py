"""The benchmark measures what it says, and refuses to say what it cannot know."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import idle, machine, peers, reload, report, scenarios, tls, tls_upstream
from bench.load import Scenario
from sidecar.config.load import Loaded, load


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


def test_every_way_of_the_tls_benchmark_changes_the_configuration_that_the_other_benchmarks_have(tmp_path: Path) -> None:
    """Else a mark that has moved would have it measure plain HTTP/1.1 and call it something else."""
    ours = tuple(way for ways in tls_upstream.OURS.values() for way in ways)
    for config, ways in ("outrider.yaml", ours), *((CONFIGS[name], ways) for name, ways in tls_upstream.THEIRS.items()):
        peer = peers.Peer("peer", "1", config, ())
        made = [Path(tls_upstream.to(peer, way, tmp_path).config).read_text() for way in (*ways, tls_upstream.FULL)]
        for way, text in zip((*ways, tls_upstream.FULL), made, strict=True):
            assert (str(tmp_path / "pair.crt") in text) is way.tls
            assert any(mark in text for mark in ("HTTP2", "H2C", "http2_protocol_options", "alpn h2", "proto h2")) is way.http2
        assert len(set(made)) == len(set(ways)), "each way is one of its own; the handshakes' is that of TLS"
        assert tls.secured(peer, tmp_path).config != config


CONFIGS = {"envoy": "envoy.yaml", "haproxy": "haproxy.cfg", "nginx": "nginx.conf"}


def test_ours_on_a_kernel_that_does_not_splice_is_the_same_sidecar(tmp_path: Path) -> None:
    arguments = ("sidecar", "check")
    (tmp_path / "sidecar").mkdir()
    (tmp_path / "sidecar" / "__init__.py").touch()
    (tmp_path / "sidecar" / "__main__.py").write_text("import os, sys; print(hasattr(os, 'splice'), sys.argv[1:])")
    ours = peers.Peer(peers.OURS, "1", "outrider.yaml", (sys.executable, "-m", *arguments), tmp_path)
    other = peers.without_splice(ours)

    said = [subprocess.run(peer.command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout for peer in (ours, other)]

    assert said == [f"{hasattr(os, 'splice')} ['check']\n", "False ['check']\n"]
    assert scenarios.ONLY_IN[other.name] <= set(scenarios.RATES)


def test_idle_crowds_fit_into_the_descriptors_of_each_generator_and_two_processes_get_all_of_them() -> None:
    chosen = [peers.Peer(name, "1", f"{name}.yaml", ("x",)) for name in (peers.OURS, peers.YARDSTICK, "nginx", "haproxy")]
    trials = idle.trials(chosen, 30)
    assert [trial.name for trial in trials[4:]] == ["outrider --workers 2", "nginx, 2 processes"]
    assert all(trial.crowd // idle.GENERATORS < 20_000 for trial in trials)
    assert trials[4].peer.command[-1] == "--workers=2"
    assert trials[5].marks["@PROCESSES@"] == "2"


def test_a_section_of_the_page_that_another_bench_makes_is_found_to_its_end() -> None:
    page = "# Bounds\n\ntable\n" + idle.HEADING + " as there are\n\n| |\n"
    assert page.removesuffix(idle.section_of(page)) == "# Bounds\n\ntable\n"
    assert idle.section_of("# Bounds\n") == ""


@pytest.mark.parametrize("name", ["outrider.yaml", "nginx.conf", "haproxy.cfg", "envoy.yaml"])
def test_no_mark_of_a_configuration_is_left_unfilled(name: str) -> None:
    text = (peers.HERE / "configs" / name).read_text()
    filled = {*peers.MARKS, "@PORT@", "@ORIGIN@", "@FOLDER@", "@CONFIG@", "@ROUTES@"}
    assert set(re.findall(r"@[A-Z]+@", text)) <= filled


@pytest.mark.parametrize(("marker", "size"), [("one", 1), ("many", 100_000)])
def test_the_documents_that_the_reload_benchmark_puts_in_place_are_good(marker: str, size: int) -> None:
    peer = peers.Peer(peers.OURS, "?", "outrider.yaml", ())
    with subprocess.Popen(["true"]) as process:
        running = peers.Running(peer, process, 15001, 0.0)
    text = reload.document_with(running, 8000, marker, size)
    assert len(text) >= size
    assert isinstance(load(text.encode()), Loaded)
