"""sidecar/injector/patch.py, which the webhook and `outrider inject` call: the golden pods, operations, and what happens the second time."""

import copy
import json

import jsonpatch
import pytest
from injection.cases import ALONE, DEFAULTS, INJECTED, REFUSED, Case, pod
from injection.golden import FOLDER, VERSION, golden, refusal

from sidecar.injector.patch import Result, inject, wanted
from sidecar.injector.settings import Defaults

PLAIN = DEFAULTS["plain"]


def injected(pod: dict, defaults: Defaults = PLAIN, **options) -> Result:
    """As the webhook does it; the pod that is given must stay as it was, and the operations must lead to the new one."""
    before = json.dumps(pod)
    result = inject(pod, defaults, by="webhook", version=VERSION, **options)
    assert json.dumps(pod) == before
    assert jsonpatch.JsonPatch(copy.deepcopy(result.operations)).apply(pod) == result.pod
    return result


@pytest.mark.parametrize("case", INJECTED, ids=lambda case: case.name)
def test_the_pod_becomes_the_golden_one(case: Case):
    result = injected(case.pod, DEFAULTS[case.defaults])
    assert result.injected
    assert result.pod == golden(case, "webhook")


@pytest.mark.parametrize("case", INJECTED, ids=lambda case: case.name)
@pytest.mark.parametrize("live", [True, False], ids=["live", "manifest"])
def test_a_second_time_there_is_nothing_to_do(case: Case, live: bool):
    once = injected(case.pod, DEFAULTS[case.defaults])
    again = injected(once.pod, DEFAULTS[case.defaults], live=live)
    assert again.injected
    assert again.operations == []


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_pod_that_cannot_have_one_gets_the_reason_and_nothing_else(case: Case):
    result = injected(case.pod)
    assert not result.injected
    assert result.reason == refusal(case)
    assert result.pod["metadata"]["annotations"].pop("outrider.dev/not-injected") == refusal(case)
    before = copy.deepcopy(case.pod)
    before["metadata"].setdefault("annotations", {})
    assert result.pod == before


@pytest.mark.parametrize("case", ALONE, ids=lambda case: case.name)
def test_a_pod_that_is_none_of_its_business_is_left_alone(case: Case):
    result = injected(case.pod)
    assert not result.injected
    assert result.operations == []
    assert result.reason


def test_there_is_one_golden_file_for_each_case_and_no_other():
    assert {path.stem for path in FOLDER.glob("*.json")} == {case.name for case in INJECTED} | {"refusals"}


@pytest.mark.parametrize("case", INJECTED, ids=lambda case: case.name)
@pytest.mark.parametrize("by", ["policy", "chart", "cli"])
def test_what_another_way_has_put_there_stays(case: Case, by: str):
    result = injected(golden(case, by))
    assert not result.injected
    assert result.operations == []
    assert result.reason == f"the sidecar is there already, put there by {by}"


@pytest.mark.parametrize("mark", ["", "yes", "[]", "{", "null", "[" * 100_000])
def test_a_mark_that_says_nothing_is_somebodys(mark: str):
    one = golden(INJECTED[0], "webhook")
    one["metadata"]["annotations"]["outrider.dev/injected"] = mark
    result = injected(one)
    assert result.operations == []
    assert "put there by somebody" in result.reason


# -- the second time, with other settings


def changed(case_name: str, annotations: dict, defaults: Defaults = PLAIN, **options) -> dict:
    """A golden pod, injected again after its annotations have changed (None: taken away)."""
    one = golden(next(case for case in INJECTED if case.name == case_name), "webhook")
    for name, value in annotations.items():
        one["metadata"]["annotations"].pop(f"outrider.dev/{name}", None)
        if value is not None:
            one["metadata"]["annotations"][f"outrider.dev/{name}"] = value
    return injected(one, defaults, **options).pod


@pytest.mark.parametrize("live", [True, False])
def test_other_settings_change_the_container_in_its_place(live: bool):
    after = changed("in-company", {"log-level": "debug"}, live=live)
    assert [one["name"] for one in after["spec"]["initContainers"]] == ["outrider", "migrate", "logs"]
    assert {"name": "OUTRIDER_LOG_LEVEL", "value": "debug"} in after["spec"]["initContainers"][0]["env"]


@pytest.mark.parametrize("live", [True, False])
def test_a_sidecar_that_is_not_native_any_more_is_there_once(live: bool):
    after = changed("configmap", {"native-sidecar": "disabled"}, live=live)
    assert after["spec"]["initContainers"] == []
    assert [one["name"] for one in after["spec"]["containers"]] == ["outrider", "app"]
    assert "restartPolicy" not in after["spec"]["containers"][0]


@pytest.mark.parametrize("live", [True, False])
def test_a_sidecar_that_becomes_native_is_there_once(live: bool):
    after = changed("not-native", {"native-sidecar": None}, live=live)
    assert [one["name"] for one in after["spec"]["initContainers"]] == ["outrider", "migrate"]
    assert [one["name"] for one in after["spec"]["containers"]] == ["app"]


def test_a_configmap_that_is_not_named_any_more_is_not_mounted():
    after = changed("both", {"configmap": None})
    assert [one["name"] for one in after["spec"]["volumes"]] == ["outrider-state", "outrider-kube-api-access"]
    assert after["spec"]["volumes"][1] == golden(INJECTED[1], "webhook")["spec"]["volumes"][1]


def test_another_default_changes_all_that_follows_from_it():
    case = INJECTED[0]
    after = inject(golden(case, "cli"), DEFAULTS["other"], by="cli", version="9", live=False).pod
    fresh = inject(case.pod, DEFAULTS["other"], by="cli", version="9", live=False).pod
    assert after["spec"] == {**fresh["spec"], "initContainers": []}  # another place: it is not native there
    assert after["metadata"]["annotations"] == fresh["metadata"]["annotations"]


def test_what_others_add_to_a_live_container_of_ours_stays():
    """An API server's defaults, LimitRanger's limit and another webhook's variable: ours must not fight with them."""
    one = golden(INJECTED[0], "webhook")
    ours = one["spec"]["initContainers"][0]
    ours["resources"]["limits"]["cpu"] = "2"
    ours["env"].append({"name": "ADDED", "value": "1"})
    ours["terminationMessagePath"] = "/dev/termination-log"
    ours["startupProbe"]["successThreshold"] = 1
    ours["volumeMounts"].insert(0, {"name": "added", "mountPath": "/added"})
    one["spec"]["volumes"][1]["emptyDir"]["medium"] = ""
    assert injected(one).operations == []
    assert [operation["path"] for operation in injected(one, live=False).operations] == ["/spec/initContainers/0", "/spec/volumes/1"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda ours: ours["env"].pop(),
        lambda ours: ours["securityContext"].pop("runAsNonRoot"),
        lambda ours: ours["securityContext"]["capabilities"].update(drop=[]),
        lambda ours: ours.update(args="run"),
        lambda ours: ours.update(env={}),
        lambda ours: ours["startupProbe"].update(httpGet=None),
        lambda ours: ours.update(image="other"),
    ],
)
def test_what_others_take_from_it_comes_back(spoil):
    one = golden(INJECTED[0], "webhook")
    spoil(one["spec"]["initContainers"][0])
    assert injected(one).pod == golden(INJECTED[0], "webhook")


def test_an_amount_is_the_same_however_it_is_written():
    one = golden(INJECTED[0], "webhook")
    one["spec"]["initContainers"][0]["resources"]["limits"]["memory"] = 268435456
    assert injected(one).operations == []


# -- words


def test_unknown_annotations_are_told_and_do_no_harm():
    case = next(case for case in INJECTED if case.name == "unknown-annotations")
    assert injected(case.pod).warnings == (
        "annotation outrider.dev/config-map is not known and has no effect",
        "annotation outrider.dev/memory is not known and has no effect",
    )


def test_resources_that_have_no_effect_are_told():
    case = next(case for case in INJECTED if case.name == "pod-resources")
    assert injected(case.pod).warnings == (
        "annotation outrider.dev/cpu-request has no effect in a pod with resources of its own (spec.resources)",
    )


@pytest.mark.parametrize("value", [8000, True, None, 1.5, [], {}])
def test_an_annotation_that_is_not_text_is_refused(value):
    result = inject(pod({"app-port": value}), PLAIN, by="cli", version=VERSION)
    assert result.reason == "annotation outrider.dev/app-port is not text (quote it)"


@pytest.mark.parametrize(
    ("label", "namespace", "expected"),
    [
        ("true", "", True),
        ("true", "disabled", True),
        ("false", "enabled", False),
        (None, "enabled", True),
        (None, "", False),
        (None, "true", False),
        ("yes", "", False),
        ("yes", "enabled", True),
        ("", "enabled", True),
    ],
)
def test_the_pods_word_counts_before_its_namespaces(label: str | None, namespace: str, expected: bool):
    one = {"metadata": {"labels": None if label is None else {"outrider.dev/inject": label}}}
    assert wanted(one, {"outrider.dev/inject": namespace} if namespace else {}) is expected
