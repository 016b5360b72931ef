"""Random pods: injection never raises, changes nothing but what docs/injection.md says, and has nothing to do the second time."""

import copy
import json

import jsonpatch
from hypothesis import given, settings
from hypothesis import strategies as st
from injection.cases import DEFAULTS

from sidecar.injector.patch import inject
from sidecar.injector.podspec import APPLICATION_ENV, VOLUME_NAMES

WORDS = [
    "",
    "a",
    "true",
    "false",
    "auto",
    "disabled",
    "enabled",
    "debug",
    "8000",
    "15001",
    "100m",
    "64Mi",
    "1Gi",
    "9" * 400,
    "\x00",
    "é",
    '{"by":"x"}',
]
NAMES = [
    "configmap",
    "configmap-key",
    "app-port",
    "outbound-proxy-env",
    "native-sidecar",
    "log-level",
    "image",
    "cpu-request",
    "memory-limit",
]
ODD = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from([*WORDS, [], {}])


def maybe(fields: dict) -> st.SearchStrategy:
    """A mapping of which each field may be there, null, or not there."""
    return st.fixed_dictionaries({}, optional={name: st.none() | value for name, value in fields.items()})


annotations = st.dictionaries(
    st.sampled_from([f"outrider.dev/{name}" for name in [*NAMES, "inject", "injected", "not-injected", "odd"]] + ["other/a~b"]),
    st.sampled_from(WORDS) | ODD,
    max_size=6,
)
quantities = st.sampled_from(["1", 1, "1000m", "0", "64Mi", 0.5, "odd", None, "1e3", True])
amounts = maybe({"cpu": quantities, "memory": quantities})
variables = st.builds(
    lambda name, value: {"name": name, **value}, st.sampled_from([*APPLICATION_ENV, "Http_Proxy", "X"]), maybe({"value": ODD})
)
ports = maybe({"name": st.sampled_from(["http", "outrider-in"]), "containerPort": st.sampled_from([80, 8080, 15001])})
containers = st.builds(
    lambda name, rest: {"name": name, **rest},
    st.sampled_from(["a", "b", "c", "outrider"]),
    maybe(
        {
            "env": st.lists(variables, max_size=3),
            "ports": st.lists(ports, max_size=1),
            "resources": maybe({"limits": amounts, "requests": amounts}),
            "restartPolicy": st.just("Always"),
        }
    ),
)
named = st.lists(containers, max_size=3, unique_by=lambda one: one["name"])
volumes = st.lists(st.sampled_from(["data", "data", "tmp", VOLUME_NAMES[1]]).map(lambda name: {"name": name, "emptyDir": {}}), max_size=2)
pods = st.fixed_dictionaries(
    {
        "spec": maybe(
            {
                "volumes": volumes,
                "securityContext": maybe({"runAsUser": st.sampled_from([0, 1000])}),
                "hostNetwork": st.booleans(),
                "os": maybe({"name": st.sampled_from(["linux", "windows"])}),
                "nodeSelector": maybe({"kubernetes.io/os": st.just("windows")}),
                "resources": maybe({"requests": amounts}),
            }
        ).flatmap(lambda rest: st.builds(lambda c, i: {**rest, "containers": c, **i}, named, maybe({"initContainers": named})))
    },
    optional={
        "metadata": st.none()
        | maybe({"annotations": annotations, "labels": st.dictionaries(st.just("outrider.dev/inject"), st.sampled_from(WORDS))})
    },
)


@settings(max_examples=400, deadline=None)
@given(pods, st.sampled_from(sorted(DEFAULTS)), st.booleans())
def test_any_pod_can_be_shown_to_it(pod: dict, defaults: str, live: bool):
    before = copy.deepcopy(pod)
    result = inject(pod, DEFAULTS[defaults], by="webhook", version="1", live=live)
    assert pod == before
    assert jsonpatch.JsonPatch(copy.deepcopy(result.operations)).apply(pod) == result.pod
    again = inject(result.pod, DEFAULTS[defaults], by="webhook", version="1", live=live)
    assert again.operations == []
    assert again.injected is result.injected
    assert without_ours(result.pod) == without_ours(pod)


def without_ours(pod: dict) -> str:
    """The pod without all that injection may add, as text: this must never differ."""
    pod = copy.deepcopy(pod)
    metadata = pod.get("metadata") or {}
    ours = {f"outrider.dev/{word}" for word in ("injected", "not-injected")} | {
        f"kubectl.kubernetes.io/default-{word}" for word in ("container", "logs-container")
    }
    kept = {name: value for name, value in (metadata.pop("annotations", None) or {}).items() if name not in ours}
    spec = pod["spec"]
    lists = {
        kind: [application(one) for one in spec.pop(kind, None) or () if one["name"] != "outrider"]
        for kind in ("initContainers", "containers")
    }
    others = [one for one in spec.pop("volumes", None) or () if one["name"] not in VOLUME_NAMES]
    return json.dumps([metadata, kept, spec, lists, others], sort_keys=True)


def application(container: dict) -> dict:
    """A container without the variables that `outbound-proxy-env` adds."""
    env = [one for one in container.pop("env", None) or () if one != {"name": one["name"], "value": APPLICATION_ENV.get(one["name"])}]
    return {**container, "env": env}
