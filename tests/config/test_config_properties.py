import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.config.check import CheckResult, check_text
from sidecar.config.effective import effective
from sidecar.config.load import Loaded, Problems, load

VALID = """apiVersion: outrider.dev/v1alpha1
kind: SidecarConfig
listeners:
  - {name: in, port: 15001, trustedProxies: [10.0.0.0/8]}
  - {name: out, port: 15002, mode: Forward, allow: ["*.x:443"]}
upstreams:
  - {name: app, targets: [{url: "http://127.0.0.1:8000"}], loadBalancer: {policy: ConsistentHash, hashOn: {type: Header, name: x}}}
  - {name: dns, dns: {host: a.b, port: 1}}
routes:
  - name: r
    hostnames: ["*.a"]
    matches: [{path: {type: RegularExpression, value: "/a.*"}, headers: [{name: x, value: "1"}]}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /x}}}]
    backendRefs: [{name: app, weight: 2}, {name: dns}]
    timeouts: {request: 10s, backendRequest: 1s}
    retry: {attempts: 1, codes: [503]}
defaults: {timeouts: {request: 5s}, retry: null}
telemetry: {accessLog: {always: [Error, {slowerThan: 1s}]}}
tests: [{request: {url: "http://h.a/ab", headers: {x: "1"}}, expect: {route: r, upstream: app}}]
"""
KEYS = ["apiVersion", "kind", "listeners", "upstreams", "routes", "defaults", "telemetry", "tests", "name", "port", "targets", "url", "dns", "host",
        "matches", "path", "value", "filters", "type", "timeouts", "retry", "request", "expect", "headers", "backendRefs", "bind", "allow"]  # fmt: skip
quiet = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def sound(data):
    outcome = load(data)
    if isinstance(outcome, Problems):
        assert outcome.problems
        for problem in outcome.problems:
            assert problem.line >= 1
            assert problem.column >= 1
            assert problem.message
            assert problem.render("f").isprintable()
    else:
        assert isinstance(outcome, Loaded)
        json.dumps(effective(outcome.document))
    assert isinstance(check_text(data), CheckResult)


@quiet
@given(st.binary(max_size=200))
def test_any_bytes_give_problems_or_a_snapshot(data):
    sound(data)


@quiet
@given(st.text(max_size=200))
def test_any_text_gives_problems_or_a_snapshot(text):
    sound(text.encode("utf-8", "surrogatepass"))


@quiet
@given(
    st.lists(
        st.sampled_from(
            [
                "[",
                "]",
                "{",
                "}",
                ":",
                ",",
                "- ",
                "\n",
                "  ",
                "&a ",
                "*a",
                "!t ",
                "|\n",
                ">",
                "'",
                '"',
                "? ",
                "#",
                "---\n",
                "%",
                "\t",
                "a",
                "kind",
                "ConfigMap",
                "0",
                "\\",
            ]
        ),
        max_size=60,
    )
)
def test_any_row_of_yaml_signs_gives_problems_or_a_snapshot(parts):
    sound("".join(parts).encode())


@quiet
@given(st.data())
def test_a_valid_document_with_bytes_changed_gives_problems_or_a_snapshot(data):
    text = bytearray(VALID.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 12))] = data.draw(
            st.binary(max_size=8) | st.sampled_from([b"null", b"[]", b"{}", b"-1", b"9" * 30, b"\n", b": ", b"&a "])
        )
    sound(bytes(text))


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1s", "http://a:1", "/", "app", "Forward", "URLRewrite", "*"])
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5), max_leaves=25
)


@quiet
@given(TREES, st.sampled_from(["listeners", "upstreams", "routes", "defaults", "telemetry", "tests", "lifecycle"]))
def test_any_json_in_place_of_a_section_gives_problems_or_a_snapshot(tree, section):
    document = {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "SidecarConfig",
        "upstreams": [{"name": "app", "dns": {"host": "a", "port": 1}}],
    }
    sound(json.dumps({**document, section: tree}).encode())


def test_the_document_that_these_tests_begin_with_is_valid():
    assert isinstance(load(VALID.encode()), Loaded), load(VALID.encode())
