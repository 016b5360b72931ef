"""Matching: product.md 3.1 and 3.9, sentence by sentence, and against a naive reference."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.model.snapshot import Match, PathMatch, PathType, Route, ValueMatch, ValueType
from sidecar.policy.router import Router, compile_regex, routers_in_slices, shadowed
from sidecar.policy.slices import at_once
from sidecar.protocol.target import normalize_path

EXACT, PREFIX, REGEX = PathType.EXACT, PathType.PREFIX, PathType.REGEX


def match(path="/", kind=PREFIX, *, method=None, headers=(), query=()):
    return Match(
        path=PathMatch(type=kind, value=path),
        method=method,
        headers=tuple(ValueMatch(name=name, value=value, type=how) for name, value, how in headers),
        query_params=tuple(ValueMatch(name=name, value=value, type=how) for name, value, how in query),
    )


def routes(*specs):
    """(name, matches or one match, hostnames...) triples in document order."""
    made = []
    for index, (name, matches, *hostnames) in enumerate(specs):
        several = (matches,) if isinstance(matches, Match) else tuple(matches)
        made.append(Route(name=name, index=index, hostnames=tuple(hostnames), matches=several))
    return made


def router(*specs, listener="outbound"):
    return Router([(route, route.name.upper()) for route in routes(*specs)], listener)


def fields(**headers):
    return [(name.replace("_", "-").encode(), name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()]


def pick(made, target="/", host="a.test", method="GET", headers=()):
    rule = made.match(host.encode(), target.encode(), method.encode(), list(headers))
    return rule and rule.route.name


def value(name, expected, how=ValueType.EXACT):
    return (name, expected, how)


def test_an_exact_path_beats_every_prefix():
    made = router(("long", match("/a/b")), ("exact", match("/a/b", EXACT)), ("short", match("/")))
    assert pick(made, "/a/b") == "exact"
    assert pick(made, "/a/b/") == "long"


def test_the_longest_prefix_wins_whatever_the_document_order():
    made = router(("root", match("/")), ("api", match("/api")), ("v1", match("/api/v1")))
    assert [pick(made, path) for path in ("/api/v1/x", "/api/v2", "/other", "/api")] == ["v1", "api", "root", "api"]


def test_a_prefix_matches_by_path_element():
    made = router(("api", match("/api")))
    assert pick(made, "/apis") is None
    assert [pick(made, path) for path in ("/api", "/api/", "/api/x", "/api?x=/apis")] == ["api"] * 4


def test_a_trailing_slash_of_a_prefix_is_ignored():
    made = router(("api", match("/api/")))
    assert [pick(made, path) for path in ("/api", "/api/", "/api/x", "/apix")] == ["api", "api", "api", None]


def test_a_prefix_goes_before_a_regular_expression():
    made = router(("regex", match("/api/.*", REGEX)), ("prefix", match("/api")))
    assert pick(made, "/api/x") == "prefix"


def test_the_longest_regular_expression_goes_first():
    made = router(("short", match("/.*", REGEX)), ("long", match("/[a-z]+", REGEX)))
    assert (pick(made, "/abc"), pick(made, "/123")) == ("long", "short")


def test_a_regular_expression_is_anchored_at_both_ends():
    made = router(("regex", match("/a[0-9]", REGEX)))
    assert [pick(made, path) for path in ("/a1", "/a1/b", "/x/a1", "/a12")] == ["regex", None, None, None]


def test_a_regular_expression_does_not_see_the_query():
    assert pick(router(("regex", match("/a", REGEX))), "/a?b=c") == "regex"


def test_a_regular_expression_that_backtracks_elsewhere_takes_no_time():
    made = router(("regex", match("/(a+)+", REGEX)))
    assert pick(made, "/" + "a" * 5000 + "!") is None


def test_re2_is_imported_only_when_a_route_has_an_expression():
    code = (
        "import sys; from sidecar.model.snapshot import Route, Match, PathMatch, PathType\n"
        "from sidecar.policy.router import Router\n"
        "Router([(Route(name='r', index=0), 0)], 'l'); assert 're2' not in sys.modules\n"
        "Router([(Route(name='r', index=0, matches=(Match(path=PathMatch(type=PathType.REGEX, value='/a')),)), 0)], 'l')\n"
        "assert 're2' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("pattern", ["(a", "(?=x)", r"(a)\1", "a{5000}"])
def test_what_re2_refuses_is_a_value_error_in_words(pattern):
    with pytest.raises(ValueError, match="not a regular expression that RE2 accepts: [a-z]"):
        compile_regex(pattern)


def test_a_method_beats_headers():
    made = router(("headers", match(headers=[value("a", "1"), value("b", "2")])), ("method", match(method="GET")))
    assert pick(made, headers=fields(a="1", b="2")) == "method"
    assert pick(made, method="POST", headers=fields(a="1", b="2")) == "headers"


def test_most_headers_then_most_query_parameters_then_document_order():
    made = router(
        ("plain", match()),
        ("one-query", match(query=[value("q", "1")])),
        ("two-queries", match(query=[value("q", "1"), value("r", "2")])),
        ("one-header", match(headers=[value("a", "1")])),
        ("one-header-later", match(headers=[value("b", "2")])),
        ("two-headers", match(headers=[value("a", "1"), value("c", "3")])),
    )
    assert pick(made, "/?q=1&r=2", headers=fields(a="1", b="2", c="3")) == "two-headers"
    assert pick(made, "/?q=1&r=2", headers=fields(a="1", b="2")) == "one-header"
    assert pick(made, "/?q=1&r=2", headers=fields(b="2")) == "one-header-later"
    assert [pick(made, target) for target in ("/?q=1&r=2", "/?q=1", "/")] == ["two-queries", "one-query", "plain"]


def test_of_equal_rules_the_first_in_the_document_wins():
    assert pick(router(("first", match("/a")), ("second", match("/a")))) is None
    assert pick(router(("first", match("/a")), ("second", match("/a"))), "/a") == "first"


def test_a_path_decides_before_method_and_headers():
    made = router(("short", match("/a", method="GET", headers=[value("x", "1")])), ("long", match("/a/b")))
    assert pick(made, "/a/b", headers=fields(x="1")) == "long"


def test_when_the_longest_prefix_refuses_the_next_shorter_one_is_asked():
    made = router(("long", match("/a/b", method="POST")), ("short", match("/a")), ("exact", match("/a/b/c", EXACT, method="PUT")))
    assert [pick(made, "/a/b/c", method=method) for method in ("PUT", "POST", "GET")] == ["exact", "long", "short"]


def test_an_exact_hostname_goes_before_the_longest_wildcard_before_none():
    made = router(
        ("none", match("/", EXACT)),
        ("short", match(), "*.internal"),
        ("long", match(), "*.shop.internal"),
        ("exact", match(), "orders.shop.internal"),
    )
    hosts = ("orders.shop.internal", "x.shop.internal", "x.internal", "internal")
    assert [pick(made, host=host) for host in hosts] == ["exact", "long", "short", "none"]


def test_the_hostname_decides_before_the_path():
    made = router(("precise-path", match("/a/b", EXACT)), ("precise-host", match("/"), "orders.shop"))
    assert pick(made, "/a/b", host="orders.shop") == "precise-host"


def test_a_wildcard_matches_one_or_more_labels_and_not_the_bare_name():
    made = router(("wild", match(), "*.shop.internal"))
    hosts = ("a.shop.internal", "a.b.shop.internal", "shop.internal", ".shop.internal", "xshop.internal", "")
    assert [pick(made, host=host) for host in hosts] == ["wild", "wild", None, None, None, None]


def test_hostnames_are_compared_without_regard_to_case_and_final_dot():
    made = router(("route", match(), "Orders.Shop.svc.", "*.Internal"))
    assert [pick(made, host=host) for host in ("orders.shop.svc", "orders.shop.svc.", "a.internal.")] == ["route"] * 3


def test_when_a_more_specific_hostname_has_no_fitting_rule_the_next_level_is_asked():
    made = router(("v2", match("/v2"), "api.shop"), ("wild", match("/v1"), "*.shop"), ("any", match("/")))
    assert [pick(made, path, host="api.shop") for path in ("/v2", "/v1", "/v3")] == ["v2", "wild", "any"]


def test_a_hostile_host_with_thousands_of_labels_is_looked_at_only_as_deep_as_the_document_goes():
    made = router(("wild", match(), "*.a.b"))
    assert pick(made, host="x." * 10_000 + "a.b") == "wild"
    assert pick(made, host="." * 10_000) is None


def test_no_match_is_none():
    assert pick(router(("a", match("/a"))), "/b") is None
    assert pick(router()) is None


def test_a_router_keeps_the_routes_of_its_listener_and_those_of_every_listener():
    both, own, other = (
        Route(name="both", index=0, matches=(match("/both"),)),
        Route(name="own", index=1, listener="inbound", matches=(match("/own"),)),
        Route(name="other", index=2, listener="outbound", matches=(match("/other"),)),
    )
    made = Router([(route, None) for route in (both, own, other)], "inbound")
    assert [pick(made, path) for path in ("/both", "/own", "/other")] == ["both", "own", None]


def test_the_path_is_matched_normalised():
    made = router(("exact", match("/a/b", EXACT)), ("prefix", match("/x")))
    assert [pick(made, path) for path in ("/a/./b", "/a/c/../b", "/%61/b", "/a/%2e/b", "/a/c/%2E%2e/b?q=..")] == ["exact"] * 5
    assert pick(made, "/x/../a/b") == "exact"
    assert pick(made, "/%78/y") == "prefix"


def test_an_encoded_slash_is_no_slash_and_double_slashes_stay():
    made = router(("exact", match("/a/b", EXACT)), ("prefix", match("/a")))
    assert [pick(made, path) for path in ("/a%2Fb", "/a//b", "//a/b")] == [None, "prefix", None]


def test_a_path_of_the_document_may_be_written_in_any_equivalent_spelling():
    made = router(("tilde", match("/%7euser", EXACT)), ("accent", match("/café")), ("slash", match("/a%2fb")))
    assert [pick(made, path) for path in ("/~user", "/caf%C3%A9/x", "/caf%c3%a9", "/a%2Fb")] == ["tilde", "accent", "accent", "slash"]


def test_asterisk_and_connect_targets_match_the_prefix_slash_only():
    made = router(("star", match("/*", EXACT)), ("api", match("/api")))
    assert pick(made, "*", method="OPTIONS") is None
    made = router(("api", match("/api")), ("all", match("/")))
    assert (pick(made, "*", method="OPTIONS"), pick(made, "", method="CONNECT")) == ("all", "all")


def test_a_method_is_compared_with_regard_to_case():
    assert pick(router(("get", match(method="GET"))), method="get") is None


def test_a_header_name_has_no_case_and_its_value_has():
    made = router(("route", match(headers=[value("X-Tenant", "a")])))
    assert pick(made, headers=fields(x_TENANT="a")) == "route"
    assert pick(made, headers=fields(x_tenant="A")) is None
    assert pick(made) is None


def test_a_header_match_sees_repeated_lines_joined_by_comma_and_blank():
    made = router(("route", match(headers=[value("x-a", "1, 2")])))
    assert pick(made, headers=fields(x_a="1") + fields(x_A="2")) == "route"
    assert pick(made, headers=fields(x_a="1")) is None


def test_a_query_match_sees_the_first_value_decoded():
    made = router(("route", match(query=[value("q", "a b/c")])))
    for target in ("/?q=a+b/c", "/?q=a%20b%2Fc&q=other", "/?x&%71=a%20b/c"):
        assert pick(made, target) == "route"
    for target in ("/?q=other&q=a+b/c", "/?Q=a+b/c", "/?q", "/", "/q=a+b/c"):
        assert pick(made, target) is None


def test_header_and_query_expressions_match_the_whole_value():
    made = router(
        ("header", match(headers=[value("x-v", "v[0-9]+", ValueType.REGEX)])),
        ("query", match(query=[value("v", "v[0-9]+", ValueType.REGEX)])),
    )
    assert pick(made, headers=fields(x_v="v12")) == "header"
    assert pick(made, "/?v=v12", headers=fields(x_v="v12!")) == "query"
    assert pick(made, "/?v=xv12") is None


def test_of_several_conditions_on_one_name_the_first_counts():
    made = router(("route", match(headers=[value("x-a", "1"), value("X-A", "2")], query=[value("q", "1"), value("q", "2")])))
    assert pick(made, "/?q=1", headers=fields(x_a="1")) == "route"


def test_a_route_matches_when_one_of_its_matches_does_and_the_rule_says_which():
    made = router(("route", [match("/a/", EXACT), match("/b/")]))
    rule = made.match(b"h", b"/b/c", b"GET", [])
    assert (rule.payload, rule.match, rule.prefix) == ("ROUTE", rule.route.matches[1], b"/b")
    assert made.match(b"h", b"/a/", b"GET", []).prefix == b""


def test_a_lone_catch_all_takes_everything_without_looking():
    made = router(("all", match()))
    assert [pick(made, target, host="", method="X") for target in ("/", "*", "", "/../%zz")] == ["all"] * 4
    assert made.match(b"h", b"/x", b"GET", []).prefix == b""


# --- explain -----------------------------------------------------------------------------------------------------


def explained(made, target, host="a.test", method="GET", headers=()):
    return made.explain(host.encode(), target.encode(), method.encode(), list(headers))


def test_explain_tells_the_winner_and_why_each_other_rule_lost():
    made = router(
        ("orders-read", match("/v1", method="GET"), "*.shop"),
        ("orders", match("/v1"), "*.shop"),
        ("v2", match("/v2")),
        ("tenant", match(headers=[value("x-tenant", "a")])),
        ("beta", match(query=[value("beta", "1")])),
        ("rest", match()),
        ("other", match(), "other.test"),
    )
    told = explained(made, "/v1/x?beta=0", host="a.shop")
    assert [(verdict.route, verdict.matched) for verdict in told] == [
        ("orders-read", True),
        ("orders", False),
        ("v2", False),
        ("tenant", False),
        ("beta", False),
        ("rest", False),
        ("other", False),
    ]
    assert [verdict.why for verdict in told] == [
        "matches by hostname *.shop, path PathPrefix /v1, method GET",
        "shadowed by route orders-read: method",
        "path PathPrefix /v2 does not match /v1/x",
        "header x-tenant Exact a is absent",
        "query parameter beta Exact 1 does not match 0",
        "shadowed by route orders-read: more specific hostname",
        "hostnames other.test do not match a.shop",
    ]


@pytest.mark.parametrize(
    ("better", "worse", "why"),
    [
        (match("/a", EXACT), match("/a"), "exact path beats prefix"),
        (match("/a"), match("/"), "longer prefix"),
        (match("/"), match("/.*", REGEX), "prefix path beats regular expression"),
        (match("/a.?", REGEX), match("/.*", REGEX), "longer regular expression"),
        (match("/a", headers=[value("h", "1")]), match("/a"), "more headers"),
        (match("/a", query=[value("q", "1")]), match("/a"), "more query parameters"),
        (match("/a"), match("/a"), "earlier in the document"),
    ],
)
def test_explain_says_what_made_the_winner_better(better, worse, why):
    told = explained(router(("better", better), ("worse", worse)), "/a?q=1", headers=fields(h="1"))
    assert (told[1].route, told[1].why) == ("worse", f"shadowed by route better: {why}")


def test_explain_shows_each_match_of_a_route():
    told = explained(router(("route", [match("/b"), match("/"), match("/")])), "/a", method="PUT")
    assert [(verdict.match, verdict.matched) for verdict in told] == [(0, False), (1, True), (2, False)]
    assert told[2].why == "shadowed by route route: earlier in the same route"


# --- shadowed rules ----------------------------------------------------------------------------------------------


def test_a_rule_with_the_conditions_of_an_earlier_one_is_reported():
    first = match("/a", method="GET", headers=[value("x", "1"), value("y", "2")])
    second = match("/a/", method="GET", headers=[value("y", "2"), value("x", "1")])
    (warning,) = shadowed(routes(("first", first, "Shop.test"), ("second", second, "shop.test")))
    assert warning == "route second (matches[0]) can never be reached: route first (matches[0]) has the same conditions and comes first"


def test_two_equal_matches_of_one_route_are_reported():
    (warning,) = shadowed(routes(("route", [match("/a"), match("/a")])))
    assert warning.startswith("route route (matches[1])")


@pytest.mark.parametrize(
    ("prefix", "pattern"), [("/", "/x/[0-9]+"), ("/", ".*"), ("/api", "/api/v[0-9]"), ("/", "(/a|/b)"), ("/api/v1", "/api/v1/x?")]
)
def test_an_expression_behind_a_prefix_that_takes_its_paths_is_reported(prefix, pattern):
    (warning,) = shadowed(routes(("regex", match(pattern, REGEX, method="GET")), ("prefix", match(prefix))))
    assert "route prefix (matches[0]) takes its paths" in warning


def test_an_expression_that_cannot_match_a_path_is_reported():
    (warning,) = shadowed(routes(("regex", match("api/.*", REGEX))))
    assert "paths begin with /" in warning


@pytest.mark.parametrize(
    "specs",
    [
        [("a", match("/a")), ("b", match("/a", method="GET"))],
        [("a", match("/a")), ("b", match("/a/b"))],
        [("a", match(), "*.shop"), ("b", match(), "a.shop")],
        [("a", match(), "a.shop"), ("b", match(), "a.shop", "b.shop")],
        [("a", match("/api")), ("b", match("/ap.*", REGEX))],
        [("a", match("/api")), ("b", match("/api/?x", REGEX))],
        [("a", match("/api")), ("b", match("/api/x|/y", REGEX))],
        [("a", match("/", method="POST")), ("b", match("/.*", REGEX))],
        [("a", match("/a", headers=[value("x", "1")])), ("b", match("/a", headers=[value("x", "2")]))],
        [("a", match("/a", EXACT)), ("b", match("/a"))],
    ],
)
def test_a_rule_that_can_win_is_never_reported(specs):
    assert shadowed(routes(*specs)) == []


def test_a_rule_of_one_listener_does_not_shadow_one_of_all():
    own = Route(name="own", index=0, listener="inbound")
    every = Route(name="every", index=1)
    assert shadowed([own, every]) == []
    assert len(shadowed([Route(name="every", index=0), Route(name="own", index=1, listener="inbound")])) == 1


# --- properties --------------------------------------------------------------------------------------------------

ELEMENTS = ["", "a", "b", "ab", ".", "..", "%61", "%2F", "a.b"]
PATHS = st.lists(st.sampled_from(ELEMENTS), max_size=4).map(lambda parts: "/" + "/".join(parts))
VALUES = st.lists(st.sampled_from(["a", "b", "ab", "a%2Fb"]), max_size=3).map(lambda parts: "/" + "/".join(parts))
HOSTS = ["a.test", "b.a.test", "c.b.a.test", "test", ""]
CONDITIONS = st.lists(
    st.tuples(st.sampled_from(["x", "y"]), st.sampled_from(["1", "2"]), st.just(ValueType.EXACT)), max_size=2, unique_by=lambda c: c[0]
)
MATCHES = st.one_of(
    st.builds(match, VALUES, st.sampled_from([EXACT, PREFIX]), method=st.sampled_from([None, "GET"]), headers=CONDITIONS, query=CONDITIONS),
    st.builds(
        match,
        st.sampled_from(["/a.*", "/[ab]/b", ".*", "/a/b|/b"]),
        st.just(REGEX),
        method=st.sampled_from([None, "GET"]),
        headers=CONDITIONS,
    ),
)
SPECS = st.lists(
    st.tuples(
        st.lists(MATCHES, min_size=1, max_size=2), st.lists(st.sampled_from(["a.test", "*.test", "*.a.test", "b.a.test"]), max_size=2)
    ),
    min_size=1,
    max_size=8,
)
REQUESTS = st.tuples(
    st.sampled_from(HOSTS),
    st.one_of(PATHS, st.sampled_from(["*", ""])),
    st.sampled_from(["", "?x=1", "?y=2&x=1"]),
    st.sampled_from(["GET", "POST"]),
    st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", "2"])),
)


def naive(made, host, target, method, headers):
    """Sort all rules that match by precedence, take the first. Written without a look at the router."""
    path, _, query = target.partition("?")
    path = normalize_path(path.encode()).decode()
    params = dict(pair.split("=") for pair in query.split("&") if pair)
    found = []
    for route in made:
        levels = [3] if not route.hostnames else []
        for name in route.hostnames:
            if name == host:
                levels.append(0)
            elif name.startswith("*.") and re.fullmatch(r".+" + re.escape(name[1:]), host):
                levels.append(1 if name == "*.a.test" else 2)
        for number, one in enumerate(route.matches):
            pattern, kind = one.path.value, one.path.type
            if kind is EXACT:
                fits = path == pattern
            elif kind is PREFIX:
                fits = (path + "/").startswith(pattern.rstrip("/") + "/") or not pattern.rstrip("/")
            else:
                fits = re.fullmatch(pattern, path) is not None
            fits = fits and one.method in (None, method)
            fits = fits and all(headers.get(asked.name) == asked.value for asked in one.headers)
            fits = fits and all(params.get(asked.name) == asked.value for asked in one.query_params)
            if fits and levels:
                length = len(pattern.rstrip("/")) if kind is PREFIX else len(pattern) if kind is REGEX else 0
                kinds = [EXACT, PREFIX, REGEX].index(kind)
                key = (min(levels), kinds, -length, one.method is None, -len(one.headers), -len(one.query_params), route.index, number)
                found.append((key, (route.name, number)))
    return min(found)[1] if found else None


@settings(max_examples=250, deadline=None)
@given(SPECS, st.lists(REQUESTS, min_size=1, max_size=5))
def test_the_router_agrees_with_sorting_all_and_taking_the_first_that_matches(specs, requests):
    made = routes(*((f"r{index}", matches, *hostnames) for index, (matches, hostnames) in enumerate(specs)))
    compiled = Router([(route, None) for route in made], "any")
    never = {tuple(re.match(r"route (\S+) \(matches\[(\d+)\]\)", warning).groups()) for warning in shadowed(made)}
    for host, path, query, method, headers in requests:
        target = path + (query if path.startswith("/") else "")
        expected = naive(made, host, target, method, headers)
        arguments = (host.encode(), target.encode(), method.encode(), fields(**headers))
        rule = compiled.match(*arguments)
        got = rule and (rule.route.name, rule.route.matches.index(rule.match))
        assert (got and got[0]) == (expected and expected[0])
        winners = [(verdict.route, verdict.match) for verdict in compiled.explain(*arguments) if verdict.matched]
        assert winners == ([expected] if expected else [])
        if expected:
            assert (expected[0], str(expected[1])) not in never


def test_routers_made_in_slices_answer_like_those_made_at_once():
    made = [
        Route(name="own", index=0, listener="in", matches=(match("/a", EXACT),)),
        Route(name="any", index=1, hostnames=("b.test", "*.test"), matches=(match("/a"), match("/[ab]", REGEX))),
        Route(name="rest", index=2, matches=(match("/", method="GET"), match("/"))),
    ]
    rules = [(route, route.name) for route in made]
    sliced = at_once(routers_in_slices(rules, ["in", "out", "other"]))
    assert sliced["out"] is sliced["other"]
    for listener, compiled in sliced.items():
        whole = Router(rules, listener)
        for host in ("a.test", "b.test", "c"):
            for path in ("/a", "/b", "/c"):
                asked = (host.encode(), path.encode(), b"GET", [])
                assert compiled.explain(*asked) == whole.explain(*asked)
                assert pick(compiled, path, host) == pick(whole, path, host)


def test_a_router_is_made_in_at_least_as_many_steps_as_it_has_rules():
    made = routes(*((f"r{n}", match(f"/{n}")) for n in range(300)), ("wide", match("/"), *(f"h{n}.test" for n in range(640))))
    assert sum(1 for _ in routers_in_slices([(route, None) for route in made], ["in", "out"])) >= 2 * 301 + 10


def test_rules_that_come_in_the_wrong_order_are_put_right():
    made = routes(("late", match("/a")), ("method", match("/a", method="GET")), ("header", match("/a", headers=[value("x", "1")])))
    compiled = Router([(route, None) for route in reversed(made)], "any")
    assert [pick(compiled, "/a"), pick(compiled, "/a", method="PUT")] == ["method", "late"]
    assert pick(compiled, "/a", method="PUT", headers=fields(x="1")) == "header"
