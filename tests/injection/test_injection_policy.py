"""charts/outrider's MutatingAdmissionPolicy makes the same pods as the webhook, in a real API server, and refuses in the same words."""

import copy

import pytest
from injection.cases import ALONE, DEFAULTS, INJECTED, REFUSED, Case, Json, pod
from injection.golden import golden, mark, refusal
from injection.policy_kit import create
from support.kube_admin import Admin

TRIED = [case for case in INJECTED if "policy" not in case.without]


def not_asking(one: Json) -> Json:
    """The same pod with the label that keeps the policy away, so that the API server adds nothing but its own defaults."""
    one = copy.deepcopy(one)
    one["metadata"]["labels"]["outrider.dev/inject"] = "false"
    return one


def stored(admin: Admin, case: Case, one: Json) -> Json:
    """What the API server makes of a pod by itself, without what differs between any two pods."""
    return comparable(create(admin, case.defaults, not_asking(one)))


def comparable(made: Json) -> Json:
    metadata = made["metadata"]
    labels = {**metadata["labels"], "outrider.dev/inject": ""}
    return {"annotations": metadata.get("annotations", {}), "labels": labels, "spec": made["spec"]}


@pytest.mark.parametrize("case", TRIED, ids=lambda case: case.name)
def test_the_policy_makes_the_golden_pod(cluster: Admin, case: Case):
    made = create(cluster, case.defaults, case.pod)
    assert comparable(made) == stored(cluster, case, golden(case, "policy"))


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_pod_that_cannot_have_one_is_created_with_the_reason(cluster: Admin, case: Case):
    made = create(cluster, case.defaults, case.pod)
    assert made["metadata"]["annotations"].pop("outrider.dev/not-injected") == refusal(case)
    assert comparable(made) == stored(cluster, case, case.pod)


@pytest.mark.parametrize("case", [case for case in ALONE if "policy" not in case.without], ids=lambda case: case.name)
def test_a_pod_that_is_none_of_its_business_is_left_alone(cluster: Admin, case: Case):
    assert comparable(create(cluster, case.defaults, case.pod)) == stored(cluster, case, case.pod)


@pytest.mark.parametrize("by", ["webhook", "policy", "chart", "cli"])
@pytest.mark.parametrize("case", TRIED[:2], ids=lambda case: case.name)
def test_what_any_way_has_put_there_stays(cluster: Admin, case: Case, by: str):
    one = golden(case, by)
    assert comparable(create(cluster, case.defaults, one)) == stored(cluster, case, one)


@pytest.mark.parametrize(("label", "injected"), [(None, True), ("true", True), ("yes", True), ("", True), ("false", False)])
def test_the_pods_word_counts_before_its_namespaces(cluster: Admin, label: str | None, injected: bool):
    one = pod({"app-port": "8000"})
    one["metadata"]["labels"] = {} if label is None else {"outrider.dev/inject": label}
    annotations = create(cluster, "plain", one)["metadata"]["annotations"]
    assert annotations.get("outrider.dev/injected") == (mark("policy") if injected else None)


def test_each_installation_has_its_own_defaults(cluster: Admin):
    made = [create(cluster, name, pod({"configmap": "c", "native-sidecar": "enabled"})) for name in DEFAULTS]
    assert [one["spec"]["initContainers"][0]["image"] for one in made] == [defaults.image for defaults in DEFAULTS.values()]
