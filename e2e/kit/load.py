"""Requests that never stop: a pod with pods/load.py, and what it has seen."""

from __future__ import annotations

from typing import Any

from kit.kube import Json, Kube
from kit.workloads import container, pod, pod_template

PORT = 8080


class Load:
    """A load generator in a namespace, without a sidecar of its own."""

    def __init__(self, kube: Kube, namespace: str, *, image: str, service: str, rate: int = 60, name: str = "load", node: str = "") -> None:
        self._kube, self._namespace, self._name = kube, namespace, name
        environment = [{"name": "TARGET", "value": f"{service}.{namespace}:80"}, {"name": "RATE", "value": str(rate)}]
        probe = {"tcpSocket": {"port": PORT}, "periodSeconds": 1}
        client = container("load", image, "load.py", env=environment, readinessProbe=probe)
        where: Json = {"nodeName": node} if node else {}
        template = pod_template([client], app=name, labels={"outrider.dev/inject": "false"}, **where)
        kube.apply(pod(name, template), namespace=namespace)
        kube.wait_ready(namespace, name)

    def report(self) -> Json:
        """What it has seen so far; pods/load.py says how it is made."""
        return self._ask("/report")

    def stop(self) -> Json:
        """End it, and tell all that happened."""
        return self._ask("/stop")

    def _ask(self, path: str) -> Json:
        answer: Any = self._kube.from_pod(self._namespace, self._name, PORT, path, timeout=40).json()
        assert isinstance(answer, dict)
        return answer


def told(report: Json) -> str:
    """What failed, a line each."""
    lines = "".join(f"\n  {one}" for one in report["failures"])
    return f"{report['failed']} of {report['requests']} requests failed:{lines}"


def assert_none_failed(report: Json, *, at_least: int) -> None:
    """Every request had its answer, and there were enough of them to say so."""
    assert report["failed"] == 0, told(report)
    assert report["requests"] >= at_least, f"only {report['requests']} requests in {report['elapsed']} s: the load did not run"
