"""What a document may cost: expressions and router tables are bounded, and the bound is explained once."""

import json

import pytest

from sidecar.config import rules_routes
from sidecar.config.load import Loaded, Problems, load
from sidecar.policy.matching import compile_regex


def document(*routes, listeners=1):
    made = [{"name": f"l{n}", "port": 9000 + n} for n in range(listeners)]
    return json.dumps(
        {
            "apiVersion": "outrider.dev/v1alpha1",
            "kind": "SidecarConfig",
            "listeners": made,
            "upstreams": [{"name": "app", "targets": [{"url": "http://127.0.0.1:8000"}]}],
            "routes": [{**route, "backendRefs": [{"name": "app"}]} for route in routes],
        }
    ).encode()


def expression(pattern):
    return {"matches": [{"path": {"type": "RegularExpression", "value": pattern}}]}


def problems(data):
    outcome = load(data)
    return [(problem.path, problem.message) for problem in outcome.problems] if isinstance(outcome, Problems) else []


@pytest.mark.parametrize(
    "pattern", [r"/(\pL{1,20}){1,20}", "/.{1,1000}", "/" + "[a-z]{1,99}" * 80, "/" + r"\pL" * 300, "/[" + r"\PL" * 300 + "]"]
)
def test_an_expression_that_compiles_to_something_huge_is_refused(pattern):
    with pytest.raises(ValueError, match="too large"):
        compile_regex(pattern)


@pytest.mark.parametrize(
    "pattern", ["/v[0-9]/(users|orders)/[a-z0-9-]{1,63}/.*", r"/[\pL\pN]+/x", "/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/?", "/.{1,100}"]
)
def test_expressions_that_people_write_fit(pattern):
    assert compile_regex(pattern).fullmatch(b"no") is None


def test_too_many_different_expressions_are_refused_at_the_first_that_is_too_many(monkeypatch):
    monkeypatch.setattr(rules_routes, "MAX_EXPRESSIONS", 3)
    told = problems(document(*(expression(f"/a{n}") for n in range(9))))
    assert [path for path, _ in told] == ["routes[3].matches[0].path.value"]
    assert "more than 3 different expressions (write Exact or PathPrefix" in told[0][1]


def test_the_same_expression_counts_once(monkeypatch):
    monkeypatch.setattr(rules_routes, "MAX_EXPRESSIONS", 1)
    assert isinstance(load(document(*(expression("/a[0-9]") for _ in range(9)))), Loaded)


def test_expressions_that_are_too_large_together_are_refused_and_compiled_no_more(monkeypatch):
    compiled = []
    monkeypatch.setattr(rules_routes, "compile_regex", lambda pattern: compiled.append(pattern) or compile_regex(pattern))
    told = problems(document(*(expression(f"/.{{1,200}}{n}") for n in range(60))))
    assert len(told) == 1
    assert "too large together" in told[0][1]
    assert len(compiled) < 60
    assert told[0][0] == f"routes[{len(compiled)}].matches[0].path.value"


def test_expressions_that_fail_cost_as_much_as_the_largest(monkeypatch):
    monkeypatch.setattr(rules_routes, "MAX_INSTRUCTIONS", 2 * rules_routes.PATTERN_INSTRUCTIONS)
    told = problems(document(*(expression(f"/(?={n})") for n in range(60))))
    assert ["not a regular expression" in message for _, message in told] == [True, True, False]


def test_hostnames_times_matches_times_listeners_is_bounded():
    wide = {"hostnames": [f"h{n}.test" for n in range(200)], "matches": [{"path": {"value": f"/{n}"}} for n in range(300)]}
    assert problems(document(wide)) == []
    told = problems(document(wide, listeners=2))
    assert [path for path, _ in told] == ["routes[0]"]
    assert "hostnames x matches x listeners" in told[0][1]
