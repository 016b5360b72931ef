"""AdmissionReview v1: what the API server asks, and what it is answered. Pure: bytes in, bytes out.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from sidecar.kube.text import one_line

API_VERSION: Final = "admission.k8s.io/v1"
KIND: Final = "AdmissionReview"
MAX_UID: Final = 256
MAX_WARNING: Final = 256
"""Characters; API servers may cut longer ones."""
MAX_WARNINGS: Final = 12
"""API servers drop all that goes beyond 4 KiB."""
MAX_MESSAGE: Final = 8 * 1024
"""Characters of why something is refused."""
PREFIX: Final = "outrider: "

Json = dict[str, Any]


class BadReview(Exception):
    """What came is no AdmissionReview that we understand; the text says why, for whoever set up the webhook."""


class _Resource(Struct):
    group: str = ""
    version: str = ""
    resource: str = ""


class _Request(Struct):
    uid: str
    resource: _Resource
    operation: str = ""
    sub_resource: str = msgspec.field(default="", name="subResource")
    namespace: str = ""
    name: str = ""
    dry_run: bool | None = msgspec.field(default=None, name="dryRun")
    object: Json | None = None
    old_object: Json | None = msgspec.field(default=None, name="oldObject")


class _Review(Struct):
    api_version: str = msgspec.field(name="apiVersion")
    kind: str
    request: _Request | None = None


class Review(NamedTuple):
    """One question."""

    uid: str
    what: str
    """The resource, with its subresource: `pods`, `pods/exec`."""
    operation: str
    namespace: str
    """Of the request: the object itself may not name it yet."""
    name: str
    """"" when it is still to be generated."""
    dry_run: bool
    object: Json
    """Raw JSON; empty when it is deleted."""
    old: Json
    """As it was before an update; empty otherwise."""


_reader: Final = msgspec.json.Decoder(_Review)
_writer: Final = msgspec.json.Encoder()


def parse(body: bytes | bytearray) -> Review:
    """Raises BadReview."""
    try:
        review = _reader.decode(body)
    except msgspec.ValidationError as error:
        raise BadReview(f"not an AdmissionReview: {one_line(str(error))}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadReview("the body is not JSON") from None
    if review.api_version != API_VERSION or review.kind != KIND:
        said = one_line(f"{review.api_version} {review.kind}", 100)
        raise BadReview(f"this is {said}, not {API_VERSION} {KIND} (the webhook needs admissionReviewVersions: [v1])")
    asked = review.request
    if asked is None:
        raise BadReview("the AdmissionReview has no request")
    if not 0 < len(asked.uid) <= MAX_UID:
        raise BadReview("the request's uid is empty, or too long to be one")
    what = asked.resource.resource + (f"/{asked.sub_resource}" if asked.sub_resource else "")
    return Review(
        uid=asked.uid,
        what=f"{asked.resource.group}/{what}" if asked.resource.group else what,
        operation=asked.operation,
        namespace=asked.namespace,
        name=asked.name,
        dry_run=bool(asked.dry_run),
        object=asked.object or {},
        old=asked.old_object or {},
    )


def allow(review: Review, operations: Sequence[Json] = (), warnings: Iterable[str] = ()) -> bytes:
    """Yes, with these changes (RFC 6902) and words for the author."""
    response: Json = {"uid": review.uid, "allowed": True}
    if operations:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(_writer.encode(operations)).decode("ascii")
    return _answer(response, warnings)


def refuse(review: Review, message: str) -> bytes:
    """No; `message` is what the author gets to read, on as many lines as it has."""
    status = {"code": 422, "reason": "Invalid", "message": message[:MAX_MESSAGE]}
    return _answer({"uid": review.uid, "allowed": False, "status": status}, ())


def _answer(response: Json, warnings: Iterable[str]) -> bytes:
    told = [warning(text) for text in warnings][:MAX_WARNINGS]
    if told:
        response["warnings"] = told
    return _writer.encode({"apiVersion": API_VERSION, "kind": KIND, "response": response})


def warning(text: str) -> str:
    """One line, marked as ours, as long as a warning may be."""
    room = MAX_WARNING - len(PREFIX)
    clean = one_line(text, MAX_WARNING)
    return PREFIX + (clean if len(clean) <= room else clean[: room - 3] + "...")
