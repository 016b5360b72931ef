"""`outrider why`: what became of a request, which clock or rule ended it, and what the configuration said about that."""

from __future__ import annotations

import argparse
import json
from typing import Any
from urllib.parse import urlencode

from sidecar.cli.client import AdminClient, AdminError
from sidecar.cli.flags import add_admin_flag, add_flag, add_switch, admin_address, one_of
from sidecar.errors import OutriderError, UsageError

EXAMPLE = """\
examples:
  outrider why 0b5c0f0e-6c0e-4c6e-9b0e-3a1c5d2f7a10      (x-request-id of the reply, request_id of the log)
  kubectl exec deploy/orders -c outrider -- outrider why --last

The last 256 failures and retries and the slowest requests are known.
exit status: 0 known, 1 not known, or no sidecar answered
"""
NOT_FOUND = 404


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of interface.md section 1."""
    parser.epilog = EXAMPLE
    parser.add_argument("request_id", metavar="REQUEST-ID", nargs="?", help="what x-request-id of the reply says")
    add_switch(parser, "--last", help="the last request that failed, instead of a given one")
    add_flag(parser, "--output", parse=one_of("text", "json"), default="text", metavar="FORMAT", help="text or json (default text)")
    add_admin_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Print what is known. Raises UsageError, AdminError, or OutriderError when nothing is."""
    if bool(args.request_id) == args.last:
        raise UsageError(
            "which request? give its REQUEST-ID or --last, not both" if args.last else "which request? give its REQUEST-ID, or --last"
        )
    answer = _ask(args)
    if args.output == "json":
        print(json.dumps(answer))
    else:
        from sidecar.cli.why_text import render

        print(render(answer), end="")
    return 0


def _ask(args: argparse.Namespace) -> dict[str, Any]:
    query = f"?{urlencode({'request_id': args.request_id})}" if args.request_id else ""
    try:
        answer: dict[str, Any] = AdminClient(admin_address(args)).get(f"/why{query}")
    except AdminError as error:
        if error.status == NOT_FOUND:
            wanted = f"{args.request_id}: not known: " if args.request_id else ""
            raise OutriderError(f"{wanted}{error.detail}") from None
        raise
    return answer
