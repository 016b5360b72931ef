"""`outrider run`: the sidecar itself."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar import bootstrap
from sidecar.cli.flags import add_flag, add_switch, one_of
from sidecar.config.load import KEY
from sidecar.errors import UsageError
from sidecar.server.sockets import parse_address

if TYPE_CHECKING:
    import argparse

EXAMPLE = """\
example:
  outrider run --config examples/quickstart.yaml
  outrider run --configmap shop/orders-sidecar
  outrider run --app-port 8000

Every flag has a variable: --status-address is OUTRIDER_STATUS_ADDRESS; the flag wins.
SIGTERM drains and ends, SIGINT does so without drainDelay, a second signal ends at once.
exit status: 0 drained, 1 something was cut or failed, 2 usage, 78 no valid document (--require-config)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of interface.md section 1."""
    parser.epilog = EXAMPLE
    add_flag(parser, "--config", metavar="PATH", help="the document: a file that is followed while running")
    _add_kube_flags(parser)
    add_flag(
        parser,
        "--app-port",
        parse=bootstrap.app_port,
        metavar="PORT",
        help="the application's port: a plain way in, while there is no other document",
    )
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
    add_flag(parser, "--workers", parse=bootstrap.workers, default="1", metavar="N", help="processes that serve (default 1)")


def _add_kube_flags(parser: argparse.ArgumentParser) -> None:
    add_flag(
        parser,
        "--configmap",
        parse=bootstrap.configmap,
        metavar="[NS/]NAME",
        help="the document: a ConfigMap, watched; with --config that file serves until the API answers",
    )
    add_flag(
        parser,
        "--configmap-key",
        parse=bootstrap.configmap_key,
        default=KEY,
        metavar="KEY",
        help=f"where the ConfigMap holds it (default {KEY})",
    )
    add_flag(
        parser,
        "--kubeconfig",
        parse=bootstrap.kubeconfig,
        metavar="PATH",
        help="how to reach the API server (default: in-cluster, else the usual kubeconfig)",
    )
    add_flag(parser, "--context", default="", metavar="NAME", help="the kubeconfig's context (default: its current one)")


def run(args: argparse.Namespace) -> int:
    """Serve until told to end. Raises UsageError."""
    if not args.config and args.configmap is None and args.app_port is None:
        raise UsageError("no document: give --config PATH, --configmap [NAMESPACE/]NAME or --app-port PORT (or OUTRIDER_CONFIG and so on)")
    if args.configmap is not None:
        bootstrap.need_kubernetes("--configmap")
    gc.disable()  # imports leave no garbage, and looking for it takes a twentieth of a start
    from sidecar.app import NO_CONFIG, serve

    gc.enable()
    config = Path(args.config) if args.config else None
    code = serve(
        bootstrap.Bootstrap(
            config=config,
            configmap=args.configmap,
            configmap_key=args.configmap_key,
            app_port=args.app_port,
            kube=bootstrap.KubeSettings(kubeconfig=args.kubeconfig, context=args.context),
            identity=bootstrap.identity(os.environ),
            status_address=args.status_address,
            admin_address=args.admin_address,
            state_dir=bootstrap.state_dir(args.state_dir, config, configmap=_told_apart(args)),
            log_level=args.log_level,
            log_format=args.log_format,
            workers=args.workers,
            require_config=args.require_config,
        )
    )
    if code == NO_CONFIG:
        where = " or ".join([*([args.config] if args.config else []), *([_shown(args)] if args.configmap else [])])
        print(f"outrider: no valid document at {where} (--require-config)", file=sys.stderr)
    return code


def _shown(args: argparse.Namespace) -> str:
    return "ConfigMap " + "/".join(part for part in args.configmap if part)


def _told_apart(args: argparse.Namespace) -> str:
    """See `bootstrap.state_dir`."""
    if args.configmap is None:
        return ""
    name = "/".join(part for part in args.configmap if part)
    return f"{name} {args.configmap_key} {args.kubeconfig or ''} {args.context}"
