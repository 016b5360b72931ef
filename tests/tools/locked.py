"""What the lock files name: each package with its version, the condition under which it is needed, and its hashes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
SHIPPED: Final = {"sidecar": ROOT / "requirements.lock", "injector": ROOT / "requirements-injector.lock"}
"""The locks of what users run, by image."""
_pin: Final = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)(?: ; (.+?))?(?: \\)?$")
_hash: Final = re.compile(r"^\s+--hash=sha256:([0-9a-f]{64})")


class Package(NamedTuple):
    """One line of a lock. `marker`: the environments that need it, "" for all (PEP 508)."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]

    @property
    def purl(self) -> str:
        """Its package URL."""
        return f"pkg:pypi/{self.name}@{self.version}"


def read(path: Path) -> list[Package]:
    """The packages of one lock, in its order. Raises ValueError for one without a hash."""
    packages: list[Package] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if pin := _pin.match(line):
            packages.append(Package(plain_name(pin[1]), pin[2], pin[3] or "", ()))
        elif found := _hash.match(line):
            last = packages[-1]
            packages[-1] = last._replace(hashes=(*last.hashes, found[1]))
    for package in packages:
        if not package.hashes:
            raise ValueError(f"{path.name}: {package.name} has no hash")
    return packages


def plain_name(name: str) -> str:
    """A name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locks() -> list[Path]:
    """Every lock of the repository."""
    return sorted([*ROOT.glob("requirements*.lock"), ROOT / "bench" / "requirements.lock"])
