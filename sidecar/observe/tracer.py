"""The Tracer seam: what the pipeline asks for while a request is under way. Everything else about spans comes after it."""

from __future__ import annotations

from typing import Protocol

from sidecar.model.exchange import Trace
from sidecar.model.head import RequestHead


class Tracer(Protocol):
    """Of one configuration; there is none while tracing is off. Implemented by observe/tracing/context.py.

    Called for every request, on the event loop: synchronous, cheap, and must not raise.
    """

    def fields(self, *, believed: bool) -> frozenset[bytes]:
        """Lower-case names of the request fields that carry a trace: taken out of the request, and set anew."""
        ...

    def excludes(self, head: RequestHead) -> bool:
        """Whether this request is not traced: its fields travel on as they came."""
        ...

    def begin(self, known: dict[bytes, bytes], *, believed: bool) -> Trace:
        """The trace of a request that has just come. Takes its own fields out of `known` (lower name -> value).

        A believed caller's trace goes on; that of another caller is linked to a new one (product.md 3.8).
        """
        ...
