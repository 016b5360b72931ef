"""`outrider validate`: all problems of documents at once, each with its place."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sidecar.cli.files import STDIN, read, shown_name
from sidecar.cli.flags import add_flag, one_of
from sidecar.cli.folders import files_in
from sidecar.cli.verdict import FORMATS, Checked, Verdict
from sidecar.config.check import check_if_ours, check_text
from sidecar.config.load import KEY
from sidecar.config.manifest import MAX_MANIFEST_BYTES
from sidecar.errors import UsageError

EXAMPLE = """\
examples:
  outrider validate sidecar.yaml deploy/
  kubectl get configmaps --all-namespaces -o yaml | outrider validate -

Each problem is one line, FILE:LINE:COLUMN: path: what is wrong (what to write instead).
exit status: 0 valid, 1 not valid, 2 a file cannot be read, or a folder holds no document
"""
UNREADABLE: Final = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of interface.md section 1, `--configmap-key` as `outrider run` has it, and what hooks need."""
    parser.epilog = EXAMPLE
    parser.add_argument("files", nargs="+", metavar="FILE", help="a document, a manifest with ConfigMaps, or a folder of them; - is stdin")
    add_flag(parser, "--output", parse=one_of(*FORMATS), default="text", metavar="FORMAT", help="text, json or github (default text)")
    add_flag(parser, "--configmap-key", default=KEY, metavar="KEY", help=f"where a ConfigMap holds the document (default {KEY})")
    others = "a named file without a document: refuse it, or skip it as in folders (default refuse)"
    add_flag(parser, "--others", parse=one_of("refuse", "skip"), default="refuse", metavar="WORD", help=others)


def run(args: argparse.Namespace) -> int:
    """Check every file; one that cannot be read does not keep the others from being checked."""
    if args.files.count(STDIN) > 1:
        raise UsageError("standard input can be read only once")
    verdict = Verdict(summary=len(args.files) > 1)
    for name in args.files:
        if name != STDIN and Path(name).is_dir():
            verdict.summary = True
            _check_folder(name, args, verdict)
        else:
            verdict.add(_check(name, args.configmap_key, any_file=args.others == "skip"))
    FORMATS[args.output](verdict)
    if any(one.result is None for one in verdict.checked):
        return UNREADABLE
    return 1 if any(one.result is not None and one.result.problems for one in verdict.checked) else 0


def _check_folder(folder: str, args: argparse.Namespace, verdict: Verdict) -> None:
    before = len(verdict.checked)
    for one in _check_files(folder, args.configmap_key):
        verdict.add(one)
    if len(verdict.checked) == before and args.others == "refuse":
        # A check that looked at nothing must not pass for one that found nothing.
        missing = f"{folder} holds no document and no ConfigMap with the key {args.configmap_key} (is it the right folder, and the right --configmap-key?)"
        verdict.add(Checked(folder, None, missing))


def _check_files(folder: str, key: str) -> Iterator[Checked | None]:
    for name in files_in(folder):
        yield Checked(folder, None, str(name)) if isinstance(name, UsageError) else _check(name, key, any_file=True)


def _check(name: str, key: str, *, any_file: bool) -> Checked | None:
    """What is wrong with a file; None: with `any_file`, nothing in it is ours."""
    try:
        data = read(name, MAX_MANIFEST_BYTES)
    except UsageError as error:
        return Checked(shown_name(name), None, str(error))
    result = check_if_ours(data, key=key) if any_file else check_text(data, key=key)
    return None if result is None else Checked(shown_name(name), result)
