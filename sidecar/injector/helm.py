"""The trees of `podspec.py` as a Helm named template; `charts/outrider-lib` includes it. Generated text, checked to be current.

The template's context is a dict of `settings` (a dict of strings) and `facts` (a list of strings).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from sidecar.injector.podspec import APPLICATION_ENV, CONTAINER_TREE, VOLUME_TREES
from sidecar.injector.tree import Choice, Setting, Tree, When

_HEADER: Final = "{{- /* Generated from sidecar/injector/podspec.py by `make charts`: change that file, not this one. */ -}}\n"


def templates() -> str:
    """`outrider-lib.container`, `outrider-lib.volumes` and `outrider-lib.applicationEnv`, each rendering YAML."""
    parts = (
        ("container", CONTAINER_TREE),
        ("volumes", VOLUME_TREES),
        ("applicationEnv", [{"name": name, "value": value} for name, value in APPLICATION_ENV.items()]),
    )
    return _HEADER + "\n".join(_define(name, tree) for name, tree in parts)


def _define(name: str, tree: Tree) -> str:
    body = "\n".join(_lines(tree, ""))
    return f'{{{{- define "outrider-lib.{name}" -}}}}\n{body}\n{{{{- end }}}}\n'


def _lines(tree: Tree, indent: str) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _guarded(value, partial(_entry, indent, key))
    else:
        for item in tree:
            yield from _guarded(item, partial(_item, indent))


def _guarded(node: Tree, lines: Callable[[Tree], Iterator[str]]) -> Iterator[str]:
    if isinstance(node, When):
        test = f'has "{node.fact}" $.facts'
        yield f"{{{{- if {test} }}}}" if node.holds else f"{{{{- if not ({test}) }}}}"
        yield from lines(node.then)
        yield "{{- end }}"
    else:
        yield from lines(node)


def _entry(indent: str, key: str, node: Tree) -> Iterator[str]:
    if isinstance(node, dict | list):
        yield f"{indent}{key}:"
        yield from _lines(node, indent + "  ")
    else:
        yield f"{indent}{key}: {_scalar(node)}"


def _item(indent: str, node: Tree) -> Iterator[str]:
    if not isinstance(node, dict | list):
        yield f"{indent}- {_scalar(node)}"
        return
    lines = list(_lines(node, indent + "  "))
    assert not lines[0].lstrip().startswith("{{"), "an item's first key must be unconditional, or there is nothing to hang its dash on"
    yield f"{indent}- {lines[0].lstrip()}"
    yield from lines[1:]


def _scalar(node: Tree) -> str:
    if isinstance(node, Setting):
        return f"{{{{ $.settings.{node.name} | quote }}}}"
    if isinstance(node, Choice):
        return f'{{{{- if has "{node.fact}" $.facts }}}} {_scalar(node.then)} {{{{- else }}}} {_scalar(node.otherwise)} {{{{- end }}}}'
    return json.dumps(node)
