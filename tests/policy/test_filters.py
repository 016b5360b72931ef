"""Filters: Gateway API HTTPHeaderFilter, HTTPURLRewriteFilter, HTTPRequestRedirectFilter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.model.snapshot import HeaderModifier, Redirect, UrlRewrite
from sidecar.policy.filters import modify, redirect_location, rewrite_target
from sidecar.protocol.target import normalize_path


def lines(*pairs):
    return [(name, name.lower(), value) for name, value in pairs]


def test_set_takes_the_place_of_the_first_line_of_its_name_and_removes_the_others():
    fields = lines((b"A", b"1"), (b"X-T", b"old"), (b"B", b"2"), (b"x-t", b"older"))
    assert modify(fields, HeaderModifier(set=((b"X-Tenant", b"n"), (b"x-T", b"new")))) == [
        (b"A", b"a", b"1"),
        (b"x-T", b"x-t", b"new"),
        (b"B", b"b", b"2"),
        (b"X-Tenant", b"x-tenant", b"n"),
    ]


def test_add_appends_a_line_and_keeps_what_was_there():
    assert modify(lines((b"A", b"1")), HeaderModifier(add=((b"a", b"2"), (b"A", b"3")))) == lines((b"A", b"1"), (b"a", b"2"), (b"A", b"3"))


def test_remove_takes_every_line_of_a_name_whatever_its_case():
    assert modify(lines((b"A", b"1"), (b"b", b"2"), (b"a", b"3")), HeaderModifier(remove=frozenset({b"a"}))) == lines((b"b", b"2"))


def test_remove_comes_last():
    modifier = HeaderModifier(set=((b"A", b"1"),), add=((b"B", b"2"), (b"C", b"3")), remove=frozenset({b"a", b"b"}))
    assert modify([], modifier) == lines((b"C", b"3"))


def test_the_list_that_was_given_is_not_changed():
    fields = lines((b"A", b"1"))
    modify(fields, HeaderModifier(set=((b"A", b"2"),)))
    assert fields == lines((b"A", b"1"))


@pytest.mark.parametrize(
    ("path", "prefix", "replacement", "expected"),
    [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/", "", "/xyz", "/xyz"),
        ("/bar", "", "/xyz/", "/xyz/bar"),
        ("/", "", "/", "/"),
    ],
)
def test_a_prefix_is_replaced_as_in_the_table_of_gateway_api(path, prefix, replacement, expected):
    assert rewrite_target(UrlRewrite(replace_prefix_match=replacement), path.encode(), prefix.encode()) == expected.encode()


@pytest.mark.parametrize("query", [b"", b"?", b"?a=/foo&b=%2F", b"?a?b"])
def test_the_query_is_kept_byte_for_byte(query):
    assert rewrite_target(UrlRewrite(replace_prefix_match="/x"), b"/foo/bar" + query, b"/foo") == b"/x/bar" + query
    assert rewrite_target(UrlRewrite(replace_full_path="/x"), b"/foo/bar" + query, b"/foo") == b"/x" + query


def test_a_rewrite_of_the_hostname_alone_leaves_the_target_alone():
    assert rewrite_target(UrlRewrite(hostname="h"), b"/%7e/../x", b"") == b"/%7e/../x"


def test_what_follows_the_prefix_keeps_its_bytes():
    assert rewrite_target(UrlRewrite(replace_prefix_match="/x"), b"/foo/%7e//a%2fb;c", b"/foo") == b"/x/%7e//a%2fb;c"


def test_a_prefix_that_is_spelled_otherwise_in_the_raw_path_is_cut_from_the_normalised_one():
    assert rewrite_target(UrlRewrite(replace_prefix_match="/x"), b"/%66oo/b", b"/foo") == b"/x/b"


@pytest.mark.parametrize("target", [b"/public/../public/../admin", b"/public/%2e%2E/admin", b"/x/../../admin", b"/./admin"])
def test_dot_segments_cannot_climb_out_of_the_new_prefix(target):
    assert rewrite_target(UrlRewrite(replace_prefix_match="/tenant"), target, b"") == b"/tenant/admin"


@pytest.mark.parametrize("target", [b"*", b""])
def test_targets_without_a_path_stay(target):
    assert rewrite_target(UrlRewrite(replace_full_path="/x"), target, b"") == target


def test_a_path_of_the_document_is_written_as_a_uri():
    assert rewrite_target(UrlRewrite(replace_full_path="/a b/é%2F"), b"/", b"") == b"/a%20b/%C3%A9%2F"
    assert b"\r" not in rewrite_target(UrlRewrite(replace_full_path="/a\r\nX: y"), b"/", b"")


@given(st.lists(st.sampled_from([b"a", b"..", b".", b"%2e%2e", b"%2F", b"", b"%61", b".x"]), max_size=6))
def test_a_rewritten_path_normalises_to_the_new_prefix_and_the_old_rest(parts):
    target = b"/" + b"/".join(parts)
    rest = normalize_path(target)
    expected = b"/new" if rest == b"/" else b"/new" + rest
    assert normalize_path(rewrite_target(UrlRewrite(replace_prefix_match="/new"), target, b"")) == expected


def location(redirect, *, scheme="http", host=b"shop.test", port=None, target=b"/foo/bar?q=1"):
    return redirect_location(redirect, scheme, host, port, target, b"/foo")


def test_a_redirect_keeps_what_the_filter_does_not_name():
    assert location(Redirect()) == b"http://shop.test/foo/bar?q=1"
    assert location(Redirect(), port=8080) == b"http://shop.test:8080/foo/bar?q=1"


def test_a_new_scheme_brings_its_well_known_port():
    assert location(Redirect(scheme="https"), port=8080) == b"https://shop.test/foo/bar?q=1"


def test_the_port_of_the_filter_goes_before_all():
    assert location(Redirect(scheme="https", port=8443), port=80) == b"https://shop.test:8443/foo/bar?q=1"


@pytest.mark.parametrize(("scheme", "port"), [("http", 80), ("https", 443)])
def test_a_port_that_goes_without_saying_is_left_out(scheme, port):
    assert location(Redirect(scheme=scheme, port=port)) == scheme.encode() + b"://shop.test/foo/bar?q=1"
    assert location(Redirect(), scheme=scheme, port=port) == scheme.encode() + b"://shop.test/foo/bar?q=1"


def test_a_well_known_port_of_the_other_scheme_is_said():
    assert location(Redirect(port=80), scheme="https") == b"https://shop.test:80/foo/bar?q=1"


def test_a_redirect_replaces_hostname_and_path():
    assert location(Redirect(hostname="new.test", replace_full_path="/x")) == b"http://new.test/x?q=1"
    assert location(Redirect(replace_prefix_match="/y")) == b"http://shop.test/y/bar?q=1"


def test_an_ipv6_address_gets_its_brackets():
    assert location(Redirect(), host=b"::1", port=8080) == b"http://[::1]:8080/foo/bar?q=1"
    assert location(Redirect(), host=b"[::1]") == b"http://[::1]/foo/bar?q=1"


def test_without_a_host_the_location_is_relative_and_never_another_host():
    assert location(Redirect(), host=b"", target=b"/a?b") == b"/a?b"
    assert location(Redirect(), host=b"", target=b"//evil.test/x") == b"/.//evil.test/x"


def test_asterisk_redirects_to_the_root():
    assert location(Redirect(scheme="https"), target=b"*") == b"https://shop.test/"
