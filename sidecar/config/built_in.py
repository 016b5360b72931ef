"""The document of `--app-port`: a plain way in to the application, for a pod that has no document of its own (interface.md section 7)."""

from __future__ import annotations

from typing import Final

BUILT_IN: Final = "built_in"
"""The source of this document. It serves while there is no other; any other takes its place."""

_DOCUMENT: Final = """\
apiVersion: outrider.dev/v1alpha1
kind: SidecarConfig
listeners:
  - {{name: inbound, port: 15001, bind: 0.0.0.0, mode: Reverse}}
upstreams:
  - name: app
    targets: [{{url: "http://127.0.0.1:{port}"}}]
"""


def document(port: int) -> bytes:
    """One Reverse listener, and behind it the application at `port` of the pod's loopback address; every default holds."""
    return _DOCUMENT.format(port=port).encode()
