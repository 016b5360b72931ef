"""`outrider COMMAND`: finds the command, loads only that one, and sees to it that no traceback reaches a user."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn, Protocol, cast

from sidecar import __version__
from sidecar.errors import OutriderError, UsageError

COMMANDS: Final = {
    "run": "the sidecar: serve traffic by a document until told to end",
    "validate": "all problems of a document at once, each with its line",
    "explain": "what would happen to a request, and why, without sending it",
    "status": "one screen about a running sidecar",
    "wait": "wait until the sidecar is ready",
    "drain": "let the sidecar drain, and wait until it has (the preStop hook)",
    "schema": "JSON Schema of the document, for editors",
    "version": "versions of the sidecar and of what matters to it",
}
"""Name -> what it does; each is a module of this package with `add_arguments(parser)` and `run(args)`."""

USAGE: Final = 2
FAILURE: Final = 1
INTERRUPTED: Final = 130
EXAMPLE: Final = """\
examples:
  outrider run --config examples/quickstart.yaml
  outrider validate sidecar.yaml
  outrider explain GET http://orders.shop.svc/v1/items --config sidecar.yaml

`outrider COMMAND --help` tells more. Every flag --some-flag has a variable OUTRIDER_SOME_FLAG.
"""


class Command(Protocol):
    """A module of this package."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Say which flags there are; may set `epilog`."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it; returns the exit code."""
        ...


class _Help(argparse.RawDescriptionHelpFormatter):
    """Wide enough that a flag and what it does share a line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=120)


class _Parser(argparse.ArgumentParser):
    """Complains in one line, without repeating the whole usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 2 for a wrong one, else what the command says."""
    _open_standard_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
        sys.stdout.flush()
    except UsageError as error:
        code = _complain(error, USAGE)
    except OutriderError as error:
        code = _complain(error, FAILURE)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # `outrider ... | head`
        _silence_stdout()
        code = FAILURE
    except OSError as error:  # a full disk behind `outrider ... > file`
        _silence_stdout()
        where = f"{error.filename}: " if error.filename else ""
        code = _complain(OutriderError(f"cannot go on: {where}{(error.strerror or str(error)).lower()}"), FAILURE)
    except Exception as error:  # a bug: still one line; the whole story with --log-level debug
        logging.getLogger("outrider").debug("unexpected error", exc_info=error)
        code = _complain(error, FAILURE, "unexpected error: ")
    return code


def _dispatch(words: list[str]) -> int:
    if not words:
        sys.stderr.write(_overview().format_help())
        return USAGE
    name = words[0]
    if name not in COMMANDS:
        overview = _overview()
        overview.parse_args(words)  # ends by itself on --help, --version and unknown flags
        overview.error(f"unknown command {name!r} (one of {', '.join(COMMANDS)})")
    command = cast("Command", importlib.import_module(f"sidecar.cli.{name}"))
    parser = _Parser(prog=f"outrider {name}", description=COMMANDS[name], formatter_class=_Help, allow_abbrev=False)
    command.add_arguments(parser)
    try:
        args = parser.parse_args(words[1:])
    except SystemExit as done:  # --help
        return int(done.code or 0)
    return command.run(args)


def _overview() -> _Parser:
    width = max(map(len, COMMANDS))
    listing = "commands:\n" + "".join(f"  {name:{width}}  {what}\n" for name, what in COMMANDS.items())
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


def _complain(error: Exception, code: int, prefix: str = "") -> int:
    text = " ".join(str(error).split()) or type(error).__name__
    try:
        sys.stderr.write(f"outrider: {prefix}{text}\n")
        sys.stderr.flush()
    except OSError:  # nobody listens
        pass
    return code


def _open_standard_streams() -> None:
    """Whoever started us may have closed them; the first socket or file of ours must not take their place."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _silence_stdout() -> None:
    """What is still buffered has no reader; the interpreter would complain about it while it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
