"""`outrider injector`: the admission webhook of a cluster."""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from sidecar import bootstrap
from sidecar.cli.flags import add_flag, duration, one_of
from sidecar.errors import UsageError
from sidecar.server.sockets import parse_address

EXAMPLE = """\
example:
  outrider injector --namespace outrider --defaults /etc/outrider/defaults.yaml

Usually the chart runs it. Every flag has a variable: --secret-name is OUTRIDER_SECRET_NAME; the flag wins.
"""
NEEDS: Final = ("kubernetes_asyncio", "cryptography")
SELF: Final = "self"
FILES: Final = "files"
NAME: Final = "outrider-injector"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See docs/reference.md."""
    parser.epilog = EXAMPLE
    add_flag(parser, "--defaults", metavar="FILE", help="what holds where a pod is silent: YAML or JSON, followed while running (required)")
    _add_address(parser, "--listen-address", "0.0.0.0:8443", "the webhooks, TLS")
    _add_address(parser, "--status-address", "0.0.0.0:15021", "probes and metrics")
    add_flag(parser, "--namespace", default="", metavar="NAME", help="the injector's own (default: the pod's)")
    add_flag(parser, "--service-name", default=NAME, metavar="NAME", help=f"the Service of the webhooks (default {NAME})")
    add_flag(parser, "--webhook-name", default=NAME, metavar="NAME", help=f"both webhook configurations (default {NAME})")
    add_flag(
        parser,
        "--certificates",
        parse=one_of(SELF, FILES),
        default=SELF,
        metavar="WAY",
        help="self: made and rotated here; files: from --certificate-dir (default self)",
    )
    add_flag(parser, "--secret-name", default=f"{NAME}-ca", metavar="NAME", help=f"keeps the authority (default {NAME}-ca)")
    add_flag(parser, "--certificate-dir", metavar="DIR", help="tls.crt and tls.key, followed while running")
    add_flag(parser, "--drain-delay", parse=duration, default="5s", metavar="DURATION", help="after SIGTERM, still serving (default 5s)")
    add_flag(parser, "--kubeconfig", parse=bootstrap.kubeconfig, metavar="PATH", help="how to reach the API server")
    add_flag(parser, "--context", default="", metavar="NAME", help="the kubeconfig's context (default: its current one)")
    add_flag(
        parser, "--log-level", parse=one_of(*bootstrap.LOG_LEVELS), default="info", metavar="LEVEL", help="debug, info, warning, error"
    )
    add_flag(parser, "--log-format", parse=one_of(*bootstrap.LOG_FORMATS), default="auto", metavar="FORMAT", help="auto, json or console")


def _add_address(parser: argparse.ArgumentParser, name: str, default: str, what: str) -> None:
    add_flag(parser, name, parse=parse_address, default=default, metavar="ADDR", help=f"{what} (default {default})")


def run(args: argparse.Namespace) -> int:
    """Serve until told to end. Raises UsageError."""
    if not args.defaults:
        raise UsageError("no defaults: give --defaults FILE (or OUTRIDER_DEFAULTS); at least `image: NAME` must be in it")
    identity = bootstrap.identity(os.environ)
    namespace = args.namespace or identity.namespace
    if not namespace:
        raise UsageError("which namespace is this? give --namespace NAME (or OUTRIDER_NAMESPACE, or POD_NAMESPACE)")
    if args.certificates == FILES and not args.certificate_dir:
        raise UsageError("--certificates files needs --certificate-dir DIR (or OUTRIDER_CERTIFICATE_DIR)")
    if args.certificates == SELF and args.certificate_dir:
        raise UsageError("--certificate-dir is for --certificates files")
    _need_packages()
    from sidecar.injector.server import Options, serve

    return serve(
        Options(
            listen_address=args.listen_address,
            status_address=args.status_address,
            defaults=Path(args.defaults),
            namespace=namespace,
            service_name=args.service_name,
            secret_name=args.secret_name,
            webhook_name=args.webhook_name,
            certificate_dir=Path(args.certificate_dir) if args.certificates == FILES else None,
            drain_delay=args.drain_delay,
            kubeconfig=args.kubeconfig,
            context=args.context,
            log_level=args.log_level,
            log_format=args.log_format,
            identity=identity,
        )
    )


def _need_packages() -> None:
    if find_spec("sidecar.injector") is None:
        raise UsageError("this image is the sidecar's and has no injector (use the image outrider-injector)")
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        raise UsageError(f"the injector needs {' and '.join(missing)}, which is not installed (pip install 'outrider[injector]')")
