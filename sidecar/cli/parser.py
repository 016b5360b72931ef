"""Command lines as argparse reads them: everything that quick.py leaves to it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

from sidecar import __version__
from sidecar.errors import UsageError

EXAMPLE: Final = """\
examples:
  outrider run --config examples/quickstart.yaml
  outrider validate sidecar.yaml
  outrider explain GET http://orders.shop.svc/v1/items --config sidecar.yaml

`outrider COMMAND --help` tells more. Every flag --some-flag has a variable OUTRIDER_SOME_FLAG.
"""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Wide enough that a flag and what it does share a line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=120)


class _Parser(argparse.ArgumentParser):
    """Complains in one line, without repeating the whole usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def of_command(name: str, what: str, add_arguments: Callable[[argparse.ArgumentParser], None]) -> argparse.ArgumentParser:
    """Of one command; `what` it does."""
    parser = _Parser(prog=f"outrider {name}", description=what, formatter_class=_Help, allow_abbrev=False)
    add_arguments(parser)
    return parser


def overview(commands: Mapping[str, str]) -> _Parser:
    """Of `outrider` itself; `commands`: name -> what it does."""
    width = max(map(len, commands))
    listing = "commands:\n" + "".join(f"  {name:{width}}  {what}\n" for name, what in commands.items())
    parser = _Parser(
        prog="outrider",
        usage="outrider COMMAND [FLAGS]",
        description=f"A Kubernetes-native HTTP sidecar proxy.\n\n{listing}",
        epilog=EXAMPLE,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"outrider {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    return parser
