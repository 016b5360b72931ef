"""Everything that a cluster holds, to see what came and what stayed."""

from __future__ import annotations

from collections.abc import Callable

from kit.kube import Json, Kube

ALWAYS_MOVING = frozenset(
    {"events", "leases", "endpointslices", "endpoints", "pods", "controllerrevisions", "nodes", "ipaddresses", "componentstatuses"}
)
"""Written by the cluster itself all the time, or gone with their owners."""


def inventory(kube: Kube, keep: Callable[[Json], bool]) -> set[str]:
    """`group/version/resource/namespace/name` of every object of every kind that may be listed, of those that `keep` wants."""
    found = set()
    for prefix, version in _versions(kube):
        for resource in kube.call("GET", prefix)["resources"]:
            name = resource["name"]
            if "/" in name or "list" not in resource["verbs"] or name in ALWAYS_MOVING:
                continue
            answer = kube.request("GET", f"{prefix}/{name}")
            if answer.status != 200:
                continue
            for one in answer.json()["items"]:
                if keep(one):
                    metadata = one["metadata"]
                    found.add("/".join((version, name, metadata.get("namespace", "-"), metadata["name"])))
    return found


def _versions(kube: Kube) -> list[tuple[str, str]]:
    """The path and name of each group's preferred version."""
    groups = kube.call("GET", "/apis")["groups"]
    return [
        ("/api/v1", "v1"),
        *((f"/apis/{one['preferredVersion']['groupVersion']}", one["preferredVersion"]["groupVersion"]) for one in groups),
    ]
