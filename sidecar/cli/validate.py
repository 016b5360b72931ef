"""`outrider validate`: all problems of documents at once, each with its place."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sidecar.cli.files import STDIN, read, shown_name
from sidecar.cli.flags import add_flag, one_of
from sidecar.config.load import KEY, CheckResult, check_text
from sidecar.config.manifest import MAX_MANIFEST_BYTES
from sidecar.errors import UsageError
from sidecar.observe.text import printable

EXAMPLE = """\
examples:
  outrider validate sidecar.yaml
  kubectl get configmap orders-sidecar -o yaml | outrider validate -

Each problem is one line, FILE:LINE:COLUMN: path: what is wrong (what to write instead).
exit status: 0 valid, 1 not valid, 2 a file cannot be read
"""
UNREADABLE: Final = 2


class _Checked(NamedTuple):
    """A file and what was found in it; `result` None: it could not be read, `error` says why."""

    name: str
    result: CheckResult | None
    error: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of interface.md section 1, and `--configmap-key` as `outrider run` has it."""
    parser.epilog = EXAMPLE
    parser.add_argument("files", nargs="+", metavar="FILE", help="a document, or a manifest with ConfigMaps; - reads stdin")
    add_flag(parser, "--output", parse=one_of("text", "json"), default="text", metavar="FORMAT", help="text or json (default text)")
    add_flag(parser, "--configmap-key", default=KEY, metavar="KEY", help=f"where a ConfigMap holds the document (default {KEY})")


def run(args: argparse.Namespace) -> int:
    """Check every file; one that cannot be read does not keep the others from being checked."""
    if args.files.count(STDIN) > 1:
        raise UsageError("standard input can be read only once")
    checked = [_check(name, args.configmap_key) for name in args.files]
    if args.output == "json":
        _print_json(checked)
    else:
        _print_text(checked)
    if any(one.result is None for one in checked):
        return UNREADABLE
    return 1 if any(one.result is not None and one.result.problems for one in checked) else 0


def _check(name: str, key: str) -> _Checked:
    try:
        return _Checked(shown_name(name), check_text(read(name, MAX_MANIFEST_BYTES), key=key))
    except UsageError as error:
        return _Checked(shown_name(name), None, str(error))


def _print_text(checked: Sequence[_Checked]) -> None:
    for name, result, error in checked:
        if result is None:
            print(f"outrider: {printable(error)}", file=sys.stderr)
            continue
        for problem in result.problems:
            print(printable(problem.render(name)))
        for warning in result.warnings:
            print(printable(f"{name}: warning: {warning}"))
        if not result.problems:
            print(printable(f"{name}: valid"))


def _print_json(checked: Sequence[_Checked]) -> None:
    files = [_as_json(one) for one in checked]
    print(json.dumps({"valid": all(file["valid"] for file in files), "files": files}, indent=2))


def _as_json(checked: _Checked) -> dict[str, Any]:
    result = checked.result
    if result is None:
        return {"file": checked.name, "valid": False, "error": checked.error, "problems": [], "warnings": []}
    problems = [{"path": one.path, "line": one.line, "column": one.column, "message": one.message} for one in result.problems]
    return {"file": checked.name, "valid": not problems, "error": None, "problems": problems, "warnings": list(result.warnings)}
