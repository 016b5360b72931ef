"""`outrider schema`: JSON Schema of the document, for editors."""

from __future__ import annotations

import argparse
import json

from sidecar.config.schema import json_schema

EXAMPLE = """\
example:
  outrider schema > outrider.schema.json

and in the document, for editors with a YAML language server:
  # yaml-language-server: $schema=outrider.schema.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No flags."""
    parser.epilog = EXAMPLE


def run(_args: argparse.Namespace) -> int:
    """Print the schema (draft 2020-12)."""
    print(json.dumps(json_schema(), indent=2))
    return 0
