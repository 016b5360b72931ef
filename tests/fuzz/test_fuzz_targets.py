"""The targets of fuzzing hold for all their seeds and for some changes to each; `make fuzz` goes on from there."""

from __future__ import annotations

import random
import re
import zlib

import pytest

from fuzz import seeds
from fuzz.targets import TARGETS


def _plain(data: bytes, limit: int) -> bytes:
    """What libFuzzer's own mutator does, in small: one byte changed."""
    if not data:
        return b"\x00"
    draw = random.Random(zlib.crc32(data))
    at = draw.randrange(len(data))
    return (data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :])[:limit]


@pytest.mark.parametrize("name", TARGETS)
def test_the_invariant_of_a_target_holds_for_its_seeds_and_for_changes_to_them(name):
    target, given = TARGETS[name], seeds.of(name)
    assert given
    for number, seed in enumerate([b"", *given]):
        target(seed)
        for change in range(3):
            target(seeds.mutate(seed, 4096, number * 3 + change, _plain))


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_states_its_invariant_in_a_sentence(name):
    assert re.match(r"[A-Z].+\.", (TARGETS[name].__doc__ or "").split("\n")[0])
