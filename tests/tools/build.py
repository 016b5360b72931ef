"""Builds the programs that tests run, from Go modules at fixed versions, into .cache/tools/bin: `make tools NAMES="etcd helm"`.

What `support.programs` finds already is left alone. Each program gets a throw-away module that requires it, because
`go install` refuses modules that replace others. Programs are built without C, so one machine's build runs on another.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from support.programs import BUILT, DEFAULT, find_program

SOURCES = BUILT.parent / "src"
SECONDS = 1200.0
"""One program's bound; kube-apiserver takes 4 minutes on 2 idle cores."""
TRIES = 3
"""Each command is run so often before it counts as failed: downloads break off, and what has been compiled is kept."""
PAUSE = 5.0
"""Seconds between two tries."""
TOLD = 20
"""Lines of a failed command's errors that are printed; all of them are in the log."""
GO_FOLDERS = ("/usr/local/go/bin", "/usr/lib/go/bin", "/snap/bin")
"""Where Go is looked for when it is not on the PATH: a shell's profile puts it there, and not everybody has read one."""

CERT_MANAGER = "v1.21.2"
ETCD = "v3.6.16"
HELM3 = "v3.22.0"
HELM4 = "v4.3.1"
JAEGER = "v1.76.0"
KIND = "v0.33.0"
KUBECONFORM = "v0.8.0"
KUBERNETES = "v1.36.3"
OTELCOL = "v0.161.0"
PROMETHEUS = "v0.316.0"
PROMETHEUS_OPERATOR = "v0.85.0"


class BuildError(Exception):
    """A program cannot be built; one line for people."""


class Build:
    """One program: its folder of source, its log, its deadline."""

    def __init__(self, name: str, folder: str = "") -> None:
        self.name = name
        self.folder = SOURCES / (folder or name)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = SOURCES / f"{name}.log"
        self.log.write_bytes(b"")
        self.deadline = time.monotonic() + SECONDS

    def run(self, *command: str, **env: str) -> str:
        """What the command prints. Raises BuildError, with the last lines of its errors, when it fails time after time."""
        left = TRIES
        while (done := self._try(command, env)).returncode and (left := left - 1) and self._left() > PAUSE:
            print(f"{self.name}: {' '.join(command[:3])} failed ({_last(done.stderr)}); trying again", file=sys.stderr, flush=True)
            time.sleep(PAUSE)
        if not done.returncode:
            return done.stdout
        told = "\n".join(f"  {line}" for line in done.stderr.strip().splitlines()[-TOLD:])
        ended = f"exit code {done.returncode}" if done.returncode > 0 else f"ended by signal {-done.returncode}"
        raise BuildError(f"{self.name}: {' '.join(command[:3])} failed: {_last(done.stderr)} ({ended}; all of it: {self.log})\n{told}")

    def _try(self, command: Sequence[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        settings = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod -buildvcs=false", "GOWORK": "off", **env}
        if "HOME" not in settings:  # Go would have no place for its caches
            settings = {"GOPATH": str(BUILT.parent / "go"), "GOCACHE": str(BUILT.parent / "go-build"), **settings}
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=settings,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=self._left(),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BuildError(f"{self.name}: not built within {SECONDS:.0f} s; run it again to go on where it was") from None
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n{done.stderr}")
        return done

    def module(self, *requirements: str) -> None:
        """Make the throw-away module; `requirements` are MODULE@VERSION."""
        (self.folder / "go.mod").unlink(missing_ok=True)
        self.run("go", "mod", "init", f"tools/{self.folder.name}")
        self.run("go", "get", *requirements)

    def compile(self, package: str, *, ldflags: str = "", tags: str = "") -> None:
        """Build the program; it appears in BUILT at once and complete, or not at all."""
        new = BUILT / f".{self.name}.new"
        self.run("go", "build", "-trimpath", f"-tags={tags}", "-ldflags", f"-s -w {ldflags}", "-o", str(new), package)
        new.replace(BUILT / self.name)

    def source_of(self, requirement: str) -> None:
        """Make the folder a copy of the module's own source, with its own go.sum."""
        cached = json.loads(self.run("go", "mod", "download", "-json", requirement))["Dir"]
        shutil.rmtree(self.folder)
        shutil.copytree(cached, self.folder)
        for path in (self.folder, *self.folder.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)

    def _left(self) -> float:
        return max(1.0, self.deadline - time.monotonic())


def _last(errors: str) -> str:
    return (errors.strip().splitlines() or ["no message"])[-1]


def find_go() -> bool:
    """Whether there is Go; one that is not on the PATH is put there."""
    if shutil.which("go") is None:
        os.environ["PATH"] = os.pathsep.join((os.environ.get("PATH", os.defpath), *GO_FOLDERS))
    return shutil.which("go") is not None


def plain(package: str, version: str, name: str) -> None:
    """A program whose module can be required."""
    build = Build(name)
    build.module(f"{package}@{version}")
    build.compile(package)


def kubernetes(name: str) -> None:
    """Kubernetes replaces its staging modules by folders that a module download lacks: name the published ones instead."""
    build = Build(name, "kubernetes")
    manifest = build.folder / "go.mod"
    if not (build.folder / ".tidy").exists():
        manifest.unlink(missing_ok=True)
        build.run("go", "mod", "init", "tools/kubernetes")
        published = json.loads(build.run("go", "mod", "download", "-json", f"k8s.io/kubernetes@{KUBERNETES}"))["GoMod"]
        staged = re.findall(r"^\s*(\S+) => \./staging/", Path(published).read_text(encoding="utf-8"), re.MULTILINE)
        replaced = "".join(f"\t{module} => {module} v0{KUBERNETES[2:]}\n" for module in staged)
        go = re.search(r"^go \S+$", Path(published).read_text(encoding="utf-8"), re.MULTILINE)
        text = f"module tools/kubernetes\n\n{go[0] if go else 'go 1.26.0'}\n\nrequire k8s.io/kubernetes {KUBERNETES}\n\nreplace (\n{replaced})\n"
        manifest.write_text(text, encoding="utf-8")
        wanted = "".join(f'import _ "k8s.io/kubernetes/cmd/{program}"\n' for program in ("kube-apiserver", "kubectl"))
        (build.folder / "tools.go").write_text(f"//go:build tools\n\npackage tools\n\n{wanted}", encoding="utf-8")
        build.run("go", "mod", "tidy", "-e")
        (build.folder / ".tidy").touch()
    major, minor, _ = KUBERNETES[1:].split(".")
    said = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    build.compile(
        f"k8s.io/kubernetes/cmd/{name}", ldflags=" ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in said.items())
    )


def prometheus(name: str) -> None:
    """Without the cloud providers' discovery: it is most of the program, and one of its modules cannot be downloaded."""
    build = Build(name, "prometheus")
    (build.folder / "go.mod").unlink(missing_ok=True)
    build.run("go", "mod", "init", "tools/prometheus")
    build.run("go", "mod", "edit", "-require", f"github.com/prometheus/prometheus@{PROMETHEUS}")
    tags = "remove_all_sd,enable_kubernetes_sd,enable_static_sd,enable_file_sd"
    build.compile(f"github.com/prometheus/prometheus/cmd/{name}", tags=tags)


def jaeger(name: str) -> None:
    """From its own source: the checksum database lacks some of what it needs."""
    build = Build(name)
    build.source_of(f"github.com/jaegertracing/jaeger@{JAEGER}")
    build.compile("./cmd/all-in-one")


def otelcol(name: str) -> None:
    """An OpenTelemetry Collector that receives OTLP, prints it and writes it to a file; made by the collector's own builder."""
    build = Build(name)
    build.module(f"go.opentelemetry.io/collector/cmd/builder@{OTELCOL}")
    builder = build.folder / "builder"
    build.run("go", "build", "-trimpath", "-o", str(builder), "go.opentelemetry.io/collector/cmd/builder")
    core, contrib = "go.opentelemetry.io/collector", "github.com/open-telemetry/opentelemetry-collector-contrib"
    made = build.folder / "made"
    manifest = {
        "dist": {"name": name, "output_path": str(made), "module": "tools/otelcol", "version": OTELCOL[1:]},
        "receivers": [{"gomod": f"{core}/receiver/otlpreceiver {OTELCOL}"}],
        "processors": [{"gomod": f"{core}/processor/batchprocessor {OTELCOL}"}],
        "exporters": [{"gomod": f"{core}/exporter/debugexporter {OTELCOL}"}, {"gomod": f"{contrib}/exporter/fileexporter {OTELCOL}"}],
    }
    (build.folder / "manifest.yaml").write_text(json.dumps(manifest), encoding="utf-8")  # JSON is YAML
    build.run(str(builder), "--config", "manifest.yaml", "--skip-strict-versioning")
    (made / name).replace(BUILT / name)


def operator_crds(name: str) -> None:
    """No program: the definitions of the kinds that the chart makes for two operators, one YAML file, from these operators' modules.

    Its mode is a program's so that it is found like one.
    """
    build = Build(name)
    wanted = {
        f"github.com/prometheus-operator/prometheus-operator@{PROMETHEUS_OPERATOR}": (
            "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
            "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        ),
        f"github.com/cert-manager/cert-manager@{CERT_MANAGER}": (
            "deploy/crds/cert-manager.io_certificates.yaml",
            "deploy/crds/cert-manager.io_issuers.yaml",
        ),
    }
    found = []
    for module, files in wanted.items():
        folder = Path(json.loads(build.run("go", "mod", "download", "-json", module))["Dir"])
        found += [(folder / file).read_text(encoding="utf-8") for file in files]
    new = BUILT / f".{name}.new"
    new.write_text("\n---\n".join(found), encoding="utf-8")
    new.chmod(0o755)
    new.replace(BUILT / name)


RECIPES: dict[str, Callable[[str], None]] = {
    "etcd": partial(plain, "go.etcd.io/etcd/server/v3", ETCD),
    "kube-apiserver": kubernetes,
    "kubectl": kubernetes,
    "helm": partial(plain, "helm.sh/helm/v4/cmd/helm", HELM4),
    "helm3": partial(plain, "helm.sh/helm/v3/cmd/helm", HELM3),
    "kubeconform": partial(plain, "github.com/yannh/kubeconform/cmd/kubeconform", KUBECONFORM),
    "kind": partial(plain, "sigs.k8s.io/kind", KIND),
    "prometheus": prometheus,
    "promtool": prometheus,
    "jaeger": jaeger,
    "otelcol": otelcol,
    "operator-crds": operator_crds,
}


@contextmanager
def alone() -> Iterator[None]:
    """One build at a time in a checkout: another one waits, and then finds what the first has built."""
    BUILT.mkdir(parents=True, exist_ok=True)
    SOURCES.mkdir(parents=True, exist_ok=True)
    with (BUILT.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(names: Sequence[str]) -> int:
    """Exit code: 0 all there, 1 not built, 2 no such program known."""
    if unknown := [name for name in names if name not in RECIPES]:
        print(f"make tools: no recipe for {', '.join(unknown)}; there are: {' '.join(RECIPES)}", file=sys.stderr)
        return 2
    with alone():
        missing = [name for name in names or DEFAULT if find_program(name) is None]
        if missing and not find_go():
            print(f"make tools: needs Go (https://go.dev/dl) on the PATH to build {', '.join(missing)}", file=sys.stderr)
            return 1
        for name in missing:
            started = time.monotonic()
            print(f"building {name} ...", file=sys.stderr, flush=True)
            try:
                RECIPES[name](name)
            except (BuildError, OSError) as error:
                print(f"make tools: {error}", file=sys.stderr)
                return 1
            print(f"built {name} in {time.monotonic() - started:.0f} s", file=sys.stderr)
    for name in names or DEFAULT:
        print(find_program(name))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
