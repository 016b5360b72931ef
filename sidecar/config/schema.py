"""JSON Schema of the document (`outrider schema`), for editors: completion, descriptions, and mistakes underlined."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sidecar.config.shape import document_type, walk_types
from sidecar.config.unsupported import is_later
from sidecar.model.document import API_VERSION, Document

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
LATER: Final = "Not supported in this version."
_PYTHON_END: Final = "$(?!\\n)"


def json_schema() -> dict[str, Any]:
    """The schema; unknown properties are errors in it too. Rules between fields are the validator's alone."""
    schema = msgspec.json.schema(Document)
    definitions = schema["$defs"]
    for kind in walk_types(document_type()):
        properties = definitions[kind.cls.__name__]["properties"]
        for field in kind.fields:
            if is_later(field):
                said = properties[field.encode_name]
                said["description"] = f"{said.get('description', '')} {LATER}".strip()
    _simplify_patterns(definitions)
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
