"""Real programs that tests run: an API server, Helm, Prometheus. Where they are found, and what a test says without them.

Looked for, first match wins: $KUBEBUILDER_ASSETS (what other projects' tools set), $OUTRIDER_TOOLS (a folder of your
own), `.cache/tools/bin` of this checkout (what `make tools` fills), $PATH.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILT = ROOT / ".cache/tools/bin"
"""Where `make tools` puts what it builds."""
DEFAULT = ("etcd", "kube-apiserver", "kubectl")
"""What `make tools` builds when it is given no names."""


def find_program(name: str) -> Path | None:
    """Where the program is, None when it is nowhere."""
    named = [os.environ.get(variable) for variable in ("KUBEBUILDER_ASSETS", "OUTRIDER_TOOLS")]
    for folder in (*(Path(path) for path in named if path), BUILT):
        if os.access(folder / name, os.X_OK) and (folder / name).is_file():
            return folder / name
    found = shutil.which(name)
    return Path(found) if found else None


def need_program(name: str) -> Path:
    """`find_program`; skips the test, with one line that says how to get the program, when there is none."""
    if found := find_program(name):
        return found
    names = "" if name in DEFAULT else f' NAMES="{name}"'
    pytest.skip(
        f"needs {name}: run `make tools{names}` (Go builds it), or name a folder that has it in KUBEBUILDER_ASSETS or OUTRIDER_TOOLS"
    )
