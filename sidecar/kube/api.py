"""The KubeApi seam: the few verbs that the sidecar needs of a Kubernetes API server, and how they fail."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from sidecar.errors import OutriderError
from sidecar.kube.objects import Json, ObjectList, Resource, Selection, WatchEvent


class KubeError(OutriderError):
    """A request to the API server failed; the text is for people and holds no credential."""


class Unreachable(KubeError):
    """No answer: refused, timed out, reset, TLS not accepted, or a stream that fell silent."""


class BadAnswer(KubeError):
    """An answer that is not what the API promises: not JSON, truncated, oversized, of another shape."""


class ApiError(KubeError):
    """The API server said no, by HTTP status or by an ERROR event."""

    def __init__(self, message: str, *, status: int, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        """The machine-readable reason of the Status object, such as `Expired` or `Forbidden`; "" when it named none."""
        self.retry_after = retry_after
        """Seconds of `Retry-After`."""


class KubeApi(Protocol):
    """Objects are JSON. Every call has a bound on its time; every method raises KubeError and nothing else of the outside."""

    async def list(self, selection: Selection, *, resource_version: str = "") -> ObjectList:
        """All objects of a selection. `resource_version` "0": from the server's cache, "": the newest."""
        ...

    def watch(self, selection: Selection, *, resource_version: str, timeout_seconds: int) -> AsyncGenerator[WatchEvent, None]:
        """`OPENED`, then changes after `resource_version`, until the server ends the stream (a plain end). Close it with `aclosing`."""
        ...

    async def create(self, resource: Resource, namespace: str, body: Json) -> Json:
        """Post an object; the object as it was stored."""
        ...

    async def replace(self, resource: Resource, namespace: str, name: str, body: Json) -> Json:
        """Put an object in the place of the one that is there; the object as it was stored.

        With `metadata.resourceVersion` only if that is still its version: ApiError with the status 409 otherwise.
        """
        ...

    async def patch(self, resource: Resource, namespace: str, name: str, body: Json, *, strategic: bool = False) -> Json:
        """Apply a JSON merge patch (RFC 7396); the object as it was stored. `metadata.resourceVersion`: see `replace`.

        `strategic`: Kubernetes' own kind of merge, which finds the items of a list by their name instead of replacing the list.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...
