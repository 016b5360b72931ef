"""Runs programs: bounded, never asking anything, and a failure shows what the program said."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence


class CommandFailed(Exception):
    """A program ended with an error, or not at all."""


def run(argv: Sequence[str], *, stdin: str = "", timeout: float = 120, environment: Mapping[str, str] | None = None) -> str:
    """Standard output. Raises CommandFailed."""
    try:
        done = subprocess.run(
            list(argv), input=stdin, capture_output=True, text=True, timeout=timeout, env={**os.environ, **(environment or {})}, check=False
        )
    except FileNotFoundError:
        raise CommandFailed(f"{argv[0]} is not installed, or not on PATH (e2e/README.md: which variable names it)") from None
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"{' '.join(argv)}: still running after {timeout:g} s") from None
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(argv)}: exit {done.returncode}\n{done.stderr.strip()[-4000:]}\n{done.stdout.strip()[-2000:]}")
    return done.stdout
