"""`outrider injector` as a process: what it says, what it shows, how it ends, and what it makes of wrong flags."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from injector.injector_kit import DEFAULTS
from support.certificates import authority, issue

REFERENCE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text("utf-8")
Json = dict[str, Any]


class Process:
    """A running injector with certificates from files, and its log lines."""

    def __init__(self, folder: Path, *flags: str) -> None:
        (folder / "defaults.yaml").write_text(DEFAULTS)
        issue(authority("tests"), "webhooks", hosts=["localhost"]).write(folder, "tls")
        command = [sys.executable, "-m", "sidecar", "injector", f"--defaults={folder / 'defaults.yaml'}", "--namespace=outrider-system"]
        command += ["--certificates=files", f"--certificate-dir={folder}", "--listen-address=127.0.0.1:0", "--status-address=127.0.0.1:0"]
        (folder / "kubeconfig").write_text("{}")
        command += ["--log-format=json", f"--kubeconfig={folder / 'kubeconfig'}", *flags]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.lines.append(line)

    def said(self, event: str) -> Json:
        """Wait for a log line."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for line in self.lines:
                if line.startswith("{") and json.loads(line)["event"] == event:
                    found: Json = json.loads(line)
                    return found
            time.sleep(0.02)
        raise AssertionError(f"no {event}: {''.join(self.lines)}")

    def get(self, path: str) -> tuple[int, str]:
        address = self.said("starting")["status"]
        try:
            with urlopen(f"http://{address}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def end(self) -> int:
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path, "--drain-delay=1s")
    yield process
    process.process.kill()
    process.end()


def test_its_probes_say_when_it_is_ready_and_when_it_drains(started: Process) -> None:
    assert started.said("ready")["listen"].startswith("127.0.0.1:")
    assert [started.get(path) for path in ("/startupz", "/readyz", "/livez")] == [(200, "ok\n")] * 3
    started.process.send_signal(signal.SIGTERM)
    started.said("draining")
    assert started.get("/readyz") == (503, "[-] not-draining: the injector is draining\n")
    assert started.get("/livez")[0] == 200
    assert started.end() == 0
    assert started.said("stopped")["exit_code"] == 0
    assert "Traceback" not in "".join(started.lines)


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    process = Process(tmp_path, "--drain-delay=10m")
    process.said("ready")
    process.process.send_signal(signal.SIGTERM)
    process.said("draining")
    process.process.send_signal(signal.SIGTERM)
    assert process.end() == 0


def test_the_reference_lists_every_metric_with_its_type_and_labels(started: Process) -> None:
    started.said("ready")
    text = started.get("/metrics")[1]
    types = dict(re.findall(r"^# TYPE (outrider_injector_\w+) (\w+)$", text, re.MULTILINE))
    section = REFERENCE.partition("\n## Metrics of the injector\n")[2].partition("\n## ")[0]
    rows = [[cell.strip().strip("`") for cell in row.split("|")[1:-1]] for row in section.splitlines() if row.startswith("| `")]
    assert [(row[0], row[1]) for row in rows] == list(types.items())
    for name, _, told, _ in rows:
        labels = {
            label
            for inside in re.findall(rf"^{name}(?:_count)?\{{(.*)\}} ", text, re.MULTILINE)
            for label in re.findall(r'(\w+)="', inside)
        }
        assert labels == set(told.split()), name


def run(*flags: str, **env: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "sidecar", "injector", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin", **env}, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "give --defaults FILE"),
        (["--defaults=x"], "give --namespace NAME"),
        (["--defaults=x", "--namespace=a", "--certificates=files"], "needs --certificate-dir DIR"),
        (["--defaults=x", "--namespace=a", "--certificate-dir=d"], "is for --certificates files"),
        (["--certificates=cert-manager"], "is not a choice"),
        (["--drain-delay=5"], "is not a duration"),
        (["--defaults=x", "--namespace=a", "--listen-address=192.0.2.1:0"], "--listen-address: cannot listen on 192.0.2.1:0"),
    ],
)
def test_a_wrong_flag_is_one_line_that_says_what_to_write(flags: list[str], words: str) -> None:
    code, said = run(*flags)
    assert code == 2
    assert said.startswith("outrider: ")
    assert said.count("\n") == 1
    assert words in said


@pytest.mark.parametrize(
    ("missing", "words"), [("cryptography", "pip install 'outrider[injector]'"), ("sidecar.injector", "use the image outrider-injector")]
)
def test_without_its_packages_it_says_how_to_get_them(missing: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.util import find_spec

    from sidecar.cli import injector
    from sidecar.errors import UsageError

    monkeypatch.setattr(injector, "find_spec", lambda name: None if name == missing else find_spec(name))
    with pytest.raises(UsageError, match=re.escape(words)):
        injector._need_packages()


def test_a_command_that_is_not_the_injector_loads_nothing_of_it() -> None:
    code = "import sys; from sidecar.cli.main import main; main(['version']); print([m for m in sys.modules if 'injector' in m or 'cryptography' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
