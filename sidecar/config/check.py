"""Judging files for `outrider validate`: documents, manifests of ConfigMaps, and files that may be neither."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sidecar.config.load import KEY, Problems, load
from sidecar.config.manifest import MAX_MANIFEST_BYTES, Found, find_documents, may_be_manifest
from sidecar.config.node import Tree
from sidecar.config.parse import decode, read_yaml
from sidecar.config.problem import Problem

_KIND: Final = re.compile(rb"""\bkind\\?["']?\s*:\s*\\?["']?SidecarConfig\b|outrider\.dev/config\b""")


class CheckResult(NamedTuple):
    """What `outrider validate` reports; valid when `problems` is empty. `documents`: how many were looked at."""

    problems: list[Problem]
    warnings: list[str]
    documents: int


def check_text(data: bytes, *, key: str = KEY) -> CheckResult:
    """Judge a document, or every document under `key` in a manifest of ConfigMaps. Never raises."""
    if may_be_manifest(data):
        text, tree = decode(data, MAX_MANIFEST_BYTES)
        if text is None:
            return CheckResult(tree.problems, [], 0)
        found = find_documents(text, key)
        if found is not None:
            return _check_manifest(found)
    return _check(data)


def check_if_ours(data: bytes, *, key: str = KEY) -> CheckResult | None:
    """The same for any file of a repository: None when it holds nothing of ours, however broken it may be otherwise."""
    if not any(word in data for word in (b"SidecarConfig", b"outrider.dev/", key.encode("utf-8", "surrogateescape"))):
        return None
    text, tree = decode(data, MAX_MANIFEST_BYTES)
    if text is None:
        return CheckResult(tree.problems, [], 0) if _speaks_of_us(data) else None
    if may_be_manifest(data) and (found := find_documents(text, key)) is not None:
        return _check_manifest(found) if found.ours or (found.broken and _speaks_of_us(data)) else None
    trees = read_yaml(text, manifest=True)
    broken = any(tree.root is None and tree.problems for tree in trees)
    return _check(data) if any(map(_is_ours, trees)) or (broken and _speaks_of_us(data)) else None


def _speaks_of_us(data: bytes) -> bool:
    """Whether something that cannot be read is probably meant for a sidecar."""
    return _KIND.search(data) is not None


def _is_ours(tree: Tree) -> bool:
    if tree.root is None or not isinstance(tree.root.value, dict):
        return False
    kind, version = (tree.root.value.get(name) for name in ("kind", "apiVersion"))
    return (kind is not None and kind.value == "SidecarConfig") or (version is not None and str(version.value).startswith("outrider.dev/"))


def _check_manifest(found: Found) -> CheckResult:
    result = CheckResult(list(found.problems), [], len(found.documents))
    for embedded in found.documents:
        problems, warnings, _ = _check(embedded.data)
        result.problems.extend(map(embedded.outer, problems))
        result.warnings.extend(f"{embedded.name}: {warning}" if len(found.documents) > 1 else warning for warning in warnings)
    return result


def _check(data: bytes) -> CheckResult:
    outcome = load(data)
    if isinstance(outcome, Problems):
        return CheckResult(outcome.problems, [], 1)
    return CheckResult([], list(outcome.snapshot.warnings), 1)
