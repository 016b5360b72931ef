"""Writes what the charts take from `podspec.py`, or says that it is not current: `python -m sidecar.injector.charts [--check]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from sidecar.injector import cel, helm

FILES: Final = {
    "charts/outrider-lib/templates/_generated.tpl": helm.templates,
    "charts/outrider/templates/_generated_cel.tpl": cel.templates,
}
"""Path in the checkout -> what makes its text."""


def stale(root: Path) -> list[str]:
    """The generated files that are not what they should be."""
    return [name for name, text in FILES.items() if not (root / name).is_file() or (root / name).read_text() != text()]


def write(root: Path) -> None:
    """Write all of them."""
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text())


def main(arguments: list[str]) -> int:
    """See the top of this file."""
    root = Path(__file__).parents[2]
    if "--check" not in arguments:
        write(root)
        return 0
    names = stale(root)
    for name in names:
        sys.stderr.write(f"{name} is not current (run `make charts`)\n")
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
