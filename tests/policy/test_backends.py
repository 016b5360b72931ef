"""Weighted backends (Gateway API HTTPBackendRef.weight)."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy.backends import WeightedChoice


def never():
    raise AssertionError("no randomness is needed")


def test_when_every_weight_is_zero_nothing_is_picked():
    assert WeightedChoice([("a", 0), ("b", 0)]).pick(random.random) is None
    assert WeightedChoice([]).pick(random.random) is None


def test_a_single_backend_with_a_weight_is_picked_without_a_draw():
    assert WeightedChoice([("a", 0), ("b", 3)]).pick(never) == "b"


def test_backends_are_picked_in_proportion_to_their_weights():
    choice = WeightedChoice([("orders", 90), ("canary", 10), ("off", 0)])
    rng = random.Random(7).random
    counts = Counter(choice.pick(rng) for _ in range(10_000))
    assert 8_800 < counts["orders"] < 9_200
    assert counts["off"] == 0


@given(st.lists(st.integers(0, 1_000_000), min_size=1, max_size=5), st.floats(0, 1, exclude_max=True))
def test_whatever_is_drawn_a_backend_with_a_weight_is_picked(weights, drawn):
    picked = WeightedChoice(enumerate(weights)).pick(lambda: drawn)
    assert (picked is None and not any(weights)) or weights[picked] > 0
