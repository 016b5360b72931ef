"""msgspec without typing_extensions, which it prefers where another library has brought it.

It takes three names from it that `typing` has as well from Python 3.11 on, for a MiB of memory.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final, cast

_UNWANTED: Final = "typing_extensions"


def load_msgspec() -> None:
    """Import msgspec, unless it or typing_extensions is there already; who wants the latter afterwards gets it."""
    modules = cast("dict[str, Any]", sys.modules)
    if _UNWANTED in modules:
        return
    modules[_UNWANTED] = None  # an import of it fails (docs.python.org/3/reference/import.html#the-module-cache)
    try:
        importlib.import_module("msgspec")
    finally:
        del modules[_UNWANTED]
