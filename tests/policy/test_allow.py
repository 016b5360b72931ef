"""Where a Forward listener may go: product.md 3.1 and 3.9, http.md section 5."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.model.snapshot import AllowEntry
from sidecar.policy.allow import HostDecision, check_address, decide_host, literal_address

WEB = frozenset({80, 443})
NAMED, BY_ADDRESS, REFUSED = HostDecision.NAMED, HostDecision.BY_ADDRESS, HostDecision.REFUSED


def host(name, ports=WEB):
    return AllowEntry(host=name, network=None, ports=ports)


def cidr(text, ports=WEB):
    return AllowEntry(host=None, network=ip_network(text), ports=ports)


def reaches(allow, address, *, port=443, named=True):
    return check_address(allow, ip_address(address), port, named=named)


def test_an_empty_list_allows_nothing():
    assert decide_host((), "example.com", 443) is REFUSED
    assert decide_host((), "93.184.216.34", 443) is REFUSED
    assert not reaches((), "93.184.216.34", named=False)


def test_a_host_is_allowed_on_the_ports_of_its_entry_only():
    allow = (host("a.test"), host("b.test", frozenset({8080})), host("c.test", None))
    assert [decide_host(allow, "a.test", port) for port in (443, 80, 8080)] == [NAMED, NAMED, REFUSED]
    assert [decide_host(allow, "b.test", port) for port in (443, 8080)] == [REFUSED, NAMED]
    assert decide_host(allow, "c.test", 1) is NAMED


@pytest.mark.parametrize(
    ("name", "decision"),
    [
        ("api.example.com", NAMED),
        ("a.b.EXAMPLE.com.", NAMED),
        ("example.com", REFUSED),
        ("xexample.com", REFUSED),
        ("api.example.com.evil", REFUSED),
    ],
)
def test_globs_match_whole_names_without_regard_to_case(name, decision):
    assert decide_host((host("*.example.com"),), name, 443) is decision


def test_a_name_that_is_not_listed_can_be_allowed_by_a_network_of_the_port():
    allow = (cidr("203.0.113.0/24"),)
    assert decide_host(allow, "any.test", 443) is BY_ADDRESS
    assert decide_host(allow, "any.test", 8080) is REFUSED
    assert reaches(allow, "203.0.113.9", named=False)
    assert not reaches(allow, "203.0.114.9", named=False)
    assert not reaches(allow, "203.0.113.9", port=8080, named=False)


def test_an_address_literal_is_decided_at_once():
    allow = (cidr("203.0.113.0/24"), cidr("2001:db8::/32"))
    assert decide_host(allow, "203.0.113.9", 443) is BY_ADDRESS
    assert decide_host(allow, "203.0.114.9", 443) is REFUSED
    assert decide_host(allow, "[2001:db8::1]", 443) is decide_host(allow, "2001:DB8::1", 443) is BY_ADDRESS


@pytest.mark.parametrize(
    "text",
    ["127.1", "127.0.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "1.2.3.4.5", "256.1.1.1", "a.0x1F", "0x", "127.1.", "1.0X"],
)
def test_other_spellings_of_an_address_are_refused_and_never_resolved(text):
    assert decide_host((host("*", None), cidr("0.0.0.0/0", None)), text, 443) is REFUSED


@pytest.mark.parametrize("text", ["", ".", "fe80::1%eth0", "[fe80::1%25eth0]", "a:b", "[a]", "u@h", "a/b", "%31%32%37.1"])
def test_what_is_no_host_is_refused(text):
    assert decide_host((host("*", None), cidr("::/0", None)), text, 443) is REFUSED


SPECIAL = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.0.1", "169.254.1.1", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.168.1.1",
    "198.18.0.1", "198.19.255.255", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fc00::1", "fd12::1", "fe80::1", "fec0::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1", "::7f00:1", "2001::1",
    "169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "::ffff:168.63.129.16",
]  # fmt: skip


@pytest.mark.parametrize("address", SPECIAL)
def test_special_addresses_are_prohibited_though_the_name_is_allowed(address):
    assert not reaches((host("*", None), host("metadata.google.internal", None)), address)


@pytest.mark.parametrize("address", SPECIAL)
def test_the_whole_internet_does_not_name_special_addresses(address):
    allow = (host("*", None), cidr("0.0.0.0/0", None), cidr("::/0", None))
    assert not reaches(allow, address)
    assert not reaches(allow, address, named=False)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "172.32.0.1", "100.63.0.1", "64:ff9b::808:808", "2002:808:808::1"]
)
def test_public_addresses_of_an_allowed_name_may_be_reached(address):
    assert reaches((host("*.test"),), address)


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("10.0.0.0/8", "10.1.2.3"),
        ("10.1.0.0/16", "10.1.2.3"),
        ("127.0.0.1/32", "127.0.0.1"),
        ("10.0.0.0/8", "::ffff:10.1.2.3"),
        ("10.0.0.0/8", "64:ff9b::a01:203"),
        ("fd00::/8", "fd12::1"),
        ("169.254.169.254/32", "169.254.169.254"),
        ("169.254.0.0/16", "169.254.7.7"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_network_inside_a_special_range_names_it(network, address, named):
    assert reaches((cidr(network),), address, named=named)


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("169.254.0.0/16", "169.254.169.254"),
        ("100.64.0.0/10", "100.100.100.200"),
        ("fd00::/8", "fd00:ec2::254"),
        ("10.0.0.0/7", "10.0.0.1"),
    ],
)
def test_metadata_addresses_are_named_by_nothing_wider_than_themselves(network, address):
    assert not reaches((cidr(network),), address)


def test_a_network_names_a_special_address_for_its_own_ports_only():
    assert not reaches((host("*", None), cidr("10.0.0.0/8", frozenset({8080}))), "10.0.0.1", port=443)


def test_an_entry_that_is_an_address_names_itself():
    allow = (host("127.0.0.1", frozenset({8000})), host("::1", None))
    assert decide_host(allow, "127.0.0.1", 8000) is NAMED
    assert reaches(allow, "127.0.0.1", port=8000)
    assert reaches(allow, "::1", port=1)
    assert not reaches(allow, "127.0.0.2", port=8000)


def test_a_private_address_of_a_plainly_named_host_needs_a_network_too():
    allow = (host("orders.shop.svc"),)
    assert decide_host(allow, "orders.shop.svc", 443) is NAMED
    assert not reaches(allow, "10.96.0.7")
    assert reaches((*allow, cidr("10.96.0.0/12")), "10.96.0.7")


def test_literals_are_read_strictly():
    assert literal_address("[::1]") == ip_address("::1")
    assert [literal_address(text) for text in ("127.1", "010.0.0.1", "fe80::1%eth0", "a.test", "")] == [None] * 5


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_and_its_disguises_are_judged_alike(address):
    allow = (host("*"),)
    number = int(address)
    disguises = [ip_address((0xFFFF << 32) | number), ip_address((0x0064FF9B << 96) | number), ip_address((0x2002 << 112) | (number << 80))]
    verdict = check_address(allow, address, 443, named=True)
    assert [check_address(allow, other, 443, named=True) for other in disguises] == [verdict] * 3
    if (
        address.is_private and not address.is_global and int(address) >> 8 not in (0xC00002, 0xC63364, 0xCB0071)
    ):  # documentation ranges lead nowhere
        assert not verdict
