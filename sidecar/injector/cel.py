"""The trees of `podspec.py` as CEL, for the MutatingAdmissionPolicy of `charts/outrider`. Generated text, checked to be current.

Settings are the policy's variables of the same name (strings), facts its variables `is_<fact>` (booleans). Values are
untyped maps wrapped in `dyn`: on Kubernetes 1.36 a list of typed objects as a JSONPatch value breaks the API server's
handler, and a CEL map of mixed types is refused.
"""

from __future__ import annotations

import json
from typing import Final

from sidecar.injector.podspec import APPLICATION_ENV, CONTAINER_TREE, VOLUME_TREES
from sidecar.injector.tree import Choice, Setting, Tree, When

_HEADER: Final = "{{- /* Generated from sidecar/injector/podspec.py by `make charts`: change that file, not this one. */ -}}\n"


def templates() -> str:
    """Named templates: `outrider.cel.container` and `.volumes` (one expression each), `.applicationEnv` (JSON)."""
    parts = {
        "container": expression(CONTAINER_TREE),
        "volumes": expression(VOLUME_TREES),
        "applicationEnv": json.dumps([{"name": name, "value": value} for name, value in APPLICATION_ENV.items()]),
    }
    return _HEADER + "".join(f'{{{{- define "outrider.cel.{name}" -}}}}\n{text}\n{{{{- end }}}}\n' for name, text in parts.items())


def expression(tree: Tree, indent: str = "") -> str:
    """A tree as one CEL expression over several lines."""
    deeper = indent + "  "
    if isinstance(tree, dict):
        entries = [f"{deeper}{_entry(key, value, deeper)}" for key, value in tree.items()]
        return "{\n" + ",\n".join(entries) + f"\n{indent}}}"
    if isinstance(tree, list):
        items = [f"{deeper}{_item(value, deeper)}" for value in tree]
        return "[\n" + ",\n".join(items) + f"\n{indent}]"
    return _scalar(tree)


def _entry(key: str, node: Tree, indent: str) -> str:
    name = json.dumps(key)
    if isinstance(node, When):
        return f"?{name}: {_optional(node, indent)}"
    return f"{name}: dyn({expression(node, indent)})"


def _item(node: Tree, indent: str) -> str:
    if isinstance(node, When):
        return f"?({_optional(node, indent)})"
    return f"dyn({expression(node, indent)})"


def _optional(node: When, indent: str) -> str:
    test = f"variables.is_{node.fact}" if node.holds else f"!variables.is_{node.fact}"
    return f"{test} ? optional.of(dyn({expression(node.then, indent)})) : optional.none()"


def _scalar(node: Tree) -> str:
    if isinstance(node, Setting):
        return f"variables.{node.name}"
    if isinstance(node, Choice):
        return f"variables.is_{node.fact} ? {_scalar(node.then)} : {_scalar(node.otherwise)}"
    return json.dumps(node)
