"""`outrider drain`: the preStop hook. Imports little, because it runs while the pod's grace period does."""

from __future__ import annotations

import argparse
import time
from typing import Final

from sidecar.cli.client import AdminClient, AdminError
from sidecar.cli.flags import add_admin_flag, add_flag, admin_address, duration
from sidecar.errors import OutriderError

EXAMPLE = """\
example (in the container's lifecycle.preStop):
  exec: {command: [outrider, drain, --timeout, 25s]}

The inbound listeners stop accepting after drainDelay; the way out stays open until SIGTERM.
exit status: 0 drained, 1 something was still in flight, or no sidecar answered
"""
INTERVAL: Final = 0.1
"""Seconds between two looks."""
CALL_TIMEOUT: Final = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of interface.md section 1."""
    parser.epilog = EXAMPLE
    add_flag(parser, "--timeout", parse=duration, default="25s", metavar="DURATION", help="how long to wait for it (default 25s)")
    add_admin_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Begin the drain and wait for its end. Raises OutriderError when time is up, AdminError when nobody answers."""
    client = AdminClient(admin_address(args))
    deadline = time.monotonic() + args.timeout
    asked = False
    while True:
        left = max(deadline - time.monotonic(), INTERVAL)
        client.timeout = min(CALL_TIMEOUT, left) if asked else left  # nothing drains before the first call has arrived
        try:
            status = client.post("/drain")  # asking again changes nothing; the answer says how far it is
        except AdminError as error:
            if asked and error.unreachable:
                return 0  # it has drained and gone
            raise
        asked = True
        if status["drained"]:
            return 0
        if time.monotonic() + INTERVAL >= deadline:
            raise OutriderError(f"not drained after {args.timeout:g}s: {status['inFlight']} in flight")
        time.sleep(INTERVAL)
