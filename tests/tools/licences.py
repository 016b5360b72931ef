"""`python -m tools.licences [--write]`: docs/licences.md, the licences of everything that the images hold beside ours and Python."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, metadata
from typing import Final

from packaging.markers import Marker

from tools.locked import ROOT, SHIPPED, read

DOCUMENT: Final = ROOT / "docs" / "licences.md"
PERMITTED: Final = frozenset(
    ("Apache-2.0", "MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "PSF-2.0", "MPL-2.0", "0BSD", "Unlicense", "Zlib")
)
"""Licences that ask for nothing but their text, and MPL-2.0, which speaks of its own files only."""
_WORDS: Final = {
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
"""What packages call their licence, as SPDX does."""
_HEAD: Final = """# Licences of dependencies

Everything that the images hold beside Outrider itself (Apache-2.0), Python and the base image; generated from the lock files by
`make docs`, and checked by a test. Versions and hashes are in the lock files and in the bill of materials (`make sbom`).

| package | licence | in |
|---|---|---|
"""


def licence_of(name: str) -> str:
    """SPDX expression of an installed package. Raises PackageNotFoundError, or ValueError where it says nothing that we know."""
    about = metadata(name)
    stated, written = (str((about.get_all(field) or [""])[0]) for field in ("License-Expression", "License"))
    expression = stated or _WORDS.get(written, written)
    classifiers = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    several = [_WORDS[one] for one in classifiers if one in _WORDS]
    if expression not in PERMITTED and not stated:
        expression = ""
    if len(several) > 1 or not expression:
        expression = " OR ".join(sorted(several))
    if not expression:
        raise ValueError(f"{name} does not say which licence it has")
    return expression


def is_permitted(expression: str) -> bool:
    """Whether every licence of an expression, or one of several to choose from, is permitted."""
    return all(any(word in PERMITTED for word in part.split(" OR ")) for part in re.sub(r"[()]", "", expression).split(" AND "))


def render(present: str) -> str:
    """The document. What this interpreter does not need, and so has not, keeps its line of the `present` one."""
    packages = {image: read(path) for image, path in SHIPPED.items()}
    lines = []
    for name, marker in sorted({(package.name, package.marker) for some in packages.values() for package in some}):
        images = ", ".join(image for image, some in packages.items() if any(package.name == name for package in some))
        try:
            lines.append(f"| {name} | {licence_of(name)} | {images} |")
        except PackageNotFoundError:
            if not marker or Marker(marker).evaluate():
                raise
            lines += re.findall(rf"^\| {re.escape(name)} \|.*$", present, re.MULTILINE)
    return _HEAD + "\n".join(dict.fromkeys(lines)) + "\n"


def main(arguments: list[str]) -> int:
    """Write the document, or say whether it is current."""
    present = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else ""
    wanted = render(present)
    if "--write" in arguments:
        DOCUMENT.write_text(wanted, encoding="utf-8")
        return 0
    if present != wanted:
        print(f"{DOCUMENT.name} is not current (write it again: make docs)", file=sys.stderr)
    return int(present != wanted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
