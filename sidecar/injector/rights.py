"""What a sidecar reads through the API server, as a Role and a RoleBinding for the ServiceAccount that it shares with its application."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sidecar.injector.manifest import Json


class Reader(NamedTuple):
    """A sidecar that follows a ConfigMap."""

    namespace: str
    account: str
    configmap: str


def rights(readers: Iterable[Reader]) -> Iterator[Json]:
    """A Role and a RoleBinding for each ServiceAccount, in the order in which they come first."""
    found: dict[tuple[str, str], list[str]] = {}
    for reader in readers:
        names = found.setdefault((reader.namespace, reader.account), [])
        if reader.configmap not in names:
            names.append(reader.configmap)
    for (namespace, account), names in found.items():
        metadata = {"name": f"outrider-{account}", "namespace": namespace}
        group = "rbac.authorization.k8s.io"
        yield {
            "apiVersion": f"{group}/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": [
                {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": sorted(names), "verbs": ["get", "list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
                {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
            ],
        }
        yield {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": dict(metadata),
            "roleRef": {"apiGroup": group, "kind": "Role", "name": metadata["name"]},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        }
