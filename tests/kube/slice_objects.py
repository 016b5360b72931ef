"""EndpointSlices as the API server stores them, for the tests beside this file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sidecar.kube.objects import Json


def endpoint(*addresses: str, **more: Any) -> Json:
    """One endpoint; `more`: `ready`, `serving`, `terminating`, `zones`, `nodes`, `pod`."""
    conditions = {key: more[key] for key in ("ready", "serving", "terminating") if key in more}
    hints = {field: [{"name": name} for name in more[key]] for field, key in (("forZones", "zones"), ("forNodes", "nodes")) if key in more}
    return {
        "addresses": list(addresses),
        **({"conditions": conditions} if conditions else {}),
        **({"hints": hints} if hints else {}),
        **({"targetRef": {"kind": "Pod", "name": more["pod"], "namespace": "shop", "uid": f"uid-{more['pod']}"}} if "pod" in more else {}),
    }


def endpoint_slice(
    *endpoints: Json | str, name: str = "orders-1", service: str = "orders", ports: Iterable[Json] | None = None, family: str = "IPv4"
) -> Json:
    """A slice of `service`; a text is a ready endpoint; the default port is `http`, 8080."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": family,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}] if ports is None else list(ports),
        "endpoints": [endpoint(one) if isinstance(one, str) else one for one in endpoints],
    }
