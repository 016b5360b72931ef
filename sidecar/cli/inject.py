"""`outrider inject`: manifests with the sidecar in them, for GitOps and for a look before anything is installed."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from sidecar import __version__
from sidecar.cli.files import STDIN, read, shown_name
from sidecar.cli.flags import add_flag, add_switch, one_of, variable_of
from sidecar.errors import UsageError

if TYPE_CHECKING:
    from sidecar.injector.manifest import Manifest
    from sidecar.injector.settings import Defaults

EXAMPLE = """\
examples:
  outrider inject -f deployment.yaml | kubectl apply -f -
  kubectl get deployment orders -o yaml | outrider inject --all --rbac -f - > orders.yaml

A workload gets a sidecar when its pod template is labelled outrider.dev/inject: "true", or has the annotation
outrider.dev/configmap or outrider.dev/app-port. Everything else comes out as it went in; comments are lost in YAML
files that change. If any workload cannot have its sidecar, nothing is printed but the reasons.
exit status: 0 done, or nothing to do; 1 a workload cannot have a sidecar; 2 a file cannot be read, wrong flag
"""
IMAGE: Final = f"outrider:{__version__}"
REFUSED: Final = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See docs/reference.md."""
    parser.epilog = EXAMPLE
    parser.add_argument("-f", "--filename", action="append", metavar="FILE", help="manifests, YAML or JSON; - is stdin; may be repeated")
    add_switch(parser, "--all", help='every workload, but those labelled outrider.dev/inject: "false"')
    add_switch(parser, "--rbac", help="add the Role and RoleBinding with which the sidecar follows its ConfigMap")
    add_flag(parser, "--namespace", default="", metavar="NAME", help="with --rbac: where manifests go that do not say")
    add_flag(parser, "--image", default="", metavar="IMAGE", help=f"the sidecar's image (default {IMAGE})")
    native = "enabled, or disabled for Kubernetes before 1.29 (default enabled)"
    add_flag(parser, "--native-sidecar", parse=one_of("enabled", "disabled"), metavar="WORD", help=native)
    add_flag(parser, "--defaults", metavar="FILE", help="what holds where a pod is silent, as the injector has it")


def run(args: argparse.Namespace) -> int:
    """Print the manifests. Raises UsageError."""
    if find_spec("sidecar.injector") is None:
        raise UsageError("this image is the sidecar's and cannot inject (use the image outrider-injector, or pip install outrider)")
    names = args.filename or os.environ.get(variable_of("--filename"), "").splitlines()
    if not names:
        raise UsageError("no manifests: give -f FILE, or -f - for standard input")
    if names.count(STDIN) > 1:
        raise UsageError("standard input can be read only once")
    from sidecar.injector.manifest import write_stream
    from sidecar.injector.rewrite import NoRights, Rewrite

    rewrite = Rewrite(_defaults(args), every=args.all, say=_say)
    manifests = [_open(name) for name in names]
    for name, manifest in zip(names, manifests, strict=True):
        rewrite.inject(shown_name(name), manifest)
    if rewrite.refused:
        return REFUSED
    try:
        rights = rewrite.rights(args.namespace) if args.rbac else []
    except NoRights as error:
        raise UsageError(f"--rbac: {error}") from None
    sys.stdout.write(write_stream(manifests, rights))
    return 0


def _defaults(args: argparse.Namespace) -> Defaults:
    from sidecar.injector.manifest import MAX_BYTES
    from sidecar.injector.settings import Defaults, defaults_document

    try:
        document = defaults_document(read(args.defaults, MAX_BYTES)) if args.defaults else {}
        document = {"image": IMAGE, **document, **({"image": args.image} if args.image else {})}
        if args.native_sidecar:
            document["nativeSidecar"] = args.native_sidecar == "enabled"
        return Defaults.parse(document)
    except ValueError as error:
        raise UsageError(f"{shown_name(args.defaults)}: {error}") from None


def _open(name: str) -> Manifest:
    from sidecar.injector.manifest import MAX_BYTES, Unreadable, read_manifest

    try:
        return read_manifest(read(name, MAX_BYTES))
    except Unreadable as error:
        raise UsageError(f"{shown_name(name)}:{error}") from None


def _say(line: str) -> None:
    """Names in files are anybody's text: none moves the terminal."""
    clean = "".join(char if char.isprintable() else " " for char in line)
    sys.stderr.write(f"outrider: {clean}\n")
