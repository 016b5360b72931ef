"""Documents that many tests begin with."""

from __future__ import annotations

from typing import Any


def one_upstream(port: int, **more: Any) -> dict[str, Any]:
    """A Reverse listener `inbound` on a free port, everything to `127.0.0.1:port`; `more` are top-level fields."""
    return {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "SidecarConfig",
        "listeners": [{"name": "inbound", "port": 0, "bind": "127.0.0.1", "mode": "Reverse"}],
        "upstreams": [{"name": "app", "targets": [{"url": f"http://127.0.0.1:{port}"}]}],
        **more,
    }
