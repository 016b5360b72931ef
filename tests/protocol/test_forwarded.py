"""X-Forwarded-*, X-Real-IP and Forwarded: the whole of product.md 3.8."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.model.snapshot import Forwarded
from sidecar.protocol.forwarded import ForwardedPolicy, believed, parse_node, real_ip
from sidecar.protocol.hop_by_hop import sift

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
PEER = b"10.1.2.3"


def run(mode, trusted, fields, peer=PEER, host=b"shop"):
    """What the upstream would get of these fields, as (kept, written)."""
    rules = ForwardedPolicy(mode, trusted).for_peer(None if peer == b"unix" else ip_address(peer.decode()))
    triples = [(name, name.lower(), value) for name, value in fields]
    kept, found = sift(triples, (), rules.taken)
    return [name for name, _, _ in kept], dict(rules.apply(found, peer, host))


GIVEN = [
    (b"X-Forwarded-For", b"198.51.100.7"),
    (b"x-forwarded-for", b"203.0.113.9"),
    (b"X-Forwarded-Proto", b"https"),
    (b"X-Forwarded-Host", b"www.example.com"),
    (b"Forwarded", b"for=198.51.100.7"),
    (b"A", b"b"),
]


def test_without_a_list_everybody_is_believed():
    assert believed(None, None)
    assert believed(None, ip_address("203.0.113.1"))


def test_with_a_list_only_its_members_are_believed():
    assert believed(TRUSTED, ip_address("10.9.9.9"))
    assert believed(TRUSTED, ip_address("::ffff:10.9.9.9"))
    assert believed(TRUSTED, ip_address("fd00::1"))
    assert not believed(TRUSTED, ip_address("11.0.0.1"))
    assert not believed(TRUSTED, None)
    assert not believed((), ip_address("127.0.0.1"))


def test_a_request_without_any_is_described():
    expected = {b"X-Forwarded-For": PEER, b"X-Forwarded-Proto": b"http", b"X-Forwarded-Host": b"shop", b"X-Real-IP": PEER}
    for mode, trusted in [(Forwarded.APPEND, None), (Forwarded.APPEND, TRUSTED), (Forwarded.APPEND, ()), (Forwarded.SET, None)]:
        assert run(mode, trusted, [(b"A", b"b")]) == ([b"A"], expected)


def test_a_believed_peers_words_are_kept_and_the_chain_grows():
    kept, written = run(Forwarded.APPEND, None, GIVEN)
    assert kept == [b"Forwarded", b"A"]
    assert written == {
        b"X-Forwarded-For": b"198.51.100.7, 203.0.113.9, " + PEER,
        b"X-Forwarded-Proto": b"https",
        b"X-Forwarded-Host": b"www.example.com",
        b"X-Real-IP": PEER,
    }


def test_the_real_address_is_the_rightmost_that_is_not_trusted():
    assert run(Forwarded.APPEND, TRUSTED, GIVEN)[1][b"X-Real-IP"] == b"203.0.113.9"
    chain = [(b"X-Forwarded-For", b"198.51.100.7, 203.0.113.9, 10.0.0.1, 10.0.0.2")]
    assert run(Forwarded.APPEND, TRUSTED, chain)[1][b"X-Real-IP"] == b"203.0.113.9"


def test_a_believed_real_address_is_kept():
    assert run(Forwarded.APPEND, TRUSTED, [*GIVEN, (b"X-Real-IP", b"1.2.3.4")])[1][b"X-Real-IP"] == b"1.2.3.4"


def test_a_peer_that_is_not_believed_is_described_anew():
    kept, written = run(
        Forwarded.APPEND, (), [*GIVEN, (b"X-Real-IP", b"1.2.3.4"), (b"X_Forwarded_Prefix", b"/x"), (b"X-Forwarded-Port", b"1")]
    )
    assert kept == [b"A"]
    assert written == {b"X-Forwarded-For": PEER, b"X-Forwarded-Proto": b"http", b"X-Forwarded-Host": b"shop", b"X-Real-IP": PEER}


def test_set_writes_our_values_even_for_the_believed():
    kept, written = run(Forwarded.SET, None, [*GIVEN, (b"X-Real-IP", b"1.2.3.4")])
    assert kept == [b"A"]
    assert written == {b"X-Forwarded-For": PEER, b"X-Forwarded-Proto": b"http", b"X-Forwarded-Host": b"shop", b"X-Real-IP": PEER}


@pytest.mark.parametrize("trusted", [None, (), TRUSTED])
def test_preserve_touches_nothing_and_off_removes_all(trusted):
    assert run(Forwarded.PRESERVE, trusted, GIVEN) == ([name for name, _ in GIVEN], {})
    assert run(Forwarded.OFF, trusted, GIVEN) == ([b"A"], {})


def test_a_unix_socket_has_no_address_to_tell():
    assert run(Forwarded.APPEND, None, [], peer=b"unix")[1][b"X-Forwarded-For"] == b"unknown"
    written = run(Forwarded.APPEND, None, [(b"X-Forwarded-For", b"1.2.3.4")], peer=b"unix")[1]
    assert written[b"X-Forwarded-For"] == b"1.2.3.4, unknown"
    assert b"X-Real-IP" not in written


def test_an_http_10_request_without_host_has_no_forwarded_host():
    assert b"X-Forwarded-Host" not in run(Forwarded.APPEND, None, [], host=b"")[1]
    assert b"X-Forwarded-Host" not in run(Forwarded.APPEND, None, [(b"X-Forwarded-For", b"1.2.3.4")], host=b"")[1]


def test_the_scheme_is_the_listeners():
    rules = ForwardedPolicy(Forwarded.APPEND, None, b"https").for_peer(None)
    assert (b"X-Forwarded-Proto", b"https") in rules.apply({}, b"unix", b"")
    assert rules.believed


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        (b"1.1.1.1, 10.0.0.1", b"1.1.1.1"),
        (b"10.0.0.9, 10.0.0.1", b"10.0.0.9"),
        (b"1.1.1.1, unknown, 10.0.0.1", b"10.0.0.1"),
        (b"1.1.1.1,, 10.0.0.1", b"10.0.0.1"),
        (b"evil\xff, 10.0.0.1", b"10.0.0.1"),
        (b"1.1.1.1:8080, 10.0.0.1", b"1.1.1.1"),
        (b"[2001:db8::1]:99, 10.0.0.1", b"2001:db8::1"),
        (b"2001:db8::1,10.0.0.1", b"2001:db8::1"),
        (b"1.1.1.1, ::ffff:10.0.0.5, 10.0.0.1", b"1.1.1.1"),
        (b"1.1.1.1, " + b"10.0.0.2, " * 100 + b"10.0.0.1", b"10.0.0.2"),
    ],
)
def test_the_chain_is_believed_only_as_far_as_trusted_hops_vouch_for_it(chain, expected):
    assert real_ip(TRUSTED, chain, b"10.0.0.1") == expected


def test_what_is_no_address_is_none():
    assert parse_node(b"unknown") is None
    assert parse_node(b"_hidden") is None
    assert parse_node(b"127.1") is None
    assert parse_node(b" 127.0.0.1 ") == ip_address("127.0.0.1")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(list(Forwarded)), st.sampled_from([None, (), TRUSTED]))
def test_whatever_the_chain_says_our_address_ends_it_and_the_real_one_is_an_address(chain, mode, trusted):
    written = run(mode, trusted, [(b"X-Forwarded-For", chain)])[1]
    if written:
        assert written[b"X-Forwarded-For"].rpartition(b",")[2].strip() == PEER
        assert parse_node(written[b"X-Real-IP"]) is not None


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (b'Hash=00;Subject="CN=a,O=b";URI=spiffe://a', True),
        (b'Hash=00;Subject="a \\"b\\" c"', True),
        (b",;,", True),
        (b"a\\", True),
        (b'Hash=00;URI=spiffe://admin;Subject="', False),
        (b'Hash=00;Subject="a\\"', False),
        (b'"a" "b', False),
        (b'"' * 30_001, False),
        (b'"a' * 15_001 + b"\\", False),
    ],
)
def test_what_a_peer_says_about_certificates_cannot_swallow_what_is_ours(said, kept):
    rules = ForwardedPolicy(Forwarded.APPEND, None, b"https", certified=True).for_peer(ip_address("10.1.2.3"))
    value = rules.client_certificate({b"x-forwarded-client-cert": said}, b"Hash=11")
    assert value == (said + b",Hash=11" if kept else b"Hash=11")
