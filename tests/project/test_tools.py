"""`make tools` and where tests find the programs that it builds."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import programs
from tools import build


def program(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The places where programs are looked for, all empty, in their order."""
    found = {name: tmp_path / name for name in ("KUBEBUILDER_ASSETS", "OUTRIDER_TOOLS", "built", "PATH")}
    for name, folder in found.items():
        folder.mkdir()
        if name != "built":
            monkeypatch.setenv(name, str(folder))
    for module in (programs, build):
        monkeypatch.setattr(module, "BUILT", found["built"])
    monkeypatch.setattr(build, "SOURCES", tmp_path / "src")
    monkeypatch.setattr(build, "GO_FOLDERS", (str(tmp_path / "go"),))
    monkeypatch.setattr(build, "PAUSE", 0.001)
    return found


def test_the_first_place_that_has_a_program_wins(folders: dict[str, Path]) -> None:
    assert programs.find_program("helm") is None
    for folder in reversed(folders.values()):
        there = program(folder, "helm")
        assert programs.find_program("helm") == there


@pytest.mark.parametrize(("name", "said"), [("etcd", "`make tools`"), ("helm3", '`make tools NAMES="helm3"`')])
def test_a_missing_program_skips_with_the_command_that_builds_it(folders: dict[str, Path], name: str, said: str) -> None:
    with pytest.raises(pytest.skip.Exception, match=said):
        programs.need_program(name)


def test_what_is_there_is_not_built(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    there = [program(folders["KUBEBUILDER_ASSETS"], name) for name in programs.DEFAULT]

    assert build.main([]) == 0
    assert capsys.readouterr().out.split() == [str(path) for path in there]


def test_without_go_one_line_says_so(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["helm"]) == 1
    assert capsys.readouterr().err == "make tools: needs Go (https://go.dev/dl) on the PATH to build helm\n"


def test_an_unknown_program_is_refused_with_the_list(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["helm", "vim"]) == 2
    assert "no recipe for vim; there are: etcd kube-apiserver" in capsys.readouterr().err


def test_a_build_that_fails_names_the_reason_its_last_words_and_the_log(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    script = '#!/bin/sh\necho "looking" >&2\necho "no such version" >&2\nexit 3\n'
    program(folders["PATH"], "go").write_text(script)

    assert build.main(["kind"]) == 1
    *before, first, told, last = capsys.readouterr().err.splitlines()
    assert before[1:] == ["kind: go mod init failed (no such version); trying again"] * 2
    assert first.startswith("make tools: kind: go mod init failed: no such version (exit code 3; all of it: ")
    assert [told, last] == ["  looking", "  no such version"]
    assert (build.SOURCES / "kind.log").read_text().count("no such version") == build.TRIES
    assert not list(folders["built"].iterdir())


def test_a_command_that_fails_once_is_run_again(folders: dict[str, Path], tmp_path: Path) -> None:
    script = f'#!/bin/sh\n[ -e "{tmp_path}/tried" ] && echo done && exit 0\ntouch "{tmp_path}/tried"\nexit 1\n'
    script = script.replace("touch", "/usr/bin/touch")  # the PATH has nothing else
    program(folders["PATH"], "go").write_text(script)

    assert build.Build("kind").run("go", "mod", "init") == "done\n"


def test_go_beside_the_path_is_found_and_has_caches_without_a_home(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "go", "go").write_text('#!/bin/sh\necho "$GOPATH $GOCACHE"\n')
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("GOPATH", raising=False)
    monkeypatch.delenv("GOCACHE", raising=False)

    assert build.find_go()
    assert build.Build("kind").run("go", "env") == f"{tmp_path}/go {tmp_path}/go-build\n"
