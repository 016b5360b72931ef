"""What a ConfigMap's review is answered: a bad document is refused at `kubectl apply`, with its line and field.

Only documents are judged, and only when they change: a ConfigMap that was bad before may still be labelled, annotated or
deleted. Whatever goes wrong on our side lets the ConfigMap pass; the sidecar judges again and keeps its last good document.
"""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sidecar.config.load import Problems, load
from sidecar.config.loader import INLINE_BYTES, ChildFailed, ask_child
from sidecar.config.manifest import LABEL
from sidecar.config.parse import MAX_BYTES
from sidecar.config.problem import Problem
from sidecar.injector.review import Json, Review, allow, refuse
from sidecar.injector.settings import PREFIX
from sidecar.injector.tally import Validation

KEY_ANNOTATION: Final = PREFIX + "configmap-key"
"""On a ConfigMap: the key that holds its document, where it is not the installation's usual one."""
SHOWN: Final = 3
"""Problems that are told; the others are counted."""
CHILDREN: Final = 2
"""Large documents that are judged at the same time: each takes a process of up to 100 MB."""
_KEYS_SHOWN: Final = 5


class Document(NamedTuple):
    """A document to be judged, and the key that it is under."""

    key: str
    data: bytes


class Validator:
    """Judges reviews of ConfigMaps."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(CHILDREN)

    async def answer(self, review: Review, usual_key: str, seconds: float) -> tuple[bytes, Validation]:
        """The answer and what it is counted as, after no more than `seconds`."""
        found = find(review, usual_key)
        if found is None:
            return allow(review), Validation.NOT_OURS
        if isinstance(found, str):
            return refuse(review, found), Validation.INVALID
        try:
            async with asyncio.timeout(seconds):
                problems, warnings = await self._judge(found.data, seconds)
        except (TimeoutError, ChildFailed) as error:
            why = str(error) or "there was no time for it"
            return allow(review, (), [f"{found.key} has not been checked: {why}"]), Validation.UNKNOWN
        if problems:
            return refuse(review, told(found.key, problems)), Validation.INVALID
        return allow(review, (), [f"{found.key}: {warning}" for warning in warnings]), Validation.VALID

    async def _judge(self, data: bytes, seconds: float) -> tuple[Sequence[Problem], Sequence[str]]:
        """Problems and warnings. Large documents go to a child: nothing that they do, or cost, is ours."""
        if len(data) <= INLINE_BYTES or len(data) > MAX_BYTES:
            outcome = load(data)
            return (outcome.problems, ()) if isinstance(outcome, Problems) else ((), outcome.snapshot.warnings)
        async with self._turn:
            answer = await ask_child(data, seconds=seconds)
        return answer.problems, answer.warnings


def find(review: Review, usual_key: str) -> Document | str | None:
    """The document to judge; a text: what is wrong with where it should be; None: there is nothing to judge."""
    configmap = review.object
    metadata = _mapping(configmap.get("metadata"))
    if review.what != "configmaps" or review.operation not in ("CREATE", "UPDATE"):
        return None
    if _mapping(metadata.get("labels")).get(LABEL) != "true" or metadata.get("deletionTimestamp"):
        return None
    named = _mapping(metadata.get("annotations")).get(KEY_ANNOTATION)
    key = named if isinstance(named, str) and named else usual_key
    found = _document(configmap, key)
    if review.operation == "UPDATE" and found == _document(review.old, key):
        return None
    return found


def _document(configmap: Json, key: str) -> Document | str:
    data, binary = _mapping(configmap.get("data")), _mapping(configmap.get("binaryData"))
    if isinstance(text := data.get(key), str):
        return Document(key, text.encode("utf-8", "surrogatepass"))
    if isinstance(encoded := binary.get(key), str):
        try:
            return Document(key, b64decode(encoded, validate=True))
        except (binascii.Error, ValueError):
            return f"binaryData[{key}] is not Base64"
    names = sorted(map(str, [*data, *binary]))
    there = f"has {', '.join(names[:_KEYS_SHOWN])}{' and others' if len(names) > _KEYS_SHOWN else ''}" if names else "is empty"
    return (
        f"the label {LABEL} says that this ConfigMap has a document, but it has no key {key} (it {there}): "
        f"write the document under {key}, or name its key in the annotation {KEY_ANNOTATION}"
    )


def told(key: str, problems: Sequence[Problem]) -> str:
    """The first problems, a line each, with their places in the document, and how many more there are."""
    lines = [
        f"{key}: line {problem.line}, column {problem.column}: {f'{problem.path}: ' if problem.path else ''}{problem.message}"
        for problem in problems[:SHOWN]
    ]
    more = len(problems) - SHOWN
    return "\n".join(lines + ([f"and {more} more problem{'s' if more > 1 else ''}"] if more > 0 else []))


def _mapping(value: Any) -> Json:
    return value if isinstance(value, dict) else {}
