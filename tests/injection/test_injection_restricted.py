"""Every pod with a sidecar passes Pod Security's strictest level when its own containers do, in a real API server."""

import copy

import pytest
from injection.cases import INJECTED, Case, Json, pod
from injection.golden import golden
from injection.policy_kit import RESTRICTED, create
from support.kube_admin import Admin, Refused

SECURITY = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def restricted(one: Json) -> Json:
    """The pod with an application that asks for nothing; what the pod as a whole says stays, but for root."""
    one = copy.deepcopy(one)
    spec = one["spec"]
    for container in [*(spec.get("initContainers") or ()), *spec["containers"]]:
        if container["name"] != "outrider":
            container["securityContext"] = SECURITY
    if (spec.get("securityContext") or {}).get("runAsUser") == 0:
        del spec["securityContext"]
    return one


@pytest.mark.parametrize("case", INJECTED, ids=lambda case: case.name)
def test_the_golden_pod_is_admitted(cluster: Admin, case: Case):
    made = create(cluster, RESTRICTED, restricted(golden(case, "webhook")))
    assert "outrider" in [one["name"] for kind in ("initContainers", "containers") for one in made["spec"].get(kind, ())]


def test_the_namespace_does_refuse_others(cluster: Admin):
    with pytest.raises(Refused, match="violates PodSecurity"):
        create(cluster, RESTRICTED, pod(None))
