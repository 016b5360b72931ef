"""How long the cluster takes to take a pod out of its Services, by kube-proxy's own account.

`network_programming_duration_seconds` runs from the change of an endpoint to the node's rules. A pod that drains for a
shorter time than that is sent connections when it accepts none any more, whatever its sidecar does.
"""

from __future__ import annotations

import re

from kit.command import CommandFailed
from kit.kube import Kube
from kit.workloads import container, pod, pod_template

READ = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:10249/metrics', timeout=5).read().decode())"
BUCKET = re.compile(r'^kubeproxy_network_programming_duration_seconds_bucket\{.*le="([^"]+)"\} (\S+)$', re.MULTILINE)


class ProgrammingTime:
    """Looks at one node's kube-proxy, from a pod on the node's network."""

    def __init__(self, kube: Kube, namespace: str, node: str, image: str) -> None:
        self._kube, self._namespace = kube, namespace
        look = container("look", image, "", command=["sleep", "100000"])
        kube.apply(pod("look", pod_template([look], app="look", hostNetwork=True, nodeName=node)), namespace=namespace)
        kube.wait_ready(namespace, "look")
        self._before = self._buckets()

    def longer_than(self, seconds: float) -> str:
        """How many of the changes since the beginning took longer, as a sentence."""
        after = self._buckets()
        counts = {bound: value - self._before.get(bound, 0) for bound, value in after.items()}
        if not counts:
            return "unknown (no kube-proxy that tells)"
        total = max(counts.values())
        within = max((value for bound, value in counts.items() if bound <= seconds), default=0)
        return f"{total - within:.0f} of {total:.0f} changes of endpoints took kube-proxy longer than {seconds:g} s"

    def _buckets(self) -> dict[float, float]:
        try:
            text = self._kube.execute(self._namespace, "look", "look", "python3", "-c", READ)
        except CommandFailed:  # another proxy, or one that shows its metrics elsewhere
            return {}
        found: dict[float, float] = {}
        for bound, value in BUCKET.findall(text):
            found[float(bound)] = found.get(float(bound), 0) + float(value)
        return found
