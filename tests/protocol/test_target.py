"""Authorities and the normal form of paths."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.protocol.target import normalize_path, split_absolute, split_authority, valid_host


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/", b"/"),
        (b"/a/b?x=/../y", b"/a/b"),
        (b"/a?", b"/a"),
        (b"*", b"*"),
        (b"", b""),
        (b"/%41%7e%2E%5f%2D", b"/A~._-"),
        (b"/a%2fb%2Fc", b"/a%2Fb%2Fc"),
        (b"/%e4%C3", b"/%E4%C3"),
        (b"/%252e%252e/x", b"/%252e%252e/x"),
        (b"/%zz%", b"/%25zz%25"),
        (b"/%2%65", b"/%252e"),
        (b"/a/./b/../c", b"/a/c"),
        (b"/a/%2e%2e/c", b"/c"),
        (b"/a/..%2fc", b"/a/..%2Fc"),
        (b"/../../x", b"/x"),
        (b"/a/..", b"/"),
        (b"/a/b/.", b"/a/b/"),
        (b"/a/b/..", b"/a/"),
        (b"//a//b", b"//a//b"),
        (b"/a//../b", b"/a/b"),
        (b"/.hidden/..x/...", b"/.hidden/..x/..."),
        (b"/a/../admin", b"/admin"),
        (b"/a;b=1/c", b"/a;b=1/c"),
    ],
)
def test_a_path_is_matched_in_its_normal_form(path, expected):
    assert normalize_path(path) == expected


PATHS = st.lists(
    st.sampled_from([b"/", b".", b"..", b"%2e", b"%2E", b"%", b"2", b"e", b"65", b"%2f", b"a", b"?", b"%25", b"//", b"\\"]), max_size=14
)


@settings(max_examples=500, deadline=None)
@given(PATHS.map(lambda parts: b"/" + b"".join(parts)))
def test_normalising_twice_is_normalising_once_and_leaves_no_dot_segment(path):
    once = normalize_path(path)
    assert normalize_path(once) == once
    assert once.startswith(b"/")
    assert not {b".", b".."} & set(once.split(b"/"))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (b"a", (b"a", 80)),
        (b"a:", (b"a", 80)),
        (b"a:8080", (b"a", 8080)),
        (b"[::1]", (b"::1", 80)),
        (b"[::1]:", (b"::1", 80)),
        (b"[2001:db8::1]:443", (b"2001:db8::1", 443)),
    ],
)
def test_an_authority_is_a_name_and_a_port(host, expected):
    assert valid_host(host)
    assert split_authority(host, 80) == expected


@pytest.mark.parametrize("host", [b"", b"a:65536", b"a:000080", b"[1.2.3.4]", b"[]", b"[::1]]", b"a\n", b"a:80\n", b"[:::1]", b"a" * 262])
def test_what_is_no_authority_is_not_valid(host):
    assert not valid_host(host)


def test_an_absolute_target_has_scheme_authority_and_rest():
    assert split_absolute(b"HTTP://a:1?x") == (b"http", b"a:1", b"?x")
    assert split_absolute(b"http://a/b//c") == (b"http", b"a", b"/b//c")
    assert split_absolute(b"/a") is None
    assert split_absolute(b"a:80") is None
