"""What `helm test` runs in the sidecar's image: a pod that asks for a sidecar is created, without being kept, and has one.

The namespace (argv 1) is labelled for injection and enforces Pod Security `restricted`, so that the way of the request
is the one of any application's pod: API server, injection, Pod Security.
"""

import json
import ssl
import sys
import time
import urllib.error
import urllib.request
from os import environ
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PATIENCE = 60.0
"""Seconds: a new webhook configuration or namespace label takes a moment to reach every API server."""

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "outrider-test-", "annotations": {"outrider.dev/app-port": "8000"}},
    "spec": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "app",
                "image": "example.invalid/never-pulled:1",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    },
}


def created(namespace: str) -> dict[str, Any] | str:
    """The pod as the API server would have stored it, or the text of its refusal."""
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ["KUBERNETES_SERVICE_PORT"]
    request = urllib.request.Request(
        f"https://{'[' + host + ']' if ':' in host else host}:{port}/api/v1/namespaces/{namespace}/pods?dryRun=All",
        json.dumps(POD).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"},
    )
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    try:
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return error.read().decode(errors="replace")


def verdict(pod: dict[str, Any] | str) -> str | None:
    """None when the pod has its sidecar, else why not."""
    if isinstance(pod, str):
        return f"the API server refused the pod: {pod}"
    containers = pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
    if any(one["name"] == "outrider" for one in containers):
        return None
    refused = pod["metadata"].get("annotations", {}).get("outrider.dev/not-injected")
    return f"the pod has no sidecar: {refused or 'nobody injected one (is the injector ready, and can the API server reach it?)'}"


def main() -> None:
    """Exit 1 with one line when there is no sidecar before patience ends."""
    deadline = time.monotonic() + PATIENCE
    while (problem := verdict(created(sys.argv[1]))) and time.monotonic() < deadline:
        time.sleep(1)
    if problem:
        sys.exit(f"outrider: {problem}")
    print("outrider: a pod that asks for a sidecar gets one, and Pod Security `restricted` accepts it")


main()
