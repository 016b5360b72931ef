"""The images under test: built here, or named by the environment."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from kit.command import run
from kit.settings import ROOT, Settings

BUILD = 1800.0
"""Seconds for one image: most of it is the C compiler's, which a busy machine can make long."""
TARGETS = {"sidecar": "outrider", "injector": "outrider-injector"}


def revision() -> str:
    """The commit that the checkout is at, marked when it has changes; "unknown" without git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, check=True, cwd=ROOT, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()


def build(settings: Settings, target: str, *, version: str = "") -> str:
    """Build one image and return its reference. The tag is made of the content, so no node can have another one of that name."""
    arguments = ["--build-arg", f"BASE={settings.base_image}", "--build-arg", f"REVISION={revision()}"]
    if version:
        arguments += ["--build-arg", f"VERSION={version}"]
    identity = run([settings.docker, "build", "--quiet", "--target", target, *arguments, str(ROOT)], timeout=BUILD).strip().splitlines()[-1]
    reference = f"{TARGETS[target]}:e2e-{identity.removeprefix('sha256:')[:12]}"
    run([settings.docker, "tag", identity, reference])
    return reference


def around(settings: Settings, name: str, program: str) -> str:
    """An image of nothing but one program, and its reference; for programs that need no file beside them."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(program, Path(folder) / "program")
        (Path(folder) / "Dockerfile").write_text('FROM scratch\nCOPY program /program\nUSER 65532:65532\nENTRYPOINT ["/program"]\n')
        identity = run([settings.docker, "build", "--quiet", folder], timeout=BUILD).strip().splitlines()[-1]
    reference = f"outrider-{name}:e2e-{identity.removeprefix('sha256:')[:12]}"
    run([settings.docker, "tag", identity, reference])
    return reference


def size(settings: Settings, reference: str) -> int:
    """Bytes of all layers, uncompressed."""
    return int(run([settings.docker, "image", "inspect", "--format", "{{.Size}}", reference]))


def compressed_size(settings: Settings, reference: str) -> int:
    """About what a registry sends: the image's archive through gzip, bytes."""
    archive = subprocess.Popen([settings.docker, "save", reference], stdout=subprocess.PIPE)
    with archive as save, subprocess.Popen(["gzip", "-6"], stdin=save.stdout, stdout=subprocess.PIPE) as packed:
        assert packed.stdout is not None
        size = 0
        while chunk := packed.stdout.read(1 << 20):
            size += len(chunk)
    return size
