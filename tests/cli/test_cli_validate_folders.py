"""`outrider validate` of folders, and how CI systems call it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
GOOD = 'apiVersion: outrider.dev/v1alpha1\nkind: SidecarConfig\nupstreams: [{name: app, targets: [{url: "http://127.0.0.1:8000"}]}]\n'
BAD = GOOD + "lifecycle: {drainDelay: 5}\n"
OTHER = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {labels: {outrider.dev/inject: 'true'}}\n"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository as teams have it; the commands run in it."""
    for name, text in {
        "deploy/b/orders.yml": BAD,
        "deploy/a.yaml": GOOD,
        "deploy/deployment.yaml": OTHER,
        "deploy/kustomization.yaml": "resources: [a.yaml]\n",
        "deploy/README.md": BAD,
        "deploy/.hidden/c.yaml": BAD,
        "charts/shop/Chart.yaml": "name: shop\n",
        "charts/shop/templates/map.yaml": "{{ if .Values.on }}\nkind: ConfigMap\ndata:\n  sidecar.yaml: |\n    kind: SidecarConfig\n{{ end }}\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    for variable in ("OUTRIDER_OUTPUT", "OUTRIDER_CONFIGMAP_KEY", "OUTRIDER_OTHERS"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str], str]:
    status = main(["validate", *words])
    told = capsys.readouterr()
    return status, told.out.splitlines(), told.err


def test_a_folder_is_searched_for_documents_and_what_is_not_ours_is_passed_over(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines, _ = run(capsys, ".")
    assert status == 1
    assert lines[0] == "deploy/a.yaml: valid"
    assert lines[1].startswith("deploy/b/orders.yml:4:25: lifecycle.drainDelay: ")
    assert lines[2:] == ["2 documents in 2 files: 1 valid, 1 not valid; 3 other files passed over"]


def test_a_file_that_is_named_must_hold_a_document(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines, _ = run(capsys, "deploy/deployment.yaml")
    assert status == 1
    assert lines[0].startswith("deploy/deployment.yaml:1:13: apiVersion: ")
    assert run(capsys, "--others", "skip", "deploy/deployment.yaml")[0] == 0


def test_a_folder_without_documents_is_no_success(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = run(capsys, "charts")
    assert status == 2
    assert error.startswith("outrider: charts holds no document")
    assert run(capsys, "--others", "skip", "charts")[0] == 0


def test_links_that_lead_round_in_circles_are_followed_once(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "deploy/again").symlink_to("..")
    (repository / "deploy/self.yaml").symlink_to("self.yaml")
    status, lines, error = run(capsys, "deploy")
    assert status == 2
    assert [line for line in lines if "orders.yml" in line] == [lines[1]]
    assert "deploy/self.yaml: too many levels of symbolic links" in error


def test_a_mounted_config_map_is_read_through_its_links_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..2026/sidecar.yaml").write_text(GOOD)
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "sidecar.yaml").symlink_to("..data/sidecar.yaml")
    monkeypatch.chdir(tmp_path)
    assert run(capsys, ".")[1] == ["sidecar.yaml: valid", "1 document in 1 file: 1 valid, 0 not valid"]


def test_pipes_are_not_waited_for_and_what_cannot_be_read_is_told(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(repository / "deploy/pipe.yaml")
    (repository / "deploy/gone.yaml").symlink_to("nowhere")
    status, lines, error = run(capsys, "deploy")
    assert status == 2
    assert error == "outrider: cannot read deploy/gone.yaml: no such file or directory\n"
    assert lines[-1].endswith("1 valid, 1 not valid, 1 unreadable; 2 other files passed over")


def test_a_name_that_is_not_utf8_is_shown_as_escapes(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path(os.fsdecode(b"deploy/\xff\n.yaml")).write_text(GOOD)
    status, lines, _ = run(capsys, "deploy")
    assert status == 1
    assert "deploy/\\udcff\\n.yaml: valid" in lines


def test_json_counts_what_was_passed_over(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", ".", "--output", "json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["passedOver"] == 3
    assert [(file["file"], file["documents"]) for file in told["files"]] == [("deploy/a.yaml", 1), ("deploy/b/orders.yml", 1)]


def test_annotations_name_file_line_and_column_and_nothing_in_them_forges_another(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "a,b:c%\n::error::.yaml").write_text(GOOD + '"100%\\n::error::x": 1\n')
    status, lines, _ = run(capsys, ".", "absent.yaml", "--output", "github")
    assert status == 2
    assert lines[0].startswith("::error file=a%2Cb%3Ac%25\\n%3A%3Aerror%3A%3A.yaml,line=4,col=1::")
    assert "100%25\\n::error::x" in lines[0]
    assert lines[1].startswith("::error file=deploy/b/orders.yml,line=4,col=25::lifecycle.drainDelay: ")
    assert lines[2] == "::error file=absent.yaml::cannot read absent.yaml: no such file or directory"
    assert len(lines) == 4


def test_warnings_are_annotations_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "warned.yaml"
    path.write_text(
        GOOD.replace("upstreams: [", "upstreams: [{name: b, dns: {host: b, port: 1}}, ") + "routes: [{backendRefs: [{name: b}]}]\n"
    )
    status, lines, _ = run(capsys, str(path), "--output", "github")
    assert status == 0
    assert lines[0].startswith(f"::warning file={path}::upstreams[1]: no route sends to app")


def tools() -> dict[str, str]:
    """An environment in which `outrider` is the one of this checkout."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def git(folder: Path, *words: str) -> str:
    program = shutil.which("git")
    if program is None:
        pytest.skip("needs git: apt-get install git")
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main")
    return subprocess.run([program, "-C", str(folder), *identity, *words], capture_output=True, text=True, timeout=30, check=True).stdout


def test_the_pre_commit_hook_stops_a_commit_that_breaks_a_document_and_passes_over_others(repository: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook["id"] == "outrider-validate"
    assert set(hook["types_or"]) == {"yaml", "json"}
    git(repository, "init", "-q")
    git(repository, "add", ".")

    def commit() -> subprocess.CompletedProcess[str]:
        """What pre-commit does: the entry with the staged files of these types."""
        staged = git(repository, "diff", "--staged", "--name-only", "--diff-filter=AM", "-z").split("\0")
        files = [name for name in staged if name.endswith((".yaml", ".yml", ".json"))]
        assert len(files) > 4
        return subprocess.run(
            [*shlex.split(hook["entry"]), *files], check=False, cwd=repository, env=tools(), capture_output=True, text=True, timeout=60
        )

    refused = commit()
    assert refused.returncode == 1
    (repository / "deploy/b/orders.yml").write_text(GOOD)
    (repository / "deploy/.hidden/c.yaml").write_text(GOOD)
    (repository / "charts/shop/templates/map.yaml").write_text("{{ if .Values.on }}\nkind: ConfigMap\n{{ end }}\n")
    git(repository, "add", ".")
    done = commit()
    assert (done.returncode, done.stderr) == (0, "")


def action() -> dict[str, Any]:
    described: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
    assert described["runs"]["using"] == "composite"
    return described


def step(number: int, folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Runs a step of the action as a runner does: its inputs become variables, its script is bash's."""
    described = action()
    values = {f"inputs.{name}": inputs.get(name.replace("-", "_"), one["default"]) for name, one in described["inputs"].items()}
    values["github.action_path"] = str(ROOT)
    one = described["runs"]["steps"][number]
    assert one["shell"] == "bash"
    variables = {}
    for name, value in one["env"].items():
        expression = value.removeprefix("${{ ").removesuffix(" }}")
        variables[name] = values[expression] if expression != value else value
    environment = {**os.environ, **variables, "RUNNER_TEMP": str(folder / "runner")}
    script = folder / "step.sh"
    script.write_text(one["run"])
    # As the runner starts it: https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax (shell: bash).
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
    return subprocess.run(command, check=False, cwd=folder / "repository", env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def runner(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runner's folder with the repository checked out, and outrider installed where the first step installs it."""
    folder = tmp_path_factory.mktemp("runner")
    (folder / "repository").symlink_to(repository)
    bin_folder = folder / "runner/outrider/bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "outrider").symlink_to(Path(sys.executable).parent / "outrider")
    return folder


def test_the_action_annotates_what_is_wrong_and_fails(runner: Path) -> None:
    done = step(1, runner)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("::error file=deploy/b/orders.yml,line=4,col=25::lifecycle.drainDelay: ")


def test_the_action_takes_names_one_a_line_and_no_shell_reads_them(runner: Path) -> None:
    folder = runner / "repository/two words; touch owned $(touch owned)"
    folder.mkdir()
    (folder / "c.yaml").write_text(GOOD)
    done = step(1, runner, files=f"deploy/a.yaml\n\n{folder.name}\n")
    assert (done.returncode, done.stdout) == (0, "2 documents in 2 files: 2 valid, 0 not valid\n")
    assert not (runner / "repository/owned").exists()


def test_the_action_installs_itself_or_the_version_that_is_asked_for(runner: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    # Stands for `python -m venv FOLDER`: makes a folder whose python notes what pip was asked to install.
    python.write_text(
        '#!/bin/sh\n[ "$1 $2" = "-m venv" ] && mkdir -p "$3/bin" && cp "$0" "$3/bin/python" || echo "$@" >> "$RUNNER_TEMP/asked"\n'
    )
    python.chmod(0o755)
    for version in ("", "0.1.0"):
        assert step(0, runner, python=str(python), version=version).returncode == 0
    asked = (runner / "runner/asked").read_text().splitlines()
    assert [line.split()[-1] for line in asked] == [str(ROOT), "outrider==0.1.0"]
