"""Which versions are at work: for `outrider version` and `GET /version`."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from sidecar import __version__

_PACKAGES: Final = ("uvloop", "msgspec", "PyYAML", "google-re2", "pycares", "aiohttp", "prometheus-client")


@cache
def versions() -> dict[str, str]:
    """`outrider`, `python`, `platform`, then the packages that matter ("not installed" where one is missing)."""
    found = {
        "outrider": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
    }
    return found | {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
