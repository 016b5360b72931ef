"""Consistent hashing: what is hashed, and that keys stay where they are."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter

import pytest

from sidecar.model.endpoint import Endpoint, EndpointState
from sidecar.model.head import RequestHead
from sidecar.model.snapshot import Balancing, HashOn, LoadBalancer
from sidecar.policy.balancer import hash_key, make_balancer
from sidecar.policy.hashing import Ring

KEYS = [b"user-%d" % number for number in range(3000)]


def endpoints(count, *, weight=1):
    return tuple(Endpoint(f"10.0.0.{number}", 80, weight=weight) for number in range(count))


def owners(made, members):
    return {key: made.pick(members, random.random, 1.0, key, ()) for key in KEYS}


def consistent():
    return make_balancer(LoadBalancer(policy=Balancing.CONSISTENT_HASH))


def head(target=b"/a/b?user=7&user=8", *lines):
    made = RequestHead(b"GET", target, 1, [(name, name.lower(), value) for name, value in lines])
    made.path = target
    return made


@pytest.mark.parametrize(
    ("on", "name", "key"),
    [
        (HashOn.HEADER, "X-User", b"1, 2"),
        (HashOn.HEADER, "x-absent", b""),
        (HashOn.COOKIE, "session", b"s=1"),
        (HashOn.COOKIE, "absent", b""),
        (HashOn.QUERY, "user", b"7"),
        (HashOn.QUERY, "absent", b""),
        (HashOn.SOURCE_IP, "", b"10.1.2.3"),
        (HashOn.PATH, "", b"/a/b"),
        (None, "", b""),
    ],
)
def test_what_is_hashed_is_what_hash_on_names(on, name, key):
    request = head(
        b"/a/b?user=7&user=8", (b"x-USER", b"1"), (b"Cookie", b"a=b; session=s=1"), (b"X-User", b"2"), (b"Cookie", b"session=late")
    )
    assert hash_key(LoadBalancer(policy=Balancing.CONSISTENT_HASH, hash_on=on, hash_name=name), request, "10.1.2.3") == key


def test_keys_are_spread_evenly():
    shares = Counter(owners(consistent(), endpoints(10)).values())
    assert all(180 < share < 420 for share in shares.values())
    assert len(shares) == 10


def test_when_an_endpoint_comes_keys_move_only_to_it():
    members = endpoints(10)
    made = consistent()
    before, after = owners(made, members[:9]), owners(made, members)
    moved = [key for key in KEYS if before[key] is not after[key]]
    assert all(after[key] is members[9] for key in moved)
    assert 150 < len(moved) < 450


def test_when_an_endpoint_goes_only_its_keys_move():
    members = endpoints(10)
    made = consistent()
    before, after = owners(made, members), owners(made, members[1:])
    assert all(before[key] is members[0] for key in KEYS if before[key] is not after[key])


def test_when_an_endpoint_is_unhealthy_only_its_keys_move_and_they_come_back():
    members = endpoints(10)
    made = consistent()
    before = owners(made, members)
    members[4].state = EndpointState.UNHEALTHY
    meanwhile = owners(made, members)
    assert all(before[key] is members[4] for key in KEYS if before[key] is not meanwhile[key])
    assert len({meanwhile[key] for key in KEYS if before[key] is members[4]}) > 5
    members[4].state = EndpointState.HEALTHY
    assert owners(made, members) == before


def test_the_order_of_the_endpoints_does_not_matter():
    members = endpoints(10)
    assert owners(consistent(), members) == owners(consistent(), members[::-1])


def test_the_ring_is_kept_while_labels_and_weights_are_the_same():
    ring = Ring(endpoints(3))
    again = endpoints(3)
    assert ring.updated(again) is ring
    assert ring.owner(b"k") in again
    assert ring.updated(endpoints(4)) is not ring
    assert ring.updated(endpoints(3, weight=2)) is not ring


def test_without_a_key_the_choice_is_random():
    members = endpoints(4)
    made = consistent()
    rng = random.Random(2).random
    shares = Counter(made.pick(members, rng, 1.0, b"", ()) for _ in range(4000))
    assert all(800 < shares[member] < 1200 for member in members)


def test_every_process_finds_the_same_owner():
    code = (
        "from sidecar.model.endpoint import Endpoint; from sidecar.policy.hashing import Ring\n"
        "ring = Ring([Endpoint(f'10.0.0.{n}', 80) for n in range(10)])\n"
        "print(*(ring.owner(b'%d' % n).label for n in range(50)))"
    )
    said = {
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env={"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    }
    assert said == {(" ".join(Ring(endpoints(10)).owner(b"%d" % number).label for number in range(50)) + "\n").encode()}


@pytest.mark.parametrize("weight", [1, 100, 1_000_000_000])
def test_the_ring_stays_small_whatever_the_weights(weight):
    members = (*endpoints(50, weight=weight), Endpoint("10.1.1.1", 80, weight=weight + 1))
    ring = Ring(members)
    assert len(ring._points) <= 16384 + len(members)
    assert len({ring.owner(key) for key in KEYS}) == 51
