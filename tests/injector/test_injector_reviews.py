"""Reviews of pods, without a network: what is answered, by a library's reading of the patch, and what broken or hostile ones get."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from injector.injector_kit import APP_PORT, body, ours, patched, pod, question, warnings

from sidecar import __version__
from sidecar.injector.mutate import Outcome, Verdict, mutate
from sidecar.injector.patch import inject
from sidecar.injector.refusals import event_of, regarding
from sidecar.injector.review import MAX_WARNING, MAX_WARNINGS, BadReview, allow, parse, refuse
from sidecar.injector.settings import Defaults
from sidecar.kube.event_post import MAX_NOTE

Json = dict[str, Any]
DEFAULTS = Defaults(image="registry.example/outrider:1")
YES = {"outrider.dev/inject": "true"}
BY_CHART = {**APP_PORT, "outrider.dev/injected": '{"version":"1","by":"chart"}'}
INIT = {"name": "init", "image": "registry.example/init:1"}
PODS = {
    "plain": pod(APP_PORT),
    "nothing but a template": {"metadata": {"generateName": "app-", "annotations": APP_PORT}, "spec": pod()["spec"]},
    "init containers": pod(APP_PORT, initContainers=[INIT]),
    "volumes": pod(APP_PORT, volumes=[{"name": "data", "emptyDir": {}}]),
    "nulls": pod(APP_PORT, initContainers=None, volumes=None),
    "empty lists": pod(APP_PORT, initContainers=[], volumes=[]),
    "a ConfigMap": pod({"outrider.dev/configmap": "orders"}),
    "both": pod({"outrider.dev/configmap": "orders", **APP_PORT}),
    "proxy variables": pod({"outrider.dev/configmap": "orders", "outrider.dev/outbound-proxy-env": "true"}, initContainers=[INIT]),
    "not native": pod({**APP_PORT, "outrider.dev/native-sidecar": "disabled"}),
    "fields that nobody knows": pod(APP_PORT, fromTheFuture={"a": [1, 2.5, None, "\u2028"]}),
    "slashes and tildes": pod({**APP_PORT, "a~b/c~1d": "x/y~z"}, {"k~/": "v"}),
}


def ask(what: Json, *, enabled: bool = True, home: str = "outrider-system", **fields: Any) -> Verdict:
    return mutate(parse(body(what, **fields)), DEFAULTS, enabled=enabled, home=home)


def told(verdict: Verdict) -> tuple[str, str]:
    return verdict.outcome.value, str(verdict.reason)


@pytest.mark.parametrize("what", PODS.values(), ids=PODS)
def test_the_answer_makes_the_pod_that_injection_makes(what: Json) -> None:
    before = copy.deepcopy(what)
    verdict = ask(what)
    assert told(verdict) == ("injected", "none")
    made = patched(what, verdict.answer)
    assert made == inject(before, DEFAULTS, by="webhook", version=__version__).pod
    assert ours(made) is not None
    assert what == before


@pytest.mark.parametrize("what", PODS.values(), ids=PODS)
def test_asked_again_nothing_is_to_be_done(what: Json) -> None:
    again = ask(patched(what, ask(what).answer))
    assert told(again) == ("skipped", "already_injected")
    assert "patch" not in json.loads(again.answer)["response"]


def test_what_others_have_changed_meanwhile_is_put_right_and_nothing_else() -> None:
    made = patched(PODS["plain"], ask(PODS["plain"]).answer)
    changed = copy.deepcopy(made)
    changed["spec"]["initContainers"].append({"name": "theirs", "image": "x"})
    changed["spec"]["initContainers"][0]["image"] = "elsewhere/outrider:0"
    right = patched(changed, ask(changed).answer)
    assert right["spec"]["initContainers"] == [*made["spec"]["initContainers"], {"name": "theirs", "image": "x"}]


SKIPPED = {
    "opted out": (pod(APP_PORT, {"outrider.dev/inject": "false"}), {}, "opted_out", 0),
    "not asked for": (pod(APP_PORT), {"enabled": False}, "not_wanted", 0),
    "kube-system": (pod(APP_PORT, YES), {"namespace": "kube-system"}, "protected_namespace", 1),
    "kube-node-lease, silent": (pod(APP_PORT), {"namespace": "kube-node-lease"}, "protected_namespace", 0),
    "the injector's own": (pod(APP_PORT), {"namespace": "outrider-system"}, "protected_namespace", 0),
    "host network": (pod(APP_PORT, YES, hostNetwork=True), {}, "host_network", 1),
    "host network, silent": (pod(APP_PORT, hostNetwork=True), {}, "host_network", 0),
    "windows": (pod(APP_PORT, YES, os={"name": "windows"}), {}, "windows", 1),
    "windows by selector": (pod(APP_PORT, nodeSelector={"kubernetes.io/os": "windows"}), {}, "windows", 0),
    "mirror pod": (pod({**APP_PORT, "kubernetes.io/config.mirror": "x"}), {}, "mirror_pod", 0),
    "no containers": (pod(APP_PORT, containers=[]), {}, "no_containers", 0),
    "by the chart": (pod(BY_CHART, YES, initContainers=[{"name": "outrider", "image": "x"}]), {}, "already_injected", 0),
    "an update": (pod(APP_PORT), {"operation": "UPDATE"}, "not_a_new_pod", 1),
    "a subresource": (pod(APP_PORT), {"subResource": "exec"}, "not_a_new_pod", 1),
    "another resource": (pod(APP_PORT), {"resource": {"group": "apps", "version": "v1", "resource": "pods"}}, "not_a_new_pod", 1),
}


@pytest.mark.parametrize(("what", "fields", "reason", "words"), SKIPPED.values(), ids=SKIPPED)
def test_a_pod_is_left_alone_and_told_if_it_asked(what: Json, fields: Json, reason: str, words: int) -> None:
    verdict = ask(what, **fields)
    assert told(verdict) == ("skipped", reason)
    assert "patch" not in json.loads(verdict.answer)["response"]
    assert len(warnings(verdict.answer)) == words


def test_a_pods_yes_counts_where_the_namespace_is_silent() -> None:
    assert told(ask(pod(APP_PORT, YES), enabled=False)) == ("injected", "none")


REFUSED = {
    "no annotation": (pod(), "bad_annotation"),
    "bad port": (pod({"outrider.dev/app-port": "http"}), "bad_annotation"),
    "our name": (pod(APP_PORT, initContainers=[{"name": "outrider", "image": "x"}]), "conflict"),
    "our volume": (pod(APP_PORT, volumes=[{"name": "outrider-state", "emptyDir": {}}]), "conflict"),
}


@pytest.mark.parametrize(("what", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_refused_pod_starts_with_the_reason_in_an_annotation_and_a_warning(what: Json, reason: str) -> None:
    verdict = ask(what)
    assert told(verdict) == ("refused", reason)
    made = patched(what, verdict.answer)
    assert made["metadata"]["annotations"]["outrider.dev/not-injected"] == verdict.refusal
    assert made["spec"] == what["spec"]
    assert warnings(verdict.answer) == [f"outrider: no sidecar: {verdict.refusal}"]
    assert told(ask(made)) == ("refused", reason)


def test_annotations_that_mean_nothing_are_warnings() -> None:
    verdict = ask(pod({**APP_PORT, "outrider.dev/cpu-limit": "1", "other.dev/x": "y"}))
    assert warnings(verdict.answer) == ["outrider: annotation outrider.dev/cpu-limit is not known and has no effect"]


def test_the_answer_echoes_version_kind_and_uid() -> None:
    answer = json.loads(ask(pod(APP_PORT), uid="abc-123").answer)
    assert (answer["apiVersion"], answer["kind"], answer["response"]["uid"]) == ("admission.k8s.io/v1", "AdmissionReview", "abc-123")


def test_warnings_are_one_line_short_and_few() -> None:
    review = parse(body(pod()))
    found = warnings(allow(review, (), ["x" * 999 + "\n\x1b[31m", *(f"w{number}" for number in range(99))]))
    assert len(found) == MAX_WARNINGS
    assert all(len(text) <= MAX_WARNING and text.startswith("outrider: ") and text.isprintable() for text in found)


def test_a_refusal_has_a_status_that_kubectl_shows() -> None:
    response = json.loads(refuse(parse(body(pod())), "line 1\nline 2"))["response"]
    assert response["allowed"] is False
    assert response["status"] == {"code": 422, "reason": "Invalid", "message": "line 1\nline 2"}


# -- broken and hostile


def without(*path: str) -> bytes:
    document = question(pod())
    place = document
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    return json.dumps(document).encode()


BROKEN = {
    "nothing": b"",
    "not JSON": b"apiVersion: v1",
    "half": body(pod())[:-10],
    "two": body(pod()) * 2,
    "a list": b"[]",
    "null": b"null",
    "not UTF-8": b'{"apiVersion": "\xff"}',
    "NaN": body(pod()).replace(b'"shop"', b"NaN"),
    "no request": without("request"),
    "no uid": without("request", "uid"),
    "no resource": without("request", "resource"),
    "an empty uid": body(pod(), uid=""),
    "a long uid": body(pod(), uid="x" * 1000),
    "a number as uid": body(pod(), uid=5),
    "a pod that is a list": body([], uid="u"),  # type: ignore[arg-type]
    "deep": b'{"a":' * 100_000,
    "a deep pod": body(pod()).replace(b'"containers"', b'"x": ' + b"[" * 50_000 + b"]" * 50_000 + b', "containers"'),
    "v1beta1": body(pod()).replace(b"admission.k8s.io/v1", b"admission.k8s.io/v1beta1"),
    "another kind": body(pod()).replace(b"AdmissionReview", b"ConversionReview"),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_no_review_is_refused_in_one_short_line(data: bytes) -> None:
    with pytest.raises(BadReview) as refused:
        parse(data)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 600


def test_an_older_version_is_told_what_to_write() -> None:
    with pytest.raises(BadReview, match=r"admissionReviewVersions: \[v1\]"):
        parse(BROKEN["v1beta1"])


@pytest.mark.parametrize(
    "spec",
    [None, [], "x", {"containers": "x"}, {"containers": [None]}, {"containers": [{}]}, {"containers": [{"name": 5}]}, {"volumes": [{}]}],
    ids=repr,
)
def test_a_pod_of_no_shape_starts_untouched(spec: Any) -> None:
    verdict = ask({"metadata": {"annotations": APP_PORT}, "spec": spec})
    assert told(verdict) == ("error", "bad_pod")
    assert patched({}, verdict.answer) == {}
    assert len(warnings(verdict.answer)) == 1


def test_text_that_no_encoding_has_is_passed_on() -> None:
    data = body(pod({**APP_PORT, "outrider.dev/X": ""})).replace(b"outrider.dev/X", b"outrider.dev/\\ud800")
    try:
        review = parse(data)
    except BadReview:
        return
    assert mutate(review, DEFAULTS, enabled=True, home="").outcome is Outcome.INJECTED


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70000) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
container = st.fixed_dictionaries(
    {}, optional={"name": json_values, "ports": json_values, "env": json_values, "resources": json_values, "image": st.just("x")}
)
spec = st.fixed_dictionaries(
    {},
    optional={
        "containers": st.lists(container, max_size=3) | json_values,
        "initContainers": st.lists(container, max_size=2) | json_values,
        "volumes": json_values,
        "securityContext": json_values,
        "nodeSelector": json_values,
        "os": json_values,
        "hostNetwork": json_values,
    },
)
metadata = st.fixed_dictionaries(
    {},
    optional={
        "labels": st.sampled_from([YES, {}]) | json_values,
        "annotations": st.sampled_from([APP_PORT, {**APP_PORT, "outrider.dev/outbound-proxy-env": "true"}]) | json_values,
        "ownerReferences": json_values,
        "name": json_values,
    },
)


@settings(max_examples=400, deadline=None)
@given(st.fixed_dictionaries({}, optional={"metadata": metadata | json_values, "spec": spec | json_values}))
def test_whatever_a_pod_looks_like_it_may_start_and_its_patch_applies(what: Json) -> None:
    verdict = ask(what)
    patched(what, verdict.answer)
    about = regarding(parse(body(what)))
    assert all(isinstance(value, str) for value in about.values())


def test_the_event_regards_the_owner_and_is_the_same_for_all_its_pods() -> None:
    from datetime import UTC, datetime

    from sidecar.injector.refusals import Refusal

    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "app-7f9", "uid": "u1", "controller": True}
    review = parse(body(pod(metadata={"ownerReferences": [{**owner, "controller": False, "name": "no"}, owner]})))
    about = regarding(review)
    assert (about["kind"], about["name"], about["namespace"]) == ("ReplicaSet", "app-7f9", "shop")
    events = [event_of(Refusal("shop", about, "x" * 5000), "injector-1", datetime.now(UTC)) for _ in range(2)]
    assert events[0]["metadata"] == events[1]["metadata"]
    assert len(events[0]["note"].encode()) <= MAX_NOTE
