"""JSON Schema of the document (`outrider schema`), for editors: completion, descriptions, and mistakes underlined."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sidecar.model.document import API_VERSION, Document

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_PYTHON_END: Final = "$(?!\\n)"


def json_schema() -> dict[str, Any]:
    """The schema; unknown properties are errors in it too. Rules between fields are the validator's alone."""
    schema = msgspec.json.schema(Document)
    _simplify_patterns(schema["$defs"])
    return {"$schema": DIALECT, "$id": f"https://{API_VERSION}/sidecarconfig.schema.json", "title": "Outrider SidecarConfig", **schema}


def _simplify_patterns(value: Any) -> None:
    """`$` means the very end in ECMA-262; only Python needs to be told."""
    if isinstance(value, dict):
        if isinstance(pattern := value.get("pattern"), str):
            value["pattern"] = pattern.replace(_PYTHON_END, "$")
        for child in value.values():
            _simplify_patterns(child)
    elif isinstance(value, list):
        for child in value:
            _simplify_patterns(child)
