"""What is said to mypyc where our classes are written; a module that is never compiled itself (hatch_build.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

__all__ = ["mypyc_attr"]

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:  # nobody installs that package to run us

    def mypyc_attr(**_: bool) -> Callable[[type], type]:
        """The class as it is."""
        return lambda made: made
