"""The golden pods: `golden(case, by)` reads one; as a program this file writes all of them again."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from injection.cases import DEFAULTS, INJECTED, REFUSED, Case, Json

from sidecar import __version__
from sidecar.injector.patch import inject
from sidecar.injector.settings import INJECTED as MARK

FOLDER = Path(__file__).with_name("golden")
REFUSALS = FOLDER / "refusals.json"
VERSION = __version__


def golden(case: Case, by: str) -> Json:
    """The pod with its sidecar as it should be when this way has put it there."""
    pod: Json = json.loads((FOLDER / f"{case.name}.json").read_text())
    pod["metadata"]["annotations"][MARK] = mark(by)
    return pod


def mark(by: str) -> str:
    """What `outrider.dev/injected` says."""
    return f'{{"version":"{VERSION}","by":"{by}"}}'


def refusal(case: Case) -> str:
    """Why the pod cannot have a sidecar."""
    words: str = json.loads(REFUSALS.read_text())[case.name]
    return words


def main() -> None:
    """Write all files, and remove those of cases that are no more."""
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.json"):
        old.unlink()
    for case in INJECTED:
        result = inject(copy.deepcopy(case.pod), DEFAULTS[case.defaults], by="BY", version="VERSION")
        assert result.injected, (case.name, result.reason)
        (FOLDER / f"{case.name}.json").write_text(json.dumps(result.pod, indent=1) + "\n")
    words = {case.name: inject(case.pod, DEFAULTS[case.defaults], by="webhook", version=VERSION).reason for case in REFUSED}
    REFUSALS.write_text(json.dumps(words, indent=1) + "\n")


if __name__ == "__main__":
    main()
