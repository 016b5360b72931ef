"""Which versions are at work: for `outrider version` and `GET /version`."""

from __future__ import annotations

import platform
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Final

from sidecar import __version__

_COMPILED: Final = "sidecar.proxy.pipeline"
_PACKAGES: Final = ("uvloop", "msgspec", "PyYAML", "google-re2", "pycares", "aiohttp", "prometheus-client")


@cache
def versions() -> dict[str, str]:
    """`outrider`, `build`, `python`, `platform`, then the packages that matter ("not installed" where one is missing)."""
    found = {
        "outrider": __version__,
        "build": "compiled" if compiled() else "pure Python",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
    }
    return found | {name: _version(name) for name in _PACKAGES}


def compiled() -> bool:
    """Whether the modules that each request passes are compiled (hatch_build.py): then one of them is an extension."""
    found = find_spec(_COMPILED)
    return found is not None and (found.origin or "").endswith(tuple(EXTENSION_SUFFIXES))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
