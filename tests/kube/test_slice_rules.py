"""Which addresses of a Service get requests, by its EndpointSlices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slice_objects import endpoint, endpoint_slice

from sidecar.kube.slice_rules import ANYWHERE, Merged, Place, merge, read_slice

HTTP = {"name": "http", "port": 8080, "protocol": "TCP"}


def merged(*slices, port="http", place=ANYWHERE) -> Merged:
    return merge([read_slice(one) for one in slices], port, place)


def hosts(*slices, **how) -> list[str]:
    found = merged(*slices, **how)
    assert bool(found.addresses) != bool(found.problem)
    return [address.host for address in found.addresses]


def problem(*slices, port="http") -> str:
    found = merged(*slices, port=port)
    assert found.addresses == ()
    return found.problem


# Conditions


@pytest.mark.parametrize(
    ("conditions", "taken"),
    [
        ({}, True),
        ({"ready": None}, True),
        ({"ready": True}, True),
        ({"ready": True, "serving": False, "terminating": True}, True),  # publishNotReadyAddresses: the author's own wish
        ({"ready": False}, False),
        ({"ready": False, "serving": True}, False),
        ({"ready": False, "terminating": True}, True),
        ({"ready": False, "serving": None, "terminating": True}, True),
        ({"ready": False, "serving": True, "terminating": True}, True),
        ({"ready": False, "serving": True, "terminating": None}, False),
        ({"ready": False, "serving": False, "terminating": True}, False),
    ],
)
def test_an_endpoint_is_taken_when_it_is_ready_or_else_when_it_serves_while_it_terminates(conditions, taken):
    assert hosts(endpoint_slice(endpoint("10.0.0.1", **conditions))) == (["10.0.0.1"] if taken else [])


def test_terminating_endpoints_are_used_only_while_no_other_is_ready():
    leaving = endpoint("10.0.0.1", ready=False, serving=True, terminating=True)
    assert hosts(endpoint_slice(leaving, "10.0.0.2")) == ["10.0.0.2"]
    assert hosts(endpoint_slice(leaving, endpoint("10.0.0.2", ready=False))) == ["10.0.0.1"]


# Several slices


def test_slices_are_merged_and_an_address_that_is_in_two_of_them_is_one():
    first = endpoint_slice("10.0.0.1", "10.0.0.2", name="a")
    second = endpoint_slice("10.0.0.2", "10.0.0.3", name="b")
    assert hosts(first, second) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert merged(first, second) == merged(second, first)


def test_while_an_endpoint_moves_between_slices_the_better_word_counts():
    old = endpoint_slice(endpoint("10.0.0.1", ready=False), name="a")
    new = endpoint_slice(endpoint("10.0.0.1", ready=True), name="b")
    assert hosts(old, new) == hosts(new, old) == ["10.0.0.1"]


def test_only_the_first_address_of_an_endpoint_has_a_meaning():
    assert hosts(endpoint_slice(endpoint("10.0.0.1", "10.0.0.9"))) == ["10.0.0.1"]


# Ports


def test_a_named_port_may_have_another_number_in_each_slice():
    old = endpoint_slice("10.0.0.1", name="a", ports=[HTTP])
    new = endpoint_slice("10.0.0.2", name="b", ports=[{**HTTP, "port": 9090}])
    assert [address[:2] for address in merged(old, new).addresses] == [("10.0.0.1", 8080), ("10.0.0.2", 9090)]


@pytest.mark.parametrize(
    ("ports", "wanted", "number"),
    [
        ([HTTP], 8080, 8080),
        ([{"port": 8080}], 8080, 8080),  # a Service with one port need not name it
        ([HTTP, {"name": "metrics", "port": 9100}], 9100, 9100),
        ([{"name": "", "port": None}], 1234, 1234),  # null: every port
        ([{"name": "", "port": None}], "http", None),
        ([HTTP], 80, None),  # the Service's own port is not in its slices
        ([HTTP], "grpc", None),
        ([{**HTTP, "protocol": "UDP"}], "http", None),
        ([{**HTTP, "protocol": "UDP"}, {**HTTP, "port": 1}], "http", 1),
        ([], "http", None),
        ([], 8080, None),
    ],
)
def test_a_port_is_found_by_name_or_by_the_number_that_the_pods_listen_on(ports, wanted, number):
    found = merged(endpoint_slice("10.0.0.1", ports=ports), port=wanted)
    assert [address.port for address in found.addresses] == ([] if number is None else [number])


def test_a_slice_without_the_port_is_left_out():
    assert hosts(endpoint_slice("10.0.0.1", name="a"), endpoint_slice("10.0.0.2", name="b", ports=[])) == ["10.0.0.1"]


# Families


def test_ipv4_is_preferred_and_the_same_pods_ipv6_address_is_its_alternate():
    four = endpoint_slice(endpoint("10.0.0.1", pod="one"), endpoint("10.0.0.2", pod="two"), name="a")
    six = endpoint_slice(endpoint("fd00:0::1", pod="one"), endpoint("fd00::3", pod="three"), name="b", family="IPv6")
    assert merged(six, four).addresses == (("10.0.0.1", 8080, "fd00::1"), ("10.0.0.2", 8080, ""))


def test_ipv6_is_used_where_there_is_nothing_else_that_is_ready():
    four = endpoint_slice(endpoint("10.0.0.1", ready=False), name="a")
    six = endpoint_slice("fd00::1", name="b", family="IPv6")
    assert hosts(four, six) == hosts(six) == ["fd00::1"]


def test_an_alternate_listens_on_the_same_port():
    four = endpoint_slice(endpoint("10.0.0.1", pod="one"))
    six = endpoint_slice(endpoint("fd00::1", pod="one"), family="IPv6", ports=[{**HTTP, "port": 9}])
    assert merged(four, six).addresses == (("10.0.0.1", 8080, ""),)


# Topology hints

HERE = Place(zone="a", node="n1")


@pytest.mark.parametrize(
    ("one", "two", "place", "taken"),
    [
        ({"zones": ["a"]}, {"zones": ["b"]}, HERE, "1"),
        ({"zones": ["a", "b"]}, {"zones": ["b"]}, Place(zone="b"), "12"),
        ({"zones": ["a"]}, {"zones": ["b"]}, Place(), "12"),  # nobody said where we are
        ({"zones": ["a"]}, {}, HERE, "12"),  # one without a hint: the controller is not done, or gave up
        ({"zones": ["b"]}, {"zones": ["c"]}, HERE, "12"),  # nothing for us
        ({"zones": ["a"]}, {"zones": ["b"], "ready": False}, HERE, "1"),
        ({"zones": ["a"]}, {"ready": False}, HERE, "1"),  # only ready ones need a hint
        ({"zones": ["b"], "nodes": ["n1"]}, {"zones": ["a"], "nodes": ["n2"]}, HERE, "1"),  # the node comes before the zone
        ({"zones": ["a"], "nodes": ["n2"]}, {"zones": ["b"], "nodes": ["n3"]}, HERE, "1"),  # and the zone is next
        ({"zones": ["a"], "nodes": ["n2"]}, {"zones": ["b"], "nodes": ["n1"]}, Place(zone="a"), "1"),
    ],
)
def test_hints_choose_our_node_then_our_zone_only_when_every_ready_endpoint_has_one(one, two, place, taken):
    found = hosts(endpoint_slice(endpoint("10.0.0.1", **one), endpoint("10.0.0.2", **two)), place=place)
    assert found == [f"10.0.0.{number}" for number in taken]


def test_hints_are_not_asked_when_only_terminating_endpoints_are_left():
    leaving = {"ready": False, "terminating": True}
    found = endpoint_slice(endpoint("10.0.0.1", zones=["a"], **leaving), endpoint("10.0.0.2", zones=["b"], **leaving))
    assert hosts(found, place=HERE) == ["10.0.0.1", "10.0.0.2"]


# Why there are none


@pytest.mark.parametrize(
    ("slices", "port", "said"),
    [
        ([], "http", "no EndpointSlices.*ExternalName: write dns:"),
        ([endpoint_slice("orders.example", family="FQDN")], "http", "host names.*write dns:"),
        ([endpoint_slice()], "http", "no endpoints"),
        ([endpoint_slice(endpoint("10.0.0.1", ready=False))], "http", "none of its endpoints is ready"),
        ([endpoint_slice("10.0.0.1")], "grpc", r"no TCP port grpc \(its EndpointSlices have: http \(8080\)\)"),
        ([endpoint_slice("10.0.0.1", ports=[{"port": 1}, {"name": "x", "port": None}])], "http", r"have: 1, x \(any number\)\)"),
        ([endpoint_slice("10.0.0.1", ports=[])], 80, r"have: none\)"),
    ],
)
def test_what_is_missing_is_said(slices, port, said):
    with pytest.raises(ValueError, match=said):
        raise ValueError(problem(*slices, port=port))


def test_host_name_slices_beside_others_are_left_out():
    assert hosts(endpoint_slice("orders.example", family="FQDN"), endpoint_slice("10.0.0.1", name="b")) == ["10.0.0.1"]


# What the API does not promise

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "port", "ready", "addresses", "uid"]), inner),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "addressType": st.sampled_from(["IPv4", "IPv6", "FQDN"]) | JUNK,
            "ports": st.lists(st.fixed_dictionaries({"name": JUNK, "port": JUNK, "protocol": JUNK})) | JUNK,
            "endpoints": st.lists(
                st.fixed_dictionaries(
                    {
                        "addresses": st.just(["10.0.0.1"]) | JUNK,
                        "conditions": JUNK,
                        "hints": st.dictionaries(st.just("forZones"), JUNK) | JUNK,
                    }
                )
            )
            | JUNK,
        },
    )
)
def test_whatever_an_object_holds_is_read_without_an_error(junk):
    merged(junk, port="http", place=HERE)
    merged(junk, port=80, place=HERE)


@pytest.mark.parametrize("address", ["", "localhost", "10.0.0.1/8", "010.0.0.1", "fd00::1", None, 7])
def test_what_is_no_address_of_the_slices_family_is_left_out(address):
    assert hosts(endpoint_slice(endpoint(address), "10.0.0.2")) == ["10.0.0.2"]
