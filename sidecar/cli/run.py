"""`outrider run`: the sidecar itself."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sidecar import bootstrap
from sidecar.cli.flags import add_flag, add_switch, one_of
from sidecar.errors import UsageError
from sidecar.server.sockets import parse_address

EXAMPLE = """\
example:
  outrider run --config examples/quickstart.yaml

Every flag has a variable: --status-address is OUTRIDER_STATUS_ADDRESS; the flag wins.
SIGTERM drains and ends, SIGINT does so without drainDelay, a second signal ends at once.
exit status: 0 drained, 1 something was cut or failed, 2 usage, 78 no valid document (--require-config)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of interface.md section 1."""
    parser.epilog = EXAMPLE
    add_flag(parser, "--config", metavar="PATH", help="the document: a file that is followed while running")
    add_flag(
        parser,
        "--status-address",
        parse=parse_address,
        default="0.0.0.0:15021",
        metavar="ADDR",
        help="probes and metrics (default 0.0.0.0:15021)",
    )
    add_flag(
        parser,
        "--admin-address",
        parse=bootstrap.admin_address,
        default="127.0.0.1:15020",
        metavar="ADDR",
        help="HOST:PORT, unix:PATH or off (default 127.0.0.1:15020)",
    )
    add_flag(
        parser,
        "--state-dir",
        parse=bootstrap.checked_state_dir,
        metavar="DIR",
        help=f"keeps the last good document; or off (default {bootstrap.STATE_DIR} if writable)",
    )
    add_flag(
        parser,
        "--log-level",
        parse=one_of(*bootstrap.LOG_LEVELS),
        default="info",
        metavar="LEVEL",
        help="debug, info, warning or error (default info)",
    )
    add_flag(
        parser,
        "--log-format",
        parse=one_of(*bootstrap.LOG_FORMATS),
        default="auto",
        metavar="FORMAT",
        help="auto, json or console (default auto)",
    )
    add_switch(parser, "--require-config", help="exit 78 when the first document is no good, instead of waiting")
    add_flag(parser, "--workers", parse=bootstrap.workers, default="1", metavar="N", help="processes (only 1 in this version)")
    for flag in ("--configmap", "--configmap-key", "--kubeconfig", "--context"):
        add_flag(parser, flag, parse=bootstrap.unsupported, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Serve until told to end. Raises UsageError."""
    if not args.config:
        raise UsageError("no document: give --config PATH (or OUTRIDER_CONFIG)")
    from sidecar.app import NO_CONFIG, serve

    code = serve(
        bootstrap.Bootstrap(
            config=Path(args.config),
            status_address=args.status_address,
            admin_address=args.admin_address,
            state_dir=bootstrap.state_dir(args.state_dir, Path(args.config)),
            log_level=args.log_level,
            log_format=args.log_format,
            require_config=args.require_config,
        )
    )
    if code == NO_CONFIG:
        print(f"outrider: no valid document at {args.config} (--require-config)", file=sys.stderr)
    return code
