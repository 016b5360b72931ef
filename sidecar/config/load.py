"""The way of a document, from bytes to a snapshot or to problems: parse, validate, run its tests, compile (product.md 3.6).

Pure and synchronous. The command line calls it (`validate` by way of `check.py`); the running sidecar does for small
documents and leaves larger ones to `child.py`.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from msgspec.structs import replace

from sidecar.config.compile import Origins, compile_document
from sidecar.config.node import Node, without_places
from sidecar.config.origins import lines_of, lines_of_plain
from sidecar.config.parse import MAX_BYTES, decode, parse_json, read_yaml
from sidecar.config.problem import Problem, capped
from sidecar.config.rules_reach import reach_warnings
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
        root, tree.problems = without_places(value), []
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
    """What is legal and probably not meant: rules that no request reaches, upstreams that no route names, or that anybody could pretend to be."""
    used = {backend.name for route in snapshot.routes for backend in route.backends}
    unused = [
        f"upstreams[{index}]: no route sends to {upstream.name} (add a route, or remove it)"
        for index, upstream in enumerate(document.upstreams)
        if upstream.name not in used
    ]
    unverified = [
        f"upstreams[{index}].tls.verification: {upstream.name} may be anybody, no certificate is verified (remove verification: None)"
        for index, upstream in enumerate(snapshot.upstreams.values())
        if upstream.tls is not None and not upstream.tls.verify
    ]
    return [*unverified, *reach_warnings(document, snapshot), *shadowed(snapshot.routes), *unused]
