"""A pod fragment as a tree with holes: constants, settings, and branches that depend on a fact about the pod.

One tree is written once (`podspec.py`) and read by three evaluators with one result: `build` here, the Helm helper that
`helm.py` writes, and the admission policy's CEL that `cel.py` writes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

Tree = Any
"""Nested dicts and lists of str, int, bool, Setting and When."""


class Setting(NamedTuple):
    """A value that is only known per pod: a key of the settings."""

    name: str


class When(NamedTuple):
    """A mapping's value or a list's item that is there only if a fact holds (or, with `holds` false, only if it does not)."""

    fact: str
    then: Tree
    holds: bool = True


class Choice(NamedTuple):
    """One of two values by a fact."""

    fact: str
    then: Tree
    otherwise: Tree


def build(tree: Tree, settings: Mapping[str, str], facts: Collection[str]) -> Any:
    """The tree as plain JSON. KeyError: a setting that is not given, a mistake of ours."""
    if isinstance(tree, Setting):
        return settings[tree.name]
    if isinstance(tree, Choice):
        return build(tree.then if tree.fact in facts else tree.otherwise, settings, facts)
    if isinstance(tree, dict):
        return {key: build(_then(value), settings, facts) for key, value in tree.items() if _there(value, facts)}
    if isinstance(tree, list):
        return [build(_then(item), settings, facts) for item in tree if _there(item, facts)]
    return tree


def _there(node: Tree, facts: Collection[str]) -> bool:
    return not isinstance(node, When) or (node.fact in facts) is node.holds


def _then(node: Tree) -> Tree:
    return node.then if isinstance(node, When) else node
