"""`outrider version`."""

from __future__ import annotations

import argparse

from sidecar.admin.versions import versions

EXAMPLE = """\
example:
  outrider version
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No flags."""
    parser.epilog = EXAMPLE


def run(_args: argparse.Namespace) -> int:
    """One line each."""
    found = versions()
    width = max(map(len, found))
    for name, version in found.items():
        print(f"{name:<{width}}  {version}")
    return 0
