"""`outrider schema`: JSON Schema of the document, for editors."""

from __future__ import annotations

import argparse
import json

import msgspec

from sidecar.model.document import Document

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
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Document)}
    print(json.dumps(schema, indent=2))
    return 0
