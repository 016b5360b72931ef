"""A ServiceAccount's token that expires. Ten minutes is the shortest life that Kubernetes gives one; other tests run meanwhile."""

from __future__ import annotations

import base64
import json
import time

import pytest
from conftest import Space
from kit.kube import wait_for
from kit.workloads import document
from test_configuration import edit, events, mark, static_pod

LIFE = 600
"""Seconds."""
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"


def expiry(space: Space) -> float:
    """When the token that the sidecar finds expires, Unix time."""
    token = space.kube.execute(space.name, "app", "outrider", "python", "-c", f"print(open('{TOKEN}').read())")
    payload = token.split(".")[1]
    return float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_sidecar_goes_on_with_a_new_token_after_the_first_has_expired(space: Space) -> None:
    pod = static_pod(space, "app")
    for volume in pod["spec"]["volumes"]:
        for source in volume.get("projected", {}).get("sources", ()):
            if "serviceAccountToken" in source:
                source["serviceAccountToken"]["expirationSeconds"] = LIFE
    space.kube.create("Pod", space.name, pod)
    space.kube.wait_ready(space.name, "app")
    first = expiry(space)
    assert first < time.time() + LIFE + 30

    time.sleep(max(0.0, first + 20 - time.time()))

    assert wait_for(lambda: expiry(space) > first, "the kubelet has put a new token there", timeout=120)
    edit(space, document("bad").replace("port: 15001", "port: 1500100"))  # an Event is a request of its own: no watch of old does it
    wait_for(lambda: any(one["reason"] == "ConfigRejected" for one in events(space)), "an Event with the new token", timeout=60)
    edit(space, document("second"))
    wait_for(lambda: mark(space, "app") == "second", "the next document", timeout=30)
    assert "401 Unauthorized" not in space.kube.logs(space.name, "app", "outrider")
