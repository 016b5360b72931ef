"""The way of a document, from bytes to a snapshot or to problems: parse, validate, run its tests, compile (product.md 3.6).

Pure and synchronous. `validate` and `explain` of the command line call it; the running sidecar does for small
documents and leaves larger ones to `child.py`.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, Final, NamedTuple

from sidecar.config.compile import Origins, compile_document
from sidecar.config.node import Node
from sidecar.config.origins import lines_of, lines_of_plain
from sidecar.config.parse import MAX_BYTES, decode, parse_json, read_yaml
from sidecar.config.problem import Problem, capped
from sidecar.config.shape import convert
from sidecar.config.validate import is_valid, locate, validate
from sidecar.model.document import Document
from sidecar.model.snapshot import Snapshot
from sidecar.policy.router import shadowed

KEY: Final = "sidecar.yaml"
LINES_BYTES: Final = 16 * 1024
"""Larger JSON documents are explained without line numbers: finding them would cost as much as YAML does."""


class Loaded(NamedTuple):
    """A valid document, compiled."""

    document: Document
    snapshot: Snapshot
    origins: Origins


class Problems(NamedTuple):
    """Why a document cannot be used; never empty, in the order of the document."""

    problems: list[Problem]


class CheckResult(NamedTuple):
    """What `outrider validate` reports; valid when `problems` is empty. `documents`: how many were looked at."""

    problems: list[Problem]
    warnings: list[str]
    documents: int


def digest(data: bytes) -> str:
    """The hash by which documents are told apart: 16 hexadecimal digits of SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


def load(data: bytes, *, revision: str = "") -> Loaded | Problems:
    """Judge and compile one document. Never raises for anything that `data` may hold."""
    text, tree = decode(data, MAX_BYTES)
    if text is None:
        return Problems(tree.problems)
    value = parse_json(text)
    if value is not None and len(data) > LINES_BYTES:
        document = convert(value)
        if document is not None and is_valid(document):
            return _finish(document, None, Origins.packing(lines_of_plain(value)), data, revision)
    tree = read_yaml(text)[0]
    root = tree.root
    if root is None and value is not None:  # JSON that YAML cannot read (escaped surrogate pairs): no places
        root, tree.problems = _without_places(value), []
    if root is None or root.value is None:
        empty = Problem("", 1, 1, "the document is empty (begin with apiVersion: outrider.dev/v1alpha1 and kind: SidecarConfig)")
        return Problems(tree.problems or [empty])
    validated = validate(root)
    problems = tree.problems + validated.problems
    if problems:
        return Problems(capped(problems))
    return _finish(validated.document, root, Origins.packing(lines_of(root)), data, revision)


def _finish(document: Document, root: Node | None, origins: Origins, data: bytes, revision: str) -> Loaded | Problems:
    snapshot = compile_document(document, revision=revision, digest=digest(data))
    if not document.tests:
        failed = []
    else:
        from sidecar.config.testcases import failures  # noqa: PLC0415 - few documents have tests

        failed = [locate(root, path, message) for path, message in failures(document.tests, snapshot)]
    if failed:
        return Problems(capped(failed))
    return Loaded(document, replace(snapshot, warnings=tuple(warnings_of(document, snapshot))), origins)


def warnings_of(document: Document, snapshot: Snapshot) -> list[str]:
    """What is legal and probably not meant: rules that no request reaches, upstreams that no route names."""
    used = {backend.name for route in snapshot.routes for backend in route.backends}
    unused = [
        f"upstreams[{index}]: no route sends to {upstream.name} (add a route, or remove it)"
        for index, upstream in enumerate(document.upstreams)
        if upstream.name not in used
    ]
    return [*shadowed(snapshot.routes), *unused]


def _without_places(value: Any) -> Node:
    if isinstance(value, dict):
        return Node(1, 1, {key: _without_places(child) for key, child in value.items()})
    if isinstance(value, list):
        return Node(1, 1, [_without_places(child) for child in value])
    return Node(1, 1, value)


def check_text(data: bytes, *, key: str = KEY) -> CheckResult:
    """Judge a document, or every document under `key` in a manifest of ConfigMaps. Never raises."""
    from sidecar.config.manifest import MAX_MANIFEST_BYTES, find_documents, may_be_manifest  # noqa: PLC0415 - only people have manifests

    if may_be_manifest(data):
        text, tree = decode(data, MAX_MANIFEST_BYTES)
        if text is None:
            return CheckResult(tree.problems, [], 0)
        found = find_documents(text, key)
        if found is not None:
            result = CheckResult(list(found.problems), [], len(found.documents))
            for embedded in found.documents:
                problems, warnings, _ = _check(embedded.data)
                result.problems.extend(map(embedded.outer, problems))
                result.warnings.extend(warnings)
            return result
    return _check(data)


def _check(data: bytes) -> CheckResult:
    outcome = load(data)
    if isinstance(outcome, Problems):
        return CheckResult(outcome.problems, [], 1)
    return CheckResult([], list(outcome.snapshot.warnings), 1)
