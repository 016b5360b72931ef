"""The commands that work without a sidecar."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar import __version__
from sidecar.cli.main import main

GOOD = """\
apiVersion: outrider.dev/v1alpha1
kind: SidecarConfig
upstreams:
  - name: app
    targets: [{url: "http://127.0.0.1:8000"}]
"""
BAD = GOOD + "    conectTimeout: 5s\n    loadBalancer: {policy: Fastest}\n"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OUTRIDER_ADMIN",
        "OUTRIDER_ADMIN_ADDRESS",
        "OUTRIDER_CONFIG",
        "OUTRIDER_OUTPUT",
        "OUTRIDER_LISTENER",
        "OUTRIDER_CONFIGMAP_KEY",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return str(path)


@pytest.fixture
def bad(tmp_path: Path) -> str:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    return str(path)


def manifest(document: str, key: str = "sidecar.yaml") -> str:
    inner = "".join(f"    {line}\n" for line in document.splitlines())
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: x}}\ndata:\n  {key}: |\n{inner}"


def test_validate_ends_with_0_for_a_valid_document(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", good]) == 0
    assert capsys.readouterr().out == f"{good}: valid\n"


def test_validate_shows_every_problem_with_file_line_column_and_path(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", bad]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{bad}:6:5: upstreams[0].conectTimeout: ")
    assert "did you mean connectTimeout?" in lines[0]
    assert lines[1].startswith(f"{bad}:7:28: upstreams[0].loadBalancer.policy: ")


def test_validate_reads_stdin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(BAD.encode())))
    assert main(["validate", "-"]) == 1
    assert capsys.readouterr().out.startswith("<stdin>:6:5: ")


def test_validate_reads_stdin_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "-", "-"]) == 2
    assert "only once" in capsys.readouterr().err


def test_validate_takes_a_config_map_and_tells_its_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(manifest(BAD))
    assert main(["validate", str(path)]) == 1
    assert capsys.readouterr().out.startswith(f"{path}:11:9: upstreams[0].conectTimeout: ")


def test_validate_takes_the_key_of_the_config_map(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(manifest(GOOD, "other.yaml"))
    assert main(["validate", str(path)]) == 1
    assert main(["validate", str(path), "--configmap-key", "other.yaml"]) == 0


def test_validate_ends_with_2_when_a_file_cannot_be_read_and_checks_the_others(
    bad: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(tmp_path / "absent"), bad]) == 2
    told = capsys.readouterr()
    assert told.out.count(f"{bad}:") == 2
    assert [line.rpartition(": ")[2] for line in told.err.splitlines()] == ["no such file or directory"]


def test_validate_shows_warnings_and_calls_the_document_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "warned.yaml"
    path.write_text(GOOD + "  - {name: spare, dns: {host: spare.svc, port: 80}}\nroutes: [{backendRefs: [{name: app}]}]\n")
    assert main(["validate", str(path)]) == 0
    assert f"{path}: warning: upstreams[1]: no route sends to spare" in capsys.readouterr().out


def test_validate_has_json_for_programs(good: str, bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", good, bad, "/nowhere", "--output", "json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["valid"] is False
    assert [file["valid"] for file in told["files"]] == [True, False, False]
    assert told["files"][1]["problems"][0].items() >= {"path": "upstreams[0].conectTimeout", "line": 6, "column": 5}.items()
    assert told["files"][2]["error"].endswith("no such file or directory")


def test_validate_never_reads_without_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "/dev/zero"]) == 1
    assert capsys.readouterr().out.startswith("/dev/zero:1:1: ")


def test_an_output_format_that_does_not_exist_is_a_usage_error(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", good, "--output", "xml"]) == 2
    assert "text or json" in capsys.readouterr().err


def test_a_variable_takes_the_place_of_a_flag_and_the_flag_wins(
    good: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OUTRIDER_OUTPUT", "json")
    assert main(["validate", good]) == 0
    assert json.loads(capsys.readouterr().out)["valid"] is True
    assert main(["validate", good, "--output", "text"]) == 0
    assert capsys.readouterr().out == f"{good}: valid\n"


def test_explain_works_offline_from_a_file(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "GET", "/x", "--config", good]) == 0
    text = capsys.readouterr().out
    assert "routes[0]" in text
    assert "127.0.0.1:8000  configured" in text
    assert f"{good}, revision -" in text


def test_validate_and_explain_need_no_cluster_for_a_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "service.yaml"
    path.write_text(GOOD.replace('targets: [{url: "http://127.0.0.1:8000"}]', "service: {name: orders, namespace: shop, port: http}"))
    assert main(["validate", str(path)]) == 0
    assert main(["explain", "GET", "http://app/", "--config", str(path)]) == 0
    assert "service shop/orders:http" in capsys.readouterr().out


def test_explain_takes_a_config_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(manifest(GOOD))
    assert main(["explain", "GET", "/x", "--config", str(path), "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["matched"] is True


def test_explain_of_several_documents_asks_for_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(manifest(GOOD) + "---\n" + manifest(GOOD))
    assert main(["explain", "GET", "/x", "--config", str(path)]) == 2
    assert "holds 2 documents" in capsys.readouterr().err


def test_explain_by_an_invalid_document_names_its_first_problem(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "GET", "/x", "--config", bad]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"outrider: the document is not valid: {bad}:6:5: ")
    assert f"(and 1 more: outrider validate {bad})" in error
    assert error.count("\n") == 1


def test_explain_ends_with_1_without_a_route(tmp_path: Path) -> None:
    path = tmp_path / "narrow.yaml"
    path.write_text(GOOD + "routes: [{matches: [{path: {value: /v1}}], backendRefs: [{name: app}]}]\n")
    assert main(["explain", "GET", "/v2", "--config", str(path)]) == 1


@pytest.mark.parametrize("words", [["GET", "x"], ["GET", "/", "-H", "nothing"], ["GET", "/", "--listener", "nope"], ["GET"]])
def test_explain_of_what_is_no_request_is_a_usage_error(words: list[str], good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *words, "--config", good]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_explain_takes_a_file_or_a_sidecar_not_both(good: str) -> None:
    assert main(["explain", "GET", "/", "--config", good, "--admin", "127.0.0.1:1"]) == 2


def test_the_schema_describes_the_whole_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    document = schema["$defs"]["Document"]
    assert set(document["properties"]) >= {
        "apiVersion",
        "kind",
        "listeners",
        "upstreams",
        "routes",
        "defaults",
        "telemetry",
        "lifecycle",
        "tests",
    }
    assert document["additionalProperties"] is False
    assert schema["$defs"]["RouteDoc"]["properties"]["backendRefs"]["description"]


def test_version_names_ours_pythons_and_the_packages_that_matter(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["outrider"].strip() == __version__
    assert {"python", "uvloop", "msgspec"} <= set(lines)


@pytest.mark.parametrize("command", ["validate", "explain", "status", "wait", "drain", "schema", "version"])
def test_the_help_of_each_command_fits_a_screen_and_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"  outrider {command}" in text or f"[outrider, {command}" in text
    assert len(text.splitlines()) <= 24


def test_drain_loads_nothing_heavy() -> None:
    code = "import sys; from sidecar.cli.main import main; main(['drain', '--admin', 'unix:/nowhere']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    loaded = set(done.stdout.split())
    assert "sidecar.cli.drain" in loaded
    assert not loaded & {"asyncio", "aiohttp", "msgspec", "yaml", "uvloop", "orjson", "prometheus_client"}
