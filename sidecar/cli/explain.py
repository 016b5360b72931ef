"""`outrider explain`: what would happen to a request, from a file or from a running sidecar."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any
from urllib.parse import urlencode

from sidecar.cli.client import AdminClient, AdminError
from sidecar.cli.files import read, shown_name
from sidecar.cli.flags import add_admin_flag, add_flag, admin_address, one_of, variable_of
from sidecar.errors import UsageError

EXAMPLE = """\
examples:
  outrider explain GET http://orders.shop.svc/v1/items -H 'x-tenant: a' --config sidecar.yaml
  outrider explain CONNECT api.example.com:443 --listener outbound

Without --config the running sidecar is asked. Without --listener it is guessed, and the answer says how.
exit status: 0 matched, 1 no route (or refused), 2 usage
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of interface.md section 1."""
    parser.epilog = EXAMPLE
    parser.add_argument("method", metavar="METHOD", help="for example GET")
    parser.add_argument("url", metavar="URL", help="http://HOST/PATH, /PATH, or HOST:PORT for CONNECT")
    parser.add_argument("-H", "--header", action="append", metavar="'NAME: VALUE'", help="a header; may be repeated")
    add_flag(parser, "--listener", metavar="NAME", help="where the request arrives")
    source = parser.add_mutually_exclusive_group()
    add_flag(source, "--config", metavar="FILE", help="explain by this document instead of asking a sidecar")
    add_admin_flag(source)
    add_flag(parser, "--output", parse=one_of("text", "json"), default="text", metavar="FORMAT", help="text or json (default text)")


def run(args: argparse.Namespace) -> int:
    """Print the explanation. Raises UsageError or AdminError."""
    if args.header is None:  # as a variable: one on each line
        args.header = os.environ.get(variable_of("--header"), "").splitlines()
    # OUTRIDER_CONFIG may be there for `outrider run`; whoever writes --admin means the sidecar.
    explanation = _offline(args) if args.config and not args.admin else _live(args)
    if args.output == "json":
        print(json.dumps(explanation))
    else:
        from sidecar.proxy.explain_text import render

        print(render(explanation), end="")
    return 1 if explanation["outcome"]["kind"] == "reply" else 0


def _live(args: argparse.Namespace) -> dict[str, Any]:
    pairs = [("method", args.method), ("url", args.url), *(("header", line) for line in args.header)]
    if args.listener:
        pairs.append(("listener", args.listener))
    try:
        answer: dict[str, Any] = AdminClient(admin_address(args)).get(f"/explain?{urlencode(pairs)}")
    except AdminError as error:
        if error.status == 400:
            raise UsageError(error.detail) from None
        raise
    return answer


def _offline(args: argparse.Namespace) -> dict[str, Any]:
    from sidecar.config.load import Problems, load
    from sidecar.proxy.explain import Scene, explain, offline_routers, question

    asked = question(args.method, args.url, args.header, args.listener)
    outcome = load(_document(args.config))
    if isinstance(outcome, Problems):
        first, *others = outcome.problems
        more = f" (and {len(others)} more: outrider validate {args.config})" if others else ""
        raise UsageError(f"the document is not valid: {first.render(shown_name(args.config))}{more}")
    snapshot = outcome.snapshot
    scene = Scene(snapshot=snapshot, routers=offline_routers(snapshot), origin=outcome.origins.of, source=shown_name(args.config))
    return explain(asked, scene)


def _document(name: str) -> bytes:
    """The document in a file; of a manifest the one in its ConfigMap. Raises UsageError."""
    from sidecar.config.load import KEY
    from sidecar.config.manifest import MAX_MANIFEST_BYTES, find_documents, may_be_manifest

    data = read(name, MAX_MANIFEST_BYTES)
    found = find_documents(data.decode("utf-8", "replace"), KEY) if may_be_manifest(data) else None
    if found is None:
        return data
    if len(found.documents) != 1:
        raise UsageError(f"{shown_name(name)} holds {len(found.documents)} documents under {KEY} (give a file with one)")
    return found.documents[0].data
