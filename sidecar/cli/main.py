"""`outrider COMMAND`: finds the command, loads only that one, and sees to it that no traceback reaches a user."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol, cast

from sidecar.cli import lean, quick
from sidecar.errors import OutriderError, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

COMMANDS: Final = {
    "run": "the sidecar: serve traffic by a document until told to end",
    "validate": "all problems of a document at once, each with its line",
    "explain": "what would happen to a request, and why, without sending it",
    "why": "what became of a request: every attempt, and which clock or rule ended it",
    "status": "one screen about a running sidecar",
    "wait": "wait until the sidecar is ready",
    "drain": "let the sidecar drain, and wait until it has (the preStop hook)",
    "schema": "JSON Schema of the document, for editors",
    "inject": "manifests with the sidecar in their pods, for GitOps and for a look",
    "injector": "the admission webhook of a cluster: puts sidecars into pods, refuses bad documents",
    "version": "versions of the sidecar and of what matters to it",
}
"""Name -> what it does; each is a module of this package with `add_arguments(parser)` and `run(args)`."""

USAGE: Final = 2
FAILURE: Final = 1
INTERRUPTED: Final = 130


class Command(Protocol):
    """A module of this package."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say which flags there are; may set `epilog`."""
        ...

    def run(self, args: Namespace) -> int:
        """Do it; returns the exit code."""
        ...


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
    if name == "run":  # the one that stays
        lean.load_msgspec()
    command = cast("Command", importlib.import_module(f"sidecar.cli.{name}"))
    args = quick.read(command.add_arguments, words[1:])
    if args is None:
        from sidecar.cli import parser

        try:
            args = parser.of_command(name, COMMANDS[name], command.add_arguments).parse_args(words[1:])
        except SystemExit as done:  # --help
            return int(done.code or 0)
    return command.run(args)


def _overview() -> ArgumentParser:
    from sidecar.cli import parser

    return parser.overview(COMMANDS)


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
