"""Load balancing: health, weights, untried first, and the character of each policy. Seeded."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.model.endpoint import Endpoint, EndpointState
from sidecar.model.snapshot import Balancing, LoadBalancer
from sidecar.policy.balancer import make_balancer

ALL = list(Balancing)


def balancer(policy):
    return make_balancer(LoadBalancer(policy=policy))


def endpoints(*weights):
    return tuple(Endpoint(f"10.0.0.{number}", 80, weight=weight) for number, weight in enumerate(weights))


def counted(made, members, *, times=4000, now=1.0, key=None, seed=5):
    """Picks per endpoint, in the order of `members`; keys differ from pick to pick."""
    rng = random.Random(seed).random
    picks = Counter(made.pick(members, rng, now, key or b"%d" % turn, ()) for turn in range(times))
    return [picks[member] for member in members]


@pytest.mark.parametrize("policy", ALL)
def test_without_endpoints_there_is_no_choice(policy):
    assert balancer(policy).pick((), random.random, 1.0, b"k", ()) is None


@pytest.mark.parametrize("policy", ALL)
@pytest.mark.parametrize("weights", [(1, 1, 1), (3, 1, 2)])
def test_only_healthy_endpoints_are_picked(policy, weights):
    members = endpoints(*weights)
    made = balancer(policy)
    for state in (EndpointState.UNHEALTHY, EndpointState.EJECTED, EndpointState.DRAINING):
        members[0].state = state
        assert counted(made, members, times=200)[0] == 0
    for member in members:
        member.state = EndpointState.UNHEALTHY
    assert made.pick(members, random.random, 1.0, b"k", ()) is None


@pytest.mark.parametrize("policy", ALL)
def test_the_share_of_an_unhealthy_endpoint_is_spread_over_all_others(policy):
    members = endpoints(1, 1, 1, 1)
    members[1].state = EndpointState.UNHEALTHY
    shares = counted(balancer(policy), members)
    assert shares[1] == 0
    assert all(1000 < share < 1700 for share in (shares[0], shares[2], shares[3]))


@pytest.mark.parametrize("policy", ALL)
def test_untried_endpoints_come_first_and_tried_ones_when_nothing_else_is_left(policy):
    members = endpoints(1, 1, 1)
    made = balancer(policy)
    rng = random.Random(3).random
    for turn in range(50):
        key = b"%d" % turn
        first = made.pick(members, rng, 1.0, key, ())
        second = made.pick(members, rng, 1.0, key, [first])
        third = made.pick(members, rng, 1.0, key, [first, second])
        assert {first, second, third} == set(members)
        assert made.pick(members, rng, 1.0, key, members) in members


@pytest.mark.parametrize("policy", ALL)
def test_an_unhealthy_untried_endpoint_does_not_keep_a_tried_one_from_being_picked(policy):
    members = endpoints(1, 1)
    members[1].state = EndpointState.EJECTED
    assert balancer(policy).pick(members, random.random, 1.0, b"k", {members[0]}) is members[0]


@pytest.mark.parametrize("policy", ALL)
@pytest.mark.parametrize("weights", [(1, 0), (0, 5), (0, 1, 0)])
def test_an_endpoint_without_weight_gets_nothing(policy, weights):
    members = endpoints(*weights)
    assert all(
        (share > 0) == (member.weight > 0) for share, member in zip(counted(balancer(policy), members, times=50), members, strict=True)
    )
    members = endpoints(0, 0)
    assert balancer(policy).pick(members, random.random, 1.0, b"k", ()) is None


@pytest.mark.parametrize("policy", [Balancing.ROUND_ROBIN, Balancing.RANDOM, Balancing.LEAST_REQUEST, Balancing.CONSISTENT_HASH])
def test_idle_endpoints_are_picked_in_proportion_to_their_weights(policy):
    shares = counted(balancer(policy), endpoints(1, 2, 5), times=8000)
    assert all(abs(share - expected) < 300 for share, expected in zip(shares, (1000, 2000, 5000), strict=True))


@pytest.mark.parametrize("policy", ALL)
def test_a_new_set_of_endpoints_is_taken_over(policy):
    made = balancer(policy)
    old, new = endpoints(1, 2), endpoints(1, 1, 1)
    counted(made, old, times=10)
    assert all(share > 0 for share in counted(made, new, times=300))
    changing = list(old)
    counted(made, changing, times=10)
    changing.pop()
    assert counted(made, changing, times=10) == [10]


def test_round_robin_takes_turns():
    members = endpoints(1, 1, 1)
    made = balancer(Balancing.ROUND_ROBIN)
    rng = random.Random(1).random
    turns = [made.pick(members, rng, 1.0, b"", ()) for _ in range(9)]
    assert turns[:3] == turns[3:6] == turns[6:]
    assert set(turns) == set(members)


def test_round_robin_begins_anywhere_so_that_many_sidecars_do_not_begin_together():
    members = endpoints(*[1] * 8)
    assert len({balancer(Balancing.ROUND_ROBIN).pick(members, random.Random(seed).random, 1.0, b"", ()) for seed in range(40)}) > 4


def test_weighted_round_robin_is_smooth():
    members = endpoints(5, 1, 1)
    made = balancer(Balancing.ROUND_ROBIN)
    order = "".join("abc"[members.index(made.pick(members, random.random, 1.0, b"", ()))] for _ in range(14))
    assert order == "aabacaa" * 2


def test_least_request_never_takes_the_busiest_of_all():
    members = endpoints(1, 1, 1, 1)
    members[2].active = 100
    assert counted(balancer(Balancing.LEAST_REQUEST), members)[2] == 0


def test_least_request_takes_the_free_one_of_two_whatever_the_weights():
    members = endpoints(1, 9)
    members[1].active = 10
    assert counted(balancer(Balancing.LEAST_REQUEST), members, times=100) == [100, 0]


def test_least_request_keeps_requests_in_flight_in_proportion_to_weights():
    members = endpoints(1, 3)
    made = balancer(Balancing.LEAST_REQUEST)
    rng = random.Random(9)
    flying = []
    for _ in range(3000):
        if len(flying) == 40:
            flying.pop(rng.randrange(40)).active -= 1
        chosen = made.pick(members, rng.random, 1.0, b"", ())
        chosen.active += 1
        flying.append(chosen)
    assert abs(members[1].active - 30) <= 3


def test_peak_ewma_avoids_the_slow_one():
    members = endpoints(1, 1, 1)
    made = balancer(Balancing.PEAK_EWMA)
    for member, seconds in zip(members, (0.01, 0.5, 0.01), strict=True):
        made.finished(member, seconds, 1.0)
    assert counted(made, members)[1] == 0


def test_peak_ewma_takes_a_peak_at_once_and_forgets_it_slowly():
    (endpoint,) = endpoints(1)
    made = balancer(Balancing.PEAK_EWMA)
    made.finished(endpoint, 0.01, 0.0)
    made.finished(endpoint, 2.0, 1.0)
    assert endpoint.ewma == 2.0
    made.finished(endpoint, 0.01, 2.0)
    assert 1.7 < endpoint.ewma < 1.9
    made.finished(endpoint, 0.01, 60.0)
    assert endpoint.ewma < 0.05


def test_peak_ewma_tries_a_slow_endpoint_again_after_a_while():
    members = endpoints(1, 1)
    made = balancer(Balancing.PEAK_EWMA)
    made.finished(members[0], 1.0, 0.0)
    made.finished(members[1], 0.1, 60.0)
    assert counted(made, members, now=60.0, times=100) == [100, 0]


def test_peak_ewma_multiplies_by_the_requests_in_flight():
    members = endpoints(1, 1)
    made = balancer(Balancing.PEAK_EWMA)
    made.finished(members[0], 0.01, 1.0)
    made.finished(members[1], 0.03, 1.0)
    members[0].active = 5
    assert counted(made, members, times=100) == [0, 100]


def test_peak_ewma_gives_a_newcomer_one_request_and_waits_for_its_answer():
    members = endpoints(1, 1)
    made = balancer(Balancing.PEAK_EWMA)
    made.finished(members[0], 0.2, 1.0)
    assert counted(made, members, times=20) == [0, 20]
    members[1].active = 1
    assert counted(made, members, times=20) == [20, 0]


def test_an_endpoint_that_fails_fast_does_not_look_fast():
    members = endpoints(1, 1)
    made = balancer(Balancing.PEAK_EWMA)
    made.finished(members[0], 0.001, 1.0, failed=True)
    made.finished(members[1], 0.05, 1.0)
    assert counted(made, members, times=50) == [0, 50]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(ALL),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(list(EndpointState)), st.integers(0, 3)), max_size=6),
    st.sets(st.integers(0, 5)),
    st.randoms(use_true_random=False),
    st.binary(max_size=3),
)
def test_a_pick_is_always_healthy_weighted_and_untried_if_possible(policy, shapes, tried, rng, key):
    members = endpoints(*(weight for weight, _, _ in shapes))
    for member, (_, state, active) in zip(members, shapes, strict=True):
        member.state, member.active = state, active
    exclude = [members[index] for index in tried if index < len(members)]
    good = [member for member in members if member.state is EndpointState.HEALTHY and member.weight > 0]
    wanted = [member for member in good if member not in exclude] or good
    made = balancer(policy)
    for _ in range(5):
        picked = made.pick(members, rng.random, 1.0, key, exclude)
        assert picked in wanted if wanted else picked is None
