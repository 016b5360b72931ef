"""A valid document on its way between processes, and at rest: msgpack, the routes in slices.

Decoding a slice takes milliseconds, so that the serving process can pause in between; kept this way a document costs
its text's size instead of a hundred thousand objects, and is unpacked when `GET /config` asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import Struct, structs

from sidecar.config.problem import Problem
from sidecar.model.document import Document, RouteDoc

SLICE: Final = 50
_encoder = msgspec.msgpack.Encoder()


@cache
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """Made when it is needed: it knows all of the document, which takes milliseconds, and most sidecars never need it."""
    return msgspec.msgpack.Decoder(kind)


class Packed(Struct, frozen=True):
    """A document: `rest` without its routes, and those in slices."""

    rest: bytes
    routes: list[bytes]

    @classmethod
    def of(cls, document: Document) -> Packed:
        """Pack `document`."""
        starts = range(0, len(document.routes), SLICE)
        slices = [_encoder.encode(document.routes[start : start + SLICE]) for start in starts]
        return cls(_encoder.encode(structs.replace(document, routes=[])), slices)

    def document_without_routes(self) -> Document:
        """Everything but the routes."""
        document: Document = _decoder(Document).decode(self.rest)
        return document

    def iter_routes(self) -> Iterator[RouteDoc]:
        """The routes, unpacked slice by slice."""
        for data in self.routes:
            yield from _decoder(list[RouteDoc]).decode(data)

    def document(self) -> Document:
        """The whole document."""
        return structs.replace(self.document_without_routes(), routes=list(self.iter_routes()))


class Answer(Struct, frozen=True):
    """What the child says about a document: `packed`, or problems. `origins` is `Origins.encode`'s."""

    problems: list[Problem] = []
    packed: Packed | None = None
    origins: bytes = b""
    warnings: list[str] = []

    def encode(self) -> bytes:
        """As msgpack."""
        return _encoder.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Answer:
        """Raises msgspec.DecodeError for anything else."""
        return _answer_decoder.decode(data)


_answer_decoder = msgspec.msgpack.Decoder(Answer)
