"""What comes back from an API server: objects, lists, lines of a watch, and refusals. Pure: bytes in, values or KubeError out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from sidecar.kube.api import ApiError, BadAnswer, KubeError
from sidecar.kube.objects import Json, ObjectList, WatchEvent
from sidecar.kube.text import one_line

MAX_LINE: Final = 10 * 1024 * 1024
"""Bytes of one watch event. etcd stores at most 1.5 MiB; JSON makes up to six bytes of one (\\u003c for <)."""
MAX_LIST: Final = 32 * 1024 * 1024
"""Bytes of a list: 80,000 endpoints, and parsed about what a sidecar's memory limit allows."""
MAX_REFUSAL: Final = 64 * 1024
"""Bytes that are read of an error's body."""


def decode(text: bytes | bytearray) -> Json:
    """A JSON object. Raises BadAnswer."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise BadAnswer("the answer is not JSON, or not all of it") from None
    if not isinstance(value, dict):
        raise BadAnswer("the answer is not a JSON object")
    return value


def object_list(answer: Json) -> ObjectList:
    """The list in an answer. Raises BadAnswer."""
    metadata, items = answer.get("metadata"), answer.get("items") or []
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    if not isinstance(version, str) or not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise BadAnswer("the answer is not a list of objects")
    return ObjectList(version, items)


class Lines:
    """Cuts a stream of bytes into the lines of a watch."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> Iterator[WatchEvent]:
        """The events that are complete with `chunk`. Raises BadAnswer, and ApiError for an ERROR event."""
        begun = len(self._rest)
        self._rest += chunk
        start = 0
        while (end := self._rest.find(b"\n", max(start, begun))) >= 0:
            line = bytes(self._rest[start:end])
            start = end + 1
            if line.strip():
                yield event(line)
        del self._rest[:start]
        if len(self._rest) > MAX_LINE:
            raise BadAnswer(f"a watch event is larger than {MAX_LINE} bytes")

    def end(self) -> None:
        """The stream is over. Raises BadAnswer in the middle of a line."""
        if self._rest.strip():
            raise BadAnswer("the watch ended in the middle of an event")


def event(line: bytes) -> WatchEvent:
    """One line of a watch. Raises BadAnswer, and ApiError for an ERROR event."""
    if len(line) > MAX_LINE:
        raise BadAnswer(f"a watch event is larger than {MAX_LINE} bytes")
    said = decode(line)
    kind, body = said.get("type"), said.get("object")
    if isinstance(body, dict):
        if kind == "ERROR":
            code = body.get("code")
            raise refusal(code if isinstance(code, int) else 500, body)
        if isinstance(kind, str):
            return WatchEvent(kind, body)
    raise BadAnswer("a line of the watch is not an event")


def refusal(code: int, body: Json | None, retry_after: float | None = None) -> ApiError:
    """An error of the API server, from its Status object or from whatever came instead of one (None)."""
    body = body or {}
    reason, message, details = body.get("reason"), body.get("message"), body.get("details")
    if retry_after is None and isinstance(details, dict):
        retry_after = _seconds(details.get("retryAfterSeconds"))
    reason = one_line(reason, 64) if isinstance(reason, str) else ""
    said = one_line(message) if isinstance(message, str) else ""
    text = f"{code} {reason}".strip() + (f": {said}" if said else "")
    return ApiError(f"the API server says {text}", status=code, reason=reason, retry_after=retry_after)


def refused(code: int, text: bytes, retry_after: str | None) -> KubeError:
    """An answer whose status is not 2xx."""
    if code < 400:
        return BadAnswer(f"the answer has the status {code}; is this the address of an API server?")
    try:
        body = decode(text)
    except BadAnswer:
        body = {"message": one_line(text, 200)}
    return refusal(code, body, wait_of(retry_after))


def wait_of(header: str | None) -> float | None:
    """The seconds of a `Retry-After` header; None without one. API servers send no dates."""
    return float(header.strip()[:9]) if header is not None and header.strip().isdecimal() else None


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None
