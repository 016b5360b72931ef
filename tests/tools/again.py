"""`python -m tools.again FOLDER`: run what failed in `make test` again, alone (decision 0046). FOLDER is that run's pytest cache.

A few failures may be the tests' own: a race that one run in many loses. What fails again fails the build. What passes each time is
told as unsteady, by name, and is to be mended; many failures at once are never looked at again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

MOST: Final = 3
"""Failures in one run that may be anything but a defect of the change."""
TIMES: Final = 3
"""Each must pass so often in a row, in processes of their own."""


def failed(cache: Path) -> list[str]:
    """Node ids of the tests that failed in the run whose cache this is."""
    try:
        return sorted(json.loads((cache / "v/cache/lastfailed").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return []


def look_again(names: list[str], command: list[str]) -> bool:
    """Whether every one of `names` passes `TIMES` in a row."""
    return all(subprocess.run([*command, *names], check=False).returncode == 0 for _ in range(TIMES))


def main(cache: Path, command: list[str]) -> int:
    """Exit code: 0 when the failures do not come again."""
    names = failed(cache)
    if not names or len(names) > MOST:
        print(f"{len(names)} tests failed: none is run again", file=sys.stderr)
        return 1
    if not look_again(names, command):
        return 1
    for name in names:
        print(f"CI: UNSTEADY: {name} failed once and then passed {TIMES} times alone. Mend it.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [sys.executable, "-m", "pytest"]))
