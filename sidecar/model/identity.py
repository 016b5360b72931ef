"""Identity: which pod this is, as the downward API tells it by environment variables (all optional: outside of a cluster all are "")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Self

VARIABLES: Final = {
    "pod": "POD_NAME",
    "namespace": "POD_NAMESPACE",
    "uid": "POD_UID",
    "ip": "POD_IP",
    "node": "NODE_NAME",
    "zone": "NODE_ZONE",
}
_MAX_VALUE: Final = 253
"""The longest name that Kubernetes allows."""


class Identity(NamedTuple):
    """The sidecar's own pod; "" where nobody told."""

    pod: str = ""
    namespace: str = ""
    uid: str = ""
    ip: str = ""
    node: str = ""
    zone: str = ""
    """`topology.kubernetes.io/zone` of the node: what the zone hints of EndpointSlices are compared with."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """What the variables say. Values that cannot be names (too long, control characters) count as not set."""
        return cls(**{field: _value(environment.get(variable, "")) for field, variable in VARIABLES.items()})

    def fields(self) -> dict[str, Any]:
        """For log lines: what is known."""
        told = {"pod": self.pod, "namespace": self.namespace, "node": self.node, "zone": self.zone}
        return {name: value for name, value in told.items() if value}


def _value(text: str) -> str:
    text = text.strip()
    return text if text.isprintable() and len(text) <= _MAX_VALUE else ""
