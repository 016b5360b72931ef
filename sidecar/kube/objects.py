"""What is asked of the API server: kinds of objects, and which of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

Json = dict[str, Any]
"""An object as the API server sent it. Never a model class: those cost 40 MiB and drop fields that they do not know."""


class Resource(NamedTuple):
    """A kind of object; `group` "" is the core group. One that is not `namespaced` belongs to the whole cluster."""

    group: str
    version: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str) -> str:
        """The collection's path, without a query; what belongs to the cluster is in no namespace, whichever is named."""
        prefix = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{prefix}/namespaces/{namespace}/{self.plural}" if self.namespaced else f"{prefix}/{self.plural}"


CONFIG_MAPS: Final = Resource("", "v1", "configmaps")
SECRETS: Final = Resource("", "v1", "secrets")
EVENTS: Final = Resource("events.k8s.io", "v1", "events")
ENDPOINT_SLICES: Final = Resource("discovery.k8s.io", "v1", "endpointslices")
MUTATING_WEBHOOKS: Final = Resource("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", namespaced=False)
VALIDATING_WEBHOOKS: Final = Resource("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations", namespaced=False)


class Selection(NamedTuple):
    """The objects of one list and watch: one by its `name` (a field selector, so RBAC can be limited to it), or by `labels`."""

    resource: Resource
    namespace: str
    name: str = ""
    labels: str = ""
    """A label selector as `kubectl -l` takes it."""

    def __str__(self) -> str:
        """For messages: `configmaps shop/orders-sidecar`."""
        which = self.name or (f"({self.labels})" if self.labels else "(all)")
        return f"{self.resource.plural} {self.namespace}/{which}" if self.resource.namespaced else f"{self.resource.plural} {which}"


class ObjectList(NamedTuple):
    """The answer to a list. `resource_version` is opaque: stored and sent back, never compared."""

    resource_version: str
    items: list[Json]


class WatchEvent(NamedTuple):
    """One line of a watch: ADDED, MODIFIED, DELETED or BOOKMARK. ERROR events are raised as ApiError.

    Before all lines there is `OPENED`: the server has answered 200, even when it has nothing to tell for hours.
    """

    type: str
    object: Mapping[str, Any]


OPENED: Final = WatchEvent("OPENED", {})
