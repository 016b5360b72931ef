"""`outrider wait`: for clusters without native sidecars, where the application must not start before its way out."""

from __future__ import annotations

import argparse
import time
from typing import Any, Final

from sidecar.cli.client import AdminClient, AdminError
from sidecar.cli.flags import add_admin_flag, add_flag, admin_address, duration
from sidecar.errors import OutriderError

EXAMPLE = """\
example:
  outrider wait --timeout 30s && exec gunicorn app:app

exit status: 0 ready, 1 not ready in time
"""
INTERVAL: Final = 0.1
"""Seconds between two looks."""
CALL_TIMEOUT: Final = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of interface.md section 1."""
    parser.epilog = EXAMPLE
    add_flag(parser, "--timeout", parse=duration, default="30s", metavar="DURATION", help="how long to wait at most (default 30s)")
    add_admin_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Look until the sidecar is ready. Raises OutriderError with the reason when time is up."""
    client = AdminClient(admin_address(args))
    deadline = time.monotonic() + args.timeout
    while True:
        client.timeout = min(CALL_TIMEOUT, max(deadline - time.monotonic(), INTERVAL))
        why = _not_ready(client)
        if not why:
            return 0
        if time.monotonic() + INTERVAL >= deadline:
            raise OutriderError(f"not ready after {args.timeout:g}s: {why}")
        time.sleep(INTERVAL)


def _not_ready(client: AdminClient) -> str:
    """Why the sidecar is not ready, "" when it is. Raises AdminError for an answer that waiting will not change."""
    try:
        return reasons(client.get("/readiness"))
    except AdminError as error:
        if not error.unreachable:
            raise
        return str(error)


def reasons(readiness: dict[str, Any]) -> str:
    """The checks that fail, as words; "" when the sidecar is ready."""
    if readiness["ready"]:
        return ""
    failing = [f"{check['name']}: {check['detail'] or 'not yet'}" for check in readiness["checks"] if not check["ok"]]
    return "; ".join(failing) or str(readiness["state"])
